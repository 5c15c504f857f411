//! Counts passes that are not recorded, on the training's side: dropped, refused, abandoned, or after a failure. The
//! next message that is sent takes the count into the log as a gap.

use super::config::OnFailure;
use super::error::RecordError;
use super::message::{Gap, Message, PassKind, StepEnd, StepRow};
use super::queue::Sent;
use super::state::State;
use crate::step::StepInfo;

impl State {
    /// Whether recording has failed and the training goes on without it.
    pub(super) fn has_gone_on(&self) -> bool {
        self.on_failure == OnFailure::GoOn && self.shared.has_failed()
    }

    /// Whether the training goes on after this error of the queue or the background thread. If so, the error is not
    /// returned.
    pub(super) fn goes_on_after(&mut self, error: &RecordError) -> bool {
        let is_recording_error =
            matches!(error, RecordError::Timeout(_) | RecordError::Stopped(_) | RecordError::Log(_));
        if self.on_failure != OnFailure::GoOn || !is_recording_error {
            return false;
        }
        match (error, &mut self.queue) {
            // After one wait without success, the training waits no more.
            (RecordError::Timeout(_), Some(queue)) => queue.hurried = true,
            (error, _) => self.shared.fail(error.clone()),
        }
        true
    }

    pub(super) fn skip_pass(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) {
        let row = self.end_pass(kind, visits, info);
        self.count_missing(kind, visits, row.as_ref());
    }

    /// The counts that the next message takes along. `step` and `epoch` are those of the first one.
    pub(super) fn gap_from(&mut self, step: u64, epoch: u32) -> &mut Gap {
        self.gap.get_or_insert(Gap { step, epoch, ..Gap::default() })
    }

    /// Counts a pass that is missing in the log.
    pub(super) fn count_missing(&mut self, kind: PassKind, visits: u32, row: Option<&StepRow>) {
        let visits = u64::from(visits);
        if kind != PassKind::Training {
            self.dropped_probes += visits;
            return;
        }
        let (step, epoch) = row.map_or((self.step, self.epoch), |row| (row.step, row.epoch));
        self.gap_from(step, epoch).visits += visits;
        self.dropped += visits;
    }

    /// The failure as `flush` and `finish` return it after the training has gone on.
    pub(super) fn wrap_failure(&self, error: RecordError) -> RecordError {
        let is_stuck = matches!(error, RecordError::Timeout(_)) && self.on_failure == OnFailure::GoOn;
        if !self.has_gone_on() && !is_stuck {
            return error;
        }
        let progress = self.shared.progress();
        let (mut from, mut visits) = progress.unrecorded;
        if !self.has_gone_on() {
            // The background thread is stuck. What it was given and has not written counts as missing.
            from = progress.first_unwritten;
            visits = self.visits.saturating_sub(progress.visits);
        }
        // Only this side knows the visits that did not reach the background thread.
        let gap = self.gap.filter(|gap| gap.visits > 0);
        let step = from.or(gap.map(|gap| gap.step)).unwrap_or(self.step);
        let visits = visits.saturating_add(gap.map_or(0, |gap| gap.visits));
        let probes = self.dropped_probes + self.probes.saturating_sub(progress.probes);
        RecordError::Unrecorded { step, visits, probes, cause: Box::new(error) }
    }

    pub(super) fn lose_pass(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) {
        let row = self.end_pass(kind, visits, info);
        self.miss_pass(kind, visits, row);
    }

    /// Counts a pass that is missing in the log. The next message that is sent takes the count along.
    pub(super) fn miss_pass(&mut self, kind: PassKind, visits: u32, row: Option<StepRow>) {
        self.count_missing(kind, visits, row.as_ref());
        if kind != PassKind::Training {
            return;
        }
        // Earlier passes of the same step may be in the log already and wait for its learning rate. An error here
        // repeats an earlier one, which the pass itself reports.
        if self.unsent_end.is_none() {
            self.unsent_end = row.filter(|row| row.batch_size > visits).map(Box::new).map(StepEnd::Taken);
            let _ = self.send_unsent_end(false);
        }
    }

    /// Sends the end of a step whose last pass is missing. Nothing may be sent before it. Otherwise the rows that wait
    /// for its learning rate would get that of a later step.
    pub(super) fn send_unsent_end(&mut self, wait: bool) -> Result<Sent, RecordError> {
        let (Some(end), Some(queue)) = (self.unsent_end.clone(), self.queue.as_mut()) else { return Ok(Sent::Yes) };
        let message = Message::Pass { batch: None, end: Some(end), gap: None, events: Vec::new(), bytes: 0 };
        let sent = match wait {
            true => queue.send_waiting(message, 0).map(|()| Sent::Yes),
            false => queue.send(message, 0),
        };
        if matches!(sent, Ok(Sent::Yes)) {
            self.unsent_end = None;
        }
        sent
    }

    /// Sends the counts of what is missing, and the events that wait.
    pub(super) fn send_gap(&mut self) -> Result<(), RecordError> {
        self.send_unsent_end(true)?;
        if self.gap.is_none() && self.guard.waiting.is_empty() {
            return Ok(());
        }
        let (gap, events) = (self.gap, self.guard.waiting.clone());
        let message = Message::Pass { batch: None, end: None, gap, events, bytes: 0 };
        let sent = self.queue().and_then(|queue| queue.send_waiting(message, 0));
        if sent.is_ok() {
            self.gap = None;
            self.guard.waiting.clear();
        }
        sent
    }
}
