//! Counts of visits that are missing in the log: from which step, and how many. Kept by the background thread.

use super::message::{Batch, Message, PassKind};

/// A place in the training: step and epoch.
pub(super) type Place = (u64, u32);

/// Visits that were handed over, and which of them are in the log.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// Visits that came off the queue.
    pub taken: u64,
    /// Of these, visits in the log.
    pub written: u64,
    /// Visits that were not even put into the queue, since the failure.
    pub not_sent: u64,
    /// Step and epoch of the first visit that is not in the log yet.
    pub first_unwritten: Option<Place>,
    /// Step and epoch of the last pass that came off the queue.
    pub last: Option<Place>,
    /// Once recording has failed: step and epoch of the first visit that is missing.
    pub from: Option<Place>,
    pub failed: bool,
    /// Missing visits that a gap in the log counts.
    pub in_gaps: u64,
}

impl Missed {
    /// A message came off the queue.
    pub(super) fn count_message(&mut self, message: &Message) {
        let Message::Pass { batch, gap, .. } = message else { return };
        if let (Some(gap), true) = (gap, self.failed) {
            self.not_sent += gap.visits;
            self.from.get_or_insert((gap.step, gap.epoch));
        }
        if let Some(Batch { kind: PassKind::Training, ids, step, epoch, .. }) = batch.as_deref() {
            self.taken += ids.len() as u64;
            self.first_unwritten.get_or_insert((*step, *epoch));
            self.last = Some((*step, *epoch));
            if self.failed {
                self.from.get_or_insert((*step, *epoch));
            }
        }
    }

    /// The visits of all complete steps are in the log, `rows` of them since the last time.
    pub(super) fn count_written(&mut self, rows: u64) {
        self.written += rows;
        // What is not there yet is of the step that the last pass belongs to.
        self.first_unwritten = self.last.filter(|_| self.taken > self.written);
    }

    /// Visits that are missing now.
    pub(super) fn visits(&self) -> u64 {
        self.taken.saturating_sub(self.written).saturating_add(self.not_sent)
    }
}
