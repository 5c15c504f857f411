//! How far the reading of a run is.

use std::fmt;
use std::sync::Arc;

/// Where a question reports how far the reading of a run is. The default reports nowhere. All clones report to the same
/// place.
///
/// A question reports the bytes of each block that it read or skipped. The bytes of one pass over a run add up to the
/// bytes of its blocks; some questions take several passes.
///
/// ```
/// use gradlog_analysis::{Progress, Score, ScoreQuestion, SummaryQuestion};
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::sync::Arc;
///
/// let bytes = Arc::new(AtomicU64::new(0));
/// let counter = bytes.clone();
/// let progress = Progress::new(move |more| {
///     counter.fetch_add(more, Ordering::Relaxed);
/// });
/// let (summary, score) = (SummaryQuestion::new(), ScoreQuestion::new(Score::Loss));
/// let (_summary, _score) = (summary.share_progress(&progress), score.share_progress(&progress));
/// progress.report(10);
/// assert_eq!(bytes.load(Ordering::Relaxed), 10);
/// ```
#[derive(Clone, Default)]
pub struct Progress {
    report: Option<Arc<dyn Fn(u64) + Send + Sync>>,
    stop: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl Progress {
    /// Calls `report` with the bytes of each block, from whichever thread has read it.
    pub fn new(report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { report: Some(Arc::new(report)), stop: None }
    }

    /// Ends the reading when `stop` says so: the question then fails with
    /// [`AnalysisError::Stopped`](crate::AnalysisError::Stopped). It is asked before each group of blocks.
    #[must_use]
    pub fn stop_when(self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { stop: Some(Arc::new(stop)), ..self }
    }

    /// Whether the reading is to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop())
    }

    /// Reports that `bytes` more were read or skipped.
    pub fn report(&self, bytes: u64) {
        if let Some(report) = &self.report {
            report(bytes);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("is_silent", &self.report.is_none()).finish()
    }
}
