//! The question for the list of suspects.

use super::list::Suspects;
use super::rank::rank_suspects;
use crate::{AnalysisError, OptimizerChoice, Progress, Window};
use gradlog_format::run::Run;

/// Asks which training examples probably have a wrong label, and why.
///
/// Five scores rank the examples: AUM, mean loss, mean EL2N, self-influence and forgetting, as far as the run holds
/// what they are made of. With `r_s(z)` the share of examples that score `s` finds less suspicious than `z`,
///
/// ```text
/// m(z) = median over s of r_s(z)
/// suspicion(z) = ln(m / (1 − m)) + ½·ln((1/(C−1)) / P(k | y))
/// ```
///
/// where `P(k | y)` is how often the model predicts the label `k` instead of the recorded `y`, and `C` the number of
/// labels. The median of ranks is that of Dwork et al. 2001, "Rank aggregation methods for the web", §3.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SuspectQuestion {
    window: Window,
    optimizer: OptimizerChoice,
    progress: Progress,
}

window_options!(SuspectQuestion);
progress_options!(SuspectQuestion);

impl SuspectQuestion {
    /// All examples of the run, over all of its visits.
    pub fn new() -> Self {
        Self::default()
    }

    /// What self-influence takes the steps for.
    #[must_use]
    pub fn optimizer(mut self, optimizer: OptimizerChoice) -> Self {
        self.optimizer = optimizer;
        self
    }

    /// Ranks the training examples of a run.
    ///
    /// # Errors
    /// Those of [`ScoreQuestion::compute`](crate::ScoreQuestion::compute), but for signals that the run does not hold:
    /// these are left out and named, unless none is left. [`AnalysisError::OnlyVisits`] for a window on sweeps.
    ///
    /// # Cost
    /// Six passes over the small columns of the run; memory about 600 bytes per example.
    pub fn compute(&self, run: &Run) -> Result<Suspects, AnalysisError> {
        self.compute_over(&[run])
    }

    /// Ranks the training examples of several runs by the means of their scores.
    ///
    /// # Errors
    /// As [`SuspectQuestion::compute`], and those of
    /// [`ScoreQuestion::compute_over`](crate::ScoreQuestion::compute_over).
    ///
    /// # Cost
    /// As [`SuspectQuestion::compute`], for each run.
    pub fn compute_over(&self, runs: &[&Run]) -> Result<Suspects, AnalysisError> {
        self.window.refuse_sweeps("the list of suspects")?;
        self.window.refuse_outside(runs)?;
        rank_suspects(runs, (&self.window, self.optimizer), &self.progress)
    }
}
