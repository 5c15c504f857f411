//! A run written anew with its visits sorted by example, so that scores are computed bucket by bucket.

use crate::rows::wiring::VISITS_LOOKED_AT;
use crate::{AnalysisError, EpochsBack, LabelChanges, Progress};
use gradlog_format::run::{CompactOptions, CompactReport, OrderFacts, Run};
use std::path::Path;

/// Writes a run anew with its visits in buckets of examples (FORMAT.md, "Buckets"). The run itself is not changed.
///
/// All visits of an example lie in one bucket, in the order of their steps. So scores of a bucket need the memory of
/// its examples alone, and a share of the examples ([`ExampleShare`](crate::ExampleShare)) reads its own buckets alone.
/// Scores are those of the run itself, bit for bit. Means over several examples are added up in another order, and
/// differ in their last digits. What needs the order of the whole training refuses a compacted run
/// ([`ReadError::Compacted`](crate::ReadError::Compacted)).
///
/// ```no_run
/// use gradlog_analysis::{Compaction, Run};
///
/// let report = Compaction::new(64).write(&Run::open("runs/mnist")?, "runs/mnist-64")?;
/// println!("{} visits", report.visits);
/// # Ok::<(), gradlog_analysis::AnalysisError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Compaction {
    options: CompactOptions,
    progress: Progress,
}

progress_options!(Compaction);

impl Compaction {
    /// Into this many buckets, with 256 MiB of rows in memory.
    pub fn new(buckets: u32) -> Self {
        Self { options: CompactOptions::new(buckets), progress: Progress::default() }
    }

    /// Holds at most this many bytes of rows before they are compressed and written. Memory may be twice that.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.options.memory_bytes = bytes;
        self
    }

    /// Writes `run` anew at `to`, which must not exist.
    ///
    /// # Errors
    /// [`AnalysisError::Compact`], and then nothing is at `to`; [`AnalysisError::Read`] if the file system refuses.
    ///
    /// # Cost
    /// As [`Run::compact`], and a look at the first 16,384 visits.
    pub fn write(&self, run: &Run, to: impl AsRef<Path>) -> Result<CompactReport, AnalysisError> {
        let mut options = self.options.clone();
        if run.buckets().is_none() {
            options.facts = OrderFacts {
                several_labels: LabelChanges::find(run, VISITS_LOOKED_AT)?.is_some(),
                epochs_back: EpochsBack::find(run)?.map(|found| (found.step, found.from, found.to)),
            };
        }
        Ok(run.compact(to, &options, |bytes| self.progress.report(bytes))?)
    }
}

#[cfg(test)]
mod tests;
