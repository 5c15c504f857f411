//! Says once a second how full the queue is, in a file beside the log: for `gradlog watch`, which sees files alone.

use super::queue::Inbox;
use gradlog_format::log::QueueFile;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time between two writes.
const EVERY: Duration = Duration::from_secs(1);

pub(super) struct FillTold {
    /// `None` at the end.
    file: Option<QueueFile>,
    /// When it was told last.
    told: Option<Instant>,
    /// Whether that was an empty queue, which need not be told again.
    was_empty: bool,
}

impl FillTold {
    pub(super) fn new(file: QueueFile) -> Self {
        Self { file: Some(file), told: None, was_empty: false }
    }

    /// How long to wait for a message before it is to be told again.
    pub(super) fn patience(&self) -> Duration {
        match self.told {
            Some(told) if !self.was_empty => EVERY.saturating_sub(told.elapsed()).max(Duration::from_millis(1)),
            _ => Duration::MAX,
        }
    }

    /// Removes the file. It must be gone before the lock is: it could be the next recorder's then.
    pub(super) fn end(&mut self) {
        self.file = None;
    }

    /// Tells it if it was not told for a second. What goes wrong is not said: nothing of the run depends on it.
    pub(super) fn tell_if_due<T>(&mut self, inbox: &Inbox<T>) {
        let Some(file) = self.file.as_mut().filter(|_| self.told.is_none_or(|told| told.elapsed() >= EVERY)) else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let fill = inbox.take_fill(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.was_empty = fill.peak() == 0.0;
        file.write(&fill);
        self.told = Some(Instant::now());
    }
}
