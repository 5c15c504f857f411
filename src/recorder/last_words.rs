//! Writes the last blocks of a log after a failure, while the training goes on without recording.
//!
//! Runs on the background thread. A full disk has no room for a new block. So the writer keeps one page of each segment
//! free for these blocks (FORMAT.md, "A failing disk").

use super::log_state::LogState;

impl LogState {
    /// Recording has just failed: writes the gap to the log now, in case the process is killed.
    pub(super) fn write_first_gap(&mut self) {
        let missed = &mut self.missed;
        missed.failed = true;
        if self.can_write() {
            // Only this pass and later ones are lost. Rows that wait are written when the run ends.
            self.missed.from = self.missed.last;
            return;
        }
        self.missed.from = self.missed.first_unwritten;
        self.write_missing();
    }

    /// The training has ended: writes the number of missing visits, and the totals.
    pub(super) fn write_last_words(&mut self) {
        if self.write_missing() {
            // An error here repeats an earlier one.
            self.writer.use_spare_room();
            let _ = self.writer.append_end().and_then(|()| self.writer.finish());
        }
    }

    /// Writes a gap for the missing visits that no gap counts yet. Returns `false` if it cannot be written.
    fn write_missing(&mut self) -> bool {
        let visits = self.missed.visits().saturating_sub(self.missed.in_gaps);
        let Some((step, epoch)) = self.missed.from.filter(|_| visits > 0) else { return true };
        self.writer.use_spare_room();
        let written = self.writer.append_gap(step, epoch, visits).is_ok();
        if written {
            self.missed.in_gaps += visits;
            // No later request will sync the log.
            let _ = self.writer.sync();
        }
        written
    }

    /// Publishes to the training's side what is missing.
    pub(super) fn publish_missing(&self) {
        if self.missed.failed {
            self.shared.set_unrecorded(self.missed.from.map(|(step, _)| step), self.missed.visits());
        }
    }
}
