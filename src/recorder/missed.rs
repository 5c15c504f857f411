//! Counts visits that are missing in the log: the first step, and the number. The background thread keeps the counts.

use super::message::{Batch, Message, PassKind};

/// A place in the training: step and epoch.
pub(super) type Place = (u64, u32);

/// Counts of visits that were handed over, and of those in the log.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// Visits that came off the queue.
    pub taken: u64,
    /// Visits of these that are in the log.
    pub written: u64,
    /// Visits since the failure that were not sent.
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
    /// Counts a message that came off the queue.
    pub(super) fn count_message(&mut self, message: &Message) {
        let Message::Pass { batch, gap, .. } = message else { return };
        if let (Some(gap), true) = (gap.filter(|gap| gap.visits > 0), self.failed) {
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

    /// Counts `rows` more visits in the log. All complete steps are in the log then.
    pub(super) fn count_written(&mut self, rows: u64) {
        self.written += rows;
        // Visits that are not there yet belong to the step of the last pass.
        self.first_unwritten = self.last.filter(|_| self.taken > self.written);
    }

    /// Counts `rows` visits that came off the queue and belong to a step that was not taken. `others_wait` says whether
    /// rows of earlier steps are still to be written.
    pub(super) fn count_void(&mut self, rows: u64, others_wait: bool) {
        self.taken = self.taken.saturating_sub(rows);
        if !others_wait {
            self.first_unwritten = None;
        }
    }

    /// Number of visits that are missing now.
    pub(super) fn visits(&self) -> u64 {
        self.taken.saturating_sub(self.written).saturating_add(self.not_sent)
    }
}
