//! Terms that rows store as small numbers (FORMAT.md, "Columns"). Numbers are added, and never reused.

/// How the model ran when a replay recorded a row: with dropout and similar layers active, or without.
///
/// The program that replays declares it. gradlog does not check it, because it sees the tapped layers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
        let known = |f: fn(u8) -> bool| (0..=u8::MAX).filter(|code| f(*code)).count();
        assert_eq!(known(|code| Mode::from_code(code).is_some()), 2);
        assert_eq!(known(|code| PredictionScore::from_code(code).is_some()), 3);
        assert_eq!(PredictionScore::from_code(0), None, "0 means a loss");
    }
}
