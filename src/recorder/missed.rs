//! After a failure, where the training goes on without recording: from which step, how many visits, and the last words in the log.
//!
//! Runs on the background thread. A full disk has no room for a block, so writers leave a page of each segment free where
//! they may have to say this (FORMAT.md, "A failing disk").

use super::message::{Batch, Gap, Message, PassKind};
use super::thread::{gap_block, Worker};

/// Where in the training something is.
type Place = (u64, u32);

/// Visits that were handed over, and which of them are in the log.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// Visits that came off the queue.
    taken: u64,
    /// Of these, visits in the log.
    written: u64,
    /// Visits that were not even put into the queue, since the failure.
    not_sent: u64,
    /// Step and epoch of the first visit that is not in the log yet.
    first_unwritten: Option<Place>,
    /// Of the last pass that was met.
    last: Option<Place>,
    /// Once recording has failed: step and epoch of the first visit that is missing.
    from: Option<Place>,
    failed: bool,
    /// Missing visits of which the log tells.
    told: u64,
}

impl Missed {
    /// A message came off the queue.
    pub(super) fn meet(&mut self, message: &Message) {
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
    pub(super) fn written(&mut self, rows: u64) {
        self.written += rows;
        // What is not there yet is of the step that the last pass belongs to.
        self.first_unwritten = self.last.filter(|_| self.taken > self.written);
    }

    /// Visits that are missing now.
    fn visits(&self) -> u64 {
        self.taken.saturating_sub(self.written).saturating_add(self.not_sent)
    }
}

impl Worker {
    /// Recording has just failed: says so in the log, if that takes it, lest the process is killed before the end.
    pub(super) fn say_from_where(&mut self) {
        let missed = &mut self.missed;
        missed.failed = true;
        if self.can_write() {
            // Only the pass at hand is lost, and those to come; what waits is written when the run ends.
            self.missed.from = self.missed.last;
            return;
        }
        self.missed.from = self.missed.first_unwritten;
        self.say_what_is_missing();
    }

    /// The training has ended: says in the log how many visits are missing in all, and the totals.
    pub(super) fn say_how_many(&mut self) {
        if self.say_what_is_missing() {
            // What cannot be written now is what could not be written before.
            let _ = self.writer.append_last(&mut self.end_block()).and_then(|()| self.writer.finish());
        }
    }

    /// A gap of the visits of which the log does not tell yet; `false` if it cannot be written.
    fn say_what_is_missing(&mut self) -> bool {
        let visits = self.missed.visits().saturating_sub(self.missed.told);
        let Some((step, epoch)) = self.missed.from.filter(|_| visits > 0) else { return true };
        let told = self.writer.append_last(&mut gap_block(Gap { step, epoch, visits })).is_ok();
        if told {
            self.missed.told += visits;
            self.dropped += visits;
            // Nobody will ask for a sync any more.
            let _ = self.writer.sync();
        }
        told
    }

    /// Tells the training's side what is missing.
    pub(super) fn tell(&self) {
        if self.missed.failed {
            self.shared.set_unrecorded(self.missed.from.map(|(step, _)| step), self.missed.visits());
        }
    }
}
