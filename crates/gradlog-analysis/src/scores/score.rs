//! The table of scores: adding one is adding a file and a row here.

use crate::rows::driver::Progress;
use crate::scores::per_example::{score_examples, ScoreRow, ScoreTable};
use crate::{
    scores::aum, scores::confidence, scores::correctness, scores::el2n, scores::forgetting, scores::grand,
    scores::loss, scores::self_influence, scores::variability,
};
use crate::{AnalysisError, Window};
use gradlog_format::run::Run;

/// Which end of a score is the suspicious one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The higher, the more suspicious.
    HighestFirst,
    /// The lower, the more suspicious.
    LowestFirst,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Order::HighestFirst => "highest first",
            Order::LowestFirst => "lowest first",
        })
    }
}

/// A score that gives each example one number from its own visits.
///
/// `t` runs over the visits of the example inside the window, `w_t` are the weights before that step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Score {
    /// `Σ_t η_t·clip_t·c_t·‖g(w_t)‖²`: what the example's own steps did to its own loss, to first order (Pruthi et al.
    /// 2020, §4.1, in the form over visits). High: mislabelled or odd. Exact norms, no error of a sketch.
    SelfInfluence,
    /// Mean over `t` of `‖g(w_t)‖₂`, not squared (GraNd; Paul et al. 2021, §2). High: hard or mislabelled.
    /// The paper takes the mean over ten or more initialisations at one early epoch, in test mode. Its claim that the norm
    /// *at initialisation* already tells what to prune did not replicate (Kirsch 2023, arXiv 2303.14753).
    Grand,
    /// Mean over `t` of `‖p(w_t) − onehot(y)‖₂`, at most √2 (EL2N; Paul et al. 2021, §2). High: hard or mislabelled.
    /// The paper takes one early epoch (10 to 20), in test mode, and the mean over initialisations.
    El2n,
    /// Times that the example was right at one presentation and wrong at the next (Toneva et al. 2019, §3).
    /// Never learned counts as infinity. High: hard or mislabelled.
    Forgetting,
    /// Area under the margin: mean over `t` of the label's logit minus the largest other (Pleiss et al. 2020, §3).
    /// Low or negative: mislabelled.
    Aum,
    /// Mean over `t` of the probability of the label (Swayamdipta et al. 2020, §2). Low: hard or mislabelled.
    Confidence,
    /// Population standard deviation over `t` of the probability of the label (Swayamdipta et al. 2020, §2). High: ambiguous.
    Variability,
    /// Mean over `t` of the share of right predictions (Swayamdipta et al. 2020, §2). Low: hard or mislabelled.
    Correctness,
    /// Mean over `t` of the loss. High: hard or mislabelled.
    Loss,
}

type Compute = fn(&Run, Score, &Window, Progress<'_>) -> Result<ScoreTable, AnalysisError>;

/// A row of the table.
pub(crate) struct Definition {
    pub name: &'static str,
    pub order: Order,
    /// Which end pruning calls hard.
    pub hard: Order,
    pub extras: &'static [&'static str],
    /// One line for a help text: what it is, and which end is suspicious.
    pub about: &'static str,
    pub compute: Compute,
    /// What a row adds to a sum over runs.
    pub in_sum: fn(&ScoreRow) -> f64,
}

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

    fn definition(self) -> Definition {
        let in_sum = |row: &ScoreRow| row.score;
        let row = |name, order, hard, extras, about, compute| Definition {
            name,
            order,
            hard,
            extras,
            about,
            compute,
            in_sum,
        };
        use Order::{HighestFirst, LowestFirst};
        match self {
            Score::SelfInfluence => row(
                "self-influence",
                HighestFirst,
                HighestFirst,
                &[],
                "what the example's own steps did to its own loss, from exact gradient norms; highest first: mislabelled or odd",
                score_examples::<self_influence::SelfInfluence>,
            ),
            Score::Grand => row(
                "grand",
                HighestFirst,
                HighestFirst,
                &[],
                "mean norm of the example's gradient (GraNd); highest first: hard or mislabelled",
                score_examples::<grand::Grand>,
            ),
            Score::El2n => row(
                "el2n",
                HighestFirst,
                HighestFirst,
                &[],
                "mean norm of the error of the prediction, for classes of its probabilities (EL2N); highest first: hard or mislabelled",
                score_examples::<el2n::El2n>,
            ),
            Score::Forgetting => Definition {
                in_sum: forgetting::in_sum,
                ..row(
                "forgetting",
                HighestFirst,
                HighestFirst,
                forgetting::EXTRAS,
                "times it went from right to wrong, infinite if never right; highest first: never learned, then most often forgotten",
                score_examples::<forgetting::Forgetting>,
            )},
            Score::Aum => row(
                "aum",
                LowestFirst,
                LowestFirst,
                &[],
                "mean margin of the label's logit (AUM); lowest first: mislabelled",
                score_examples::<aum::Aum>,
            ),
            Score::Confidence => row(
                "confidence",
                LowestFirst,
                LowestFirst,
                &["variability"],
                "mean probability of the label; lowest first: hard or mislabelled",
                score_examples::<confidence::Confidence>,
            ),
            Score::Variability => row(
                "variability",
                HighestFirst,
                HighestFirst,
                &["confidence"],
                "standard deviation of the label's probability over the visits; highest first: ambiguous",
                score_examples::<variability::Variability>,
            ),
            Score::Correctness => row(
                "correctness",
                LowestFirst,
                LowestFirst,
                &["correct"],
                "share of right predictions over the visits; lowest first: hard or mislabelled",
                score_examples::<correctness::Correctness>,
            ),
            Score::Loss => row(
                "loss",
                HighestFirst,
                HighestFirst,
                &[],
                "mean loss over the visits; highest first: hard or mislabelled",
                score_examples::<loss::Loss>,
            ),
        }
    }

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        self.definition().name
    }

    /// The score of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|score| score.name() == name)
    }

    /// Which end comes first.
    pub fn order(self) -> Order {
        self.definition().order
    }

    /// Which end is hard to learn, where a keep-list begins. For [`Score::Variability`] it is the ambiguous end.
    pub fn hard(self) -> Order {
        self.definition().hard
    }

    /// What a row of one run adds to a sum over runs.
    pub(crate) fn in_sum(self, row: &ScoreRow) -> f64 {
        (self.definition().in_sum)(row)
    }

    /// Names of [`ScoreRow::extras`](crate::ScoreRow::extras).
    pub fn extras(self) -> &'static [&'static str] {
        self.definition().extras
    }

    /// One line: what it is, and which end is suspicious.
    pub fn about(self) -> &'static str {
        self.definition().about
    }

    /// Computes the score of every example with a visit inside the window.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`] if no visit has what the score is made of, [`AnalysisError::SeveralPredictions`] for
    /// forgetting where it is not defined, [`AnalysisError::Read`] if the file system refuses. Damage is not an error:
    /// the result says where it lies and stands on what came before.
    ///
    /// # Cost
    /// Reads only the columns that the score is made of. Memory: about 150 bytes per example, and a few blocks of columns.
    pub fn compute(self, run: &Run, window: &Window) -> Result<ScoreTable, AnalysisError> {
        self.compute_with(run, window, &|_| {})
    }

    /// As [`Score::compute`], telling `progress` of each block that has been dealt with.
    ///
    /// # Errors
    /// As [`Score::compute`].
    pub fn compute_with(self, run: &Run, window: &Window, progress: Progress<'_>) -> Result<ScoreTable, AnalysisError> {
        (self.definition().compute)(run, self, window, progress)
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
