//! Terms that rows store as small numbers (FORMAT.md, "Columns"). Numbers are added, and never reused.

/// How the model ran when a replay recorded a row: with dropout and similar layers active, or without.
///
/// The program that replays declares it. gradlog does not check it, because it sees the tapped layers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Mode {
    /// As in training.
    Training,
    /// As in evaluation. Sweeps over checkpoints in the literature use this mode.
    #[default]
    Evaluation,
}

impl Mode {
    /// The number of the mode in the file.
    pub fn code(self) -> u8 {
        match self {
            Mode::Training => 0,
            Mode::Evaluation => 1,
        }
    }

    /// The mode of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        [Mode::Training, Mode::Evaluation].into_iter().find(|mode| mode.code() == code)
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Training => "training mode",
            Mode::Evaluation => "evaluation mode",
        })
    }
}

/// How strongly the model predicts class `c`, from logits `z` and probabilities `p = softmax(z)`.
///
/// Influence can be computed on such a score instead of a loss. Then the example needs no label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum PredictionScore {
    /// `z_c`.
    Logit,
    /// `z_c − max_{k≠c} z_k`.
    Margin,
    /// `log p_c/(1 − p_c) = z_c − log Σ_{k≠c} exp z_k` (Park et al. 2023, arXiv 2303.14186: the output that TRAK
    /// attributes).
    LogOdds,
}

impl PredictionScore {
    /// The number of the score in the file. 0 means a loss.
    pub fn code(self) -> u8 {
        match self {
            PredictionScore::Logit => 1,
            PredictionScore::Margin => 2,
            PredictionScore::LogOdds => 3,
        }
    }

    /// The score of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        use PredictionScore::{LogOdds, Logit, Margin};
        [Logit, Margin, LogOdds].into_iter().find(|score| score.code() == code)
    }
}

impl std::fmt::Display for PredictionScore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PredictionScore::Logit => "logit",
            PredictionScore::Margin => "margin",
            PredictionScore::LogOdds => "log-odds",
        })
    }
}

/// The rule by which an optimizer takes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum UpdateRule {
    /// `v ← μv + g + λw`, `w ← w − ηv`.
    Sgd,
    /// The same `v`, and `w ← w − η(g + λw + μv)`.
    NesterovSgd,
    /// Adam (Kingma and Ba 2015), with the weight decay in the gradient.
    Adam,
    /// AdamW (Loshchilov and Hutter 2019), with the weight decay on the weights.
    AdamW,
}

impl UpdateRule {
    /// The number of the rule in the file. 0 means that the optimizer did not tell it.
    pub fn code(self) -> u8 {
        match self {
            UpdateRule::Sgd => 1,
            UpdateRule::NesterovSgd => 2,
            UpdateRule::Adam => 3,
            UpdateRule::AdamW => 4,
        }
    }

    /// The rule of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        use UpdateRule::{Adam, AdamW, NesterovSgd, Sgd};
        [Sgd, NesterovSgd, Adam, AdamW].into_iter().find(|rule| rule.code() == code)
    }

    /// Whether it has moments, as [`UpdateRule::Adam`] has.
    pub fn has_moments(self) -> bool {
        matches!(self, UpdateRule::Adam | UpdateRule::AdamW)
    }
}

impl std::fmt::Display for UpdateRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            UpdateRule::Sgd => "SGD",
            UpdateRule::NesterovSgd => "SGD with Nesterov momentum",
            UpdateRule::Adam => "Adam",
            UpdateRule::AdamW => "AdamW",
        })
    }
}

/// What a probe's gradient is multiplied by before it is sketched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Preconditioner {
    /// `D = 1/(√v̂ + ε)` of Adam's second moments at the time of the probe, element by element. In factored layers `v̂`
    /// is replaced by the product of its row means and its column means, divided by its mean (Shazeer and Stern 2018,
    /// arXiv 1804.04235). In folded layers `ε` may be
    /// raised to what the fold resolves. `D` is 0 where `v̂` is 0.
    SecondMoments,
}

impl Preconditioner {
    /// The number in the file. 0 means none.
    pub fn code(self) -> u8 {
        1
    }

    /// The preconditioner of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        (code == 1).then_some(Self::SecondMoments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lead_back() {
        for code in 0..=u8::MAX {
            if let Some(mode) = Mode::from_code(code) {
                assert_eq!(mode.code(), code);
            }
            if let Some(score) = PredictionScore::from_code(code) {
                assert_eq!(score.code(), code);
            }
        }
        for code in 0..=u8::MAX {
            if let Some(rule) = UpdateRule::from_code(code) {
                assert_eq!(rule.code(), code);
            }
            if let Some(preconditioner) = Preconditioner::from_code(code) {
                assert_eq!(preconditioner.code(), code);
            }
        }
        let known = |f: fn(u8) -> bool| (0..=u8::MAX).filter(|code| f(*code)).count();
        assert_eq!(known(|code| Mode::from_code(code).is_some()), 2);
        assert_eq!(known(|code| PredictionScore::from_code(code).is_some()), 3);
        assert_eq!(known(|code| UpdateRule::from_code(code).is_some()), 4);
        assert_eq!(known(|code| Preconditioner::from_code(code).is_some()), 1);
        assert_eq!(PredictionScore::from_code(0), None, "0 means a loss");
        assert_eq!(UpdateRule::from_code(0), None, "0 means that nothing was told");
    }
}
