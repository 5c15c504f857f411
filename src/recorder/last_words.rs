//! After a failure, where the training goes on without recording: the last words in the log.
//!
//! Runs on the background thread. A full disk has no room for a block, so writers leave a page of each segment free where
//! they may have to write this (FORMAT.md, "A failing disk").

use super::log_state::LogState;

impl LogState {
    /// Recording has just failed: writes the gap to the log now, in case the process is killed.
    pub(super) fn write_first_gap(&mut self) {
        let missed = &mut self.missed;
        missed.failed = true;
        if self.can_write() {
            // Only the pass at hand is lost, and those to come; what waits is written when the run ends.
            self.missed.from = self.missed.last;
            return;
        }
        self.missed.from = self.missed.first_unwritten;
        self.write_missing();
    }

    /// The training has ended: writes how many visits are missing in all, and the totals.
    pub(super) fn write_last_words(&mut self) {
        if self.write_missing() {
            // What cannot be written now is what could not be written before.
            self.writer.use_spare_room();
            let _ = self.writer.append_end().and_then(|()| self.writer.finish());
        }
    }

    /// Writes a gap of the missing visits that no gap counts yet; `false` if it cannot be written.
    fn write_missing(&mut self) -> bool {
        let visits = self.missed.visits().saturating_sub(self.missed.in_gaps);
        let Some((step, epoch)) = self.missed.from.filter(|_| visits > 0) else { return true };
        self.writer.use_spare_room();
        let written = self.writer.append_gap(step, epoch, visits).is_ok();
        if written {
            self.missed.in_gaps += visits;
            // Nobody will ask for a sync any more.
            let _ = self.writer.sync();
        }
        written
    }

    /// Shows the training's side what is missing.
    pub(super) fn publish_missing(&self) {
        if self.missed.failed {
            self.shared.set_unrecorded(self.missed.from.map(|(step, _)| step), self.missed.visits());
        }
    }
}
