//! The question for the data map.

use super::data_map::DataMap;
use super::draw::draw_map;
use crate::{AnalysisError, ExampleShare, Progress, Window};
use gradlog_format::run::Run;

/// Asks for the data map of a training set: which examples are easy, ambiguous, hard to learn.
///
/// With `p_t` the probability of the label at visit `t` of an example, its confidence is `μ = (1/T) Σ_t p_t`, its
/// variability `σ = √((1/T) Σ_t (p_t − μ)²)`, and its correctness the share of right predictions (Swayamdipta et al.
/// 2020, arXiv 2009.10795, §2). Over several runs the three are means over runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MapQuestion {
    pub(super) share: f64,
    pub(super) examples: Option<ExampleShare>,
    pub(super) window: Window,
    pub(super) progress: Progress,
}

window_options!(MapQuestion);
source_options!(MapQuestion);
progress_options!(MapQuestion);

impl Default for MapQuestion {
    fn default() -> Self {
        Self { share: Self::SHARE, examples: None, window: Window::default(), progress: Progress::default() }
    }
}

impl MapQuestion {
    /// The paper's share of each region.
    pub const SHARE: f64 = 0.33;

    /// The map over all visits, with the paper's share of examples in each region.
    pub fn new() -> Self {
        Self::default()
    }

    /// The share of the examples that each region takes, 0 to 1.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Takes these examples alone, with their own regions: memory is that of this share. Of very many examples a part
    /// by a hash of the id looks like the whole.
    #[must_use]
    pub fn examples(mut self, examples: ExampleShare) -> Self {
        self.examples = Some(examples);
        self
    }

    /// Draws the map of one run. Each region takes `round(share·N)` of the `N` examples. Examples with equal numbers go
    /// together: into a region if more than half of them fit in.
    ///
    /// # Errors
    /// Those of [`ScoreQuestion::compute_over`](crate::ScoreQuestion::compute_over) with confidence;
    /// [`AnalysisError::OutOfRange`] if the share is not between 0 and 1.
    ///
    /// # Cost
    /// Two passes over three small columns of the run; memory about 500 bytes per example.
    pub fn compute(&self, run: &Run) -> Result<DataMap, AnalysisError> {
        self.compute_over(&[run])
    }

    /// Draws the map of several runs, by means over runs.
    ///
    /// # Errors
    /// As [`MapQuestion::compute`].
    ///
    /// # Cost
    /// As [`MapQuestion::compute`], for each run.
    pub fn compute_over(&self, runs: &[&Run]) -> Result<DataMap, AnalysisError> {
        self.window.refuse_outside(runs)?;
        draw_map(runs, self)
    }
}
