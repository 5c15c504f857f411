//! The question which labels are wrong by threshold samples.

use super::answer::Flagged;
use super::judge::judge_examples;
use super::samples::ThresholdIds;
use crate::{AnalysisError, Progress, Window};
use gradlog_format::run::Run;

/// Asks which labels AUM finds wrong, by threshold samples (Pleiss et al. 2020, arXiv 2001.10528, §3.2).
///
/// A run's cut is the percentile of its threshold samples' AUM, interpolated between order statistics as numpy does. An
/// example is flagged if its AUM lies below the cut in every run that judges it; a run does not judge its own threshold
/// samples.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ThresholdQuestion {
    pub(super) samples: ThresholdIds,
    pub(super) percentile: f64,
    pub(super) window: Window,
    pub(super) progress: Progress,
}

window_options!(ThresholdQuestion);
source_options!(ThresholdQuestion);
progress_options!(ThresholdQuestion);

impl ThresholdQuestion {
    /// The paper's percentile.
    pub const PERCENTILE: f64 = 99.0;

    /// With these threshold samples and the paper's percentile, over all visits.
    pub fn new(samples: impl Into<ThresholdIds>) -> Self {
        Self {
            samples: samples.into(),
            percentile: Self::PERCENTILE,
            window: Window::default(),
            progress: Progress::default(),
        }
    }

    /// The percentile of the threshold samples' AUM that is the cut, 0 to 100.
    #[must_use]
    pub fn percentile(mut self, percentile: f64) -> Self {
        self.percentile = percentile;
        self
    }

    /// Judges the examples of one run, but for its own threshold samples.
    ///
    /// # Errors
    /// As [`ThresholdQuestion::compute_over`].
    ///
    /// # Cost
    /// As [`ThresholdQuestion::compute_over`].
    pub fn compute(&self, run: &Run) -> Result<Flagged, AnalysisError> {
        self.compute_over(&[run])
    }

    /// Judges every example of the runs against each run's threshold samples.
    ///
    /// # Errors
    /// Those of [`ScoreQuestion::compute`](crate::ScoreQuestion::compute) with AUM, with the name of the run;
    /// [`AnalysisError::SameRun`]; [`AnalysisError::NoThreshold`] if a run has no threshold sample with an AUM;
    /// [`AnalysisError::OutOfRange`] if the percentile is not between 0 and 100 or there is not one set for each run.
    ///
    /// # Cost
    /// One pass over the margins of each run; memory about 300 bytes per example.
    pub fn compute_over(&self, runs: &[&Run]) -> Result<Flagged, AnalysisError> {
        self.window.refuse_outside(runs)?;
        judge_examples(runs, self)
    }
}
