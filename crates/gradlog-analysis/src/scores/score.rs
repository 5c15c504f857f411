//! The table of scores: what each is called, and which end of it comes first. `compute.rs` has the formulas' table.

use super::order::Order;

/// A score that gives each example one number from its own visits.
///
/// `t` runs over the visits of the example inside the window, `w_t` are the weights before that step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Score {
    /// `Σ_t η_t·clip_t·c_t·‖g(w_t)‖²`: what the example's own steps did to its own loss, to first order (Pruthi et al.
    /// 2020, §4.1, in the form over visits). High: mislabeled or odd. Exact norms, no error of a sketch. For steps of
    /// Adam, `Σ_t η_eff(t)·clip_t·c_t·‖D^{1/2} g(w_t)‖²` with `D = 1/(√v̂ + ε)`, if the visits have norms in its
    /// metric.
    SelfInfluence,
    /// Mean over `t` of `‖g(w_t)‖₂`, not squared (GraNd; Paul et al. 2021, §2). High: hard or mislabeled.
    /// The paper takes the mean over ten or more initializations at one early epoch, in test mode. Its claim that the
    /// norm *at initialization* already tells what to prune did not replicate (Kirsch 2023, arXiv 2303.14753).
    Grand,
    /// Mean over `t` of `‖p(w_t) − onehot(y)‖₂`, at most √2 (EL2N; Paul et al. 2021, §2). High: hard or mislabeled.
    /// The paper takes one early epoch (10 to 20), in test mode, and the mean over initializations.
    El2n,
    /// Times that the example was right at one presentation and wrong at the next (Toneva et al. 2019, §3).
    /// Never learned counts as infinity. High: hard or mislabeled.
    Forgetting,
    /// Area under the margin: mean over `t` of the label's logit minus the largest other (Pleiss et al. 2020, §3).
    /// Low or negative: mislabeled.
    Aum,
    /// Mean over `t` of the probability of the label (Swayamdipta et al. 2020, §2). Low: hard or mislabeled.
    Confidence,
    /// Population standard deviation over `t` of the probability of the label (Swayamdipta et al. 2020, §2). High:
    /// ambiguous.
    Variability,
    /// Mean over `t` of the share of right predictions (Swayamdipta et al. 2020, §2). Low: hard or mislabeled.
    Correctness,
    /// Mean over `t` of the loss. High: hard or mislabeled.
    Loss,
}

/// What is known of a score beside its formula.
struct Facts {
    name: &'static str,
    order: Order,
    /// Which end pruning calls hard.
    hard: Order,
    /// What a run must hold, in words.
    made_of: &'static str,
    extras: &'static [&'static str],
    /// One line: what it is, and which end is suspicious.
    about: &'static str,
}

/// What forgetting says beside its number, in the order of its rows' extras.
pub(super) const FORGETTING_EXTRAS: &[&str] = &[
    "never_learned",
    "unforgettable",
    "first_learned",
    "presentations_needed_to_learn",
    "learning_events",
    "mean_loss",
];

impl Score {
    /// Every score.
    pub const ALL: [Score; 9] = [
        Score::SelfInfluence,
        Score::Grand,
        Score::El2n,
        Score::Forgetting,
        Score::Aum,
        Score::Confidence,
        Score::Variability,
        Score::Correctness,
        Score::Loss,
    ];

    fn facts(self) -> Facts {
        let row = |name, order, hard, made_of, extras, about| Facts { name, order, hard, made_of, extras, about };
        use Order::{HighestFirst, LowestFirst};
        match self {
            Score::SelfInfluence => row(
                "self-influence",
                HighestFirst,
                HighestFirst,
                "gradients",
                &[],
                "what the example's own steps did to its own loss, from exact gradient norms; highest first: mislabeled or odd",
            ),
            Score::Grand => row(
                "grand",
                HighestFirst,
                HighestFirst,
                "gradients",
                &[],
                "mean norm of the example's gradient (GraNd); highest first: hard or mislabeled",
            ),
            Score::El2n => row(
                "el2n",
                HighestFirst,
                HighestFirst,
                "error norms",
                &[],
                "mean norm of the error of the prediction, for classes of its probabilities (EL2N); highest first: hard or mislabeled",
            ),
            Score::Forgetting => row(
                "forgetting",
                HighestFirst,
                HighestFirst,
                "record of which predictions were right",
                FORGETTING_EXTRAS,
                "times it went from right to wrong, infinite if never right; highest first: never learned, then most often forgotten",
            ),
            Score::Aum => row(
                "aum",
                LowestFirst,
                LowestFirst,
                "margins",
                &[],
                "mean margin of the label's logit (AUM); lowest first: mislabeled",
            ),
            Score::Confidence => row(
                "confidence",
                LowestFirst,
                LowestFirst,
                "confidences",
                &["variability"],
                "mean probability of the label; lowest first: hard or mislabeled",
            ),
            Score::Variability => row(
                "variability",
                HighestFirst,
                HighestFirst,
                "confidences",
                &["confidence"],
                "standard deviation of the label's probability over the visits; highest first: ambiguous",
            ),
            Score::Correctness => row(
                "correctness",
                LowestFirst,
                LowestFirst,
                "record of which predictions were right",
                &["correct"],
                "share of right predictions over the visits; lowest first: hard or mislabeled",
            ),
            Score::Loss => row(
                "loss",
                HighestFirst,
                HighestFirst,
                "losses",
                &[],
                "mean loss over the visits; highest first: hard or mislabeled",
            ),
        }
    }

    /// Its name, which `FromStr` reads.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Which end comes first.
    pub fn order(self) -> Order {
        self.facts().order
    }

    /// Which end is hard to learn, where a keep-list begins. For [`Score::Variability`] it is the ambiguous end.
    pub fn hard(self) -> Order {
        self.facts().hard
    }

    /// Names of what the score says beside its number: of [`ScoreRow::extra`](crate::ScoreRow::extra).
    pub fn extras(self) -> &'static [&'static str] {
        self.facts().extras
    }

    /// What a run must hold for it, in words.
    pub(crate) fn made_of(self) -> &'static str {
        self.facts().made_of
    }

    /// One line: what it is, and which end is suspicious.
    pub fn description(self) -> &'static str {
        self.facts().about
    }
}

named!(Score, "the score");
