//! What the training and the background thread share besides the queue.

use super::error::RecordError;
use super::guard::News;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Failure, progress and news, which both sides read.
#[derive(Default)]
pub(super) struct Shared {
    failure: Mutex<Option<RecordError>>,
    progress: Mutex<Progress>,
    news: Mutex<News>,
}

/// What the background thread has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub visits: u64,
    /// Probes in the log.
    pub probes: u64,
    pub visit_bytes: u64,
    pub bytes: u64,
    pub worked: Duration,
    /// Bytes that came from a device.
    pub device_bytes: u64,
    /// Passes whose copy was started when they were handed over.
    pub copied_ahead: u64,
    /// The first step with visits that are missing because recording failed, and their number.
    pub unrecorded: (Option<u64>, u64),
    /// The first step with visits that came off the queue and are not in the log yet.
    pub first_unwritten: Option<u64>,
}

impl Shared {
    /// The first failure. Later ones do not replace it.
    pub(super) fn failure(&self) -> Option<RecordError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there was a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn fail(&self, error: RecordError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub(super) fn lock_progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a guard has noticed and no commit has returned.
    pub(super) fn lock_news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self) -> Progress {
        *self.lock_progress()
    }

    pub(super) fn set_unrecorded(&self, step: Option<u64>, visits: u64) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).unrecorded = (step, visits);
    }
}
