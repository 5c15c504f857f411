//! The recorder: what a training loop holds.

use super::cost::{Cost, RecordingSummary};
use super::error::RecordError;
use super::message::{Batch, Message, PassKind, Replayed};
use super::state::State;
use crate::step::StepInfo;
use crate::taps::{LazyFold, Registered, SharedFold};
use candle_core::Var;
use gradlog_format::sketch::Form;
use std::sync::Arc;
use std::time::Duration;

/// Records a training run. The documentation of [the crate](crate) has the loop.
///
/// # Threads
/// The training thread makes passes and sends them. One thread named `gradlog` sketches, compresses and writes them, in their order.
/// The two share the queue and a few counters.
///
/// # Guest manners
/// - Nothing here panics in the training thread.
/// - A call waits at most [`Config::wait_max`](crate::Config::wait_max) for the background thread.
/// - At most [`Config::queue_bytes_max`](crate::Config::queue_bytes_max) of tensors are held.
/// - A failure of the background thread is returned by the next `commit`, by `finish`, and by every call after that. Under
///   [`OnFailure::GoOn`](crate::OnFailure::GoOn) it is returned by `flush` and `finish` alone.
///
/// # Shutdown
/// [`Recorder::finish`] is the promise that everything committed is on disk. A recorder that is dropped writes what it has, best
/// effort, and leaves a readable run.
pub struct Recorder {
    pub(super) state: Option<State>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(state) = &self.state else { return f.write_str("Recorder(disabled)") };
        let mut out = f.debug_struct("Recorder");
        out.field("dir", &state.dir).field("step", &state.step).field("epoch", &state.epoch).finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder that records nothing: it makes no file and no thread, the taps stay unarmed, and nothing fails for reasons of
    /// recording. Losses are computed as ever.
    pub fn disabled() -> Self {
        Self { state: None }
    }

    /// Whether this recorder records.
    pub fn is_enabled(&self) -> bool {
        self.state.is_some()
    }

    /// Why nothing is recorded any more, if that is so; `finish` will say it too.
    pub fn failure(&self) -> Option<RecordError> {
        self.state.as_ref().and_then(|state| state.check_health().err())
    }

    /// What the run will cost on disk, from its layers. See [`Cost`].
    pub fn cost(&self) -> Cost {
        self.state
            .as_ref()
            .map(|state| Cost::expected(&state.manifest, &state.forms, state.shared_fold.decided()))
            .unwrap_or_default()
    }

    /// Declares that the passes that follow belong to `epoch`. Without it all belong to epoch 0.
    pub fn set_epoch(&mut self, epoch: u32) {
        if let Some(state) = &mut self.state {
            state.epoch = epoch;
        }
    }

    /// Returns when everything committed so far is on the device.
    ///
    /// # Errors
    /// [`RecordError::Timeout`] after [`Config::wait_max`](crate::Config::wait_max), once for the question and once for the answer; the background thread's
    /// failure, if it has failed, under [`OnFailure::GoOn`](crate::OnFailure::GoOn) within [`RecordError::Unrecorded`].
    ///
    /// Passes of a step that is not complete are not written yet: they wait for its learning rate.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        match &mut self.state {
            Some(state) => {
                let asked = state.send_gap().and_then(|()| state.ask(Message::Flush));
                asked.map_err(|error| state.wrap_failure(error))
            }
            None => Ok(()),
        }
    }

    /// Ends the run. When it returns, everything committed is on disk.
    ///
    /// # Errors
    /// As [`Recorder::flush`].
    pub fn finish(mut self) -> Result<RecordingSummary, RecordError> {
        let Some(mut state) = self.state.take() else {
            return Ok(RecordingSummary::default());
        };
        let asked = state.send_gap().and_then(|()| state.ask(Message::Finish));
        let mut summary = RecordingSummary {
            visits: state.visits,
            dropped: state.dropped,
            blocked: state.queue.as_ref().map_or(Duration::ZERO, |queue| queue.blocked),
            asked: state.queue.as_ref().map_or(Duration::ZERO, |queue| queue.asked),
            ..RecordingSummary::default()
        };
        state.close(asked.is_ok());
        let progress = state.shared.progress();
        summary.bytes = progress.bytes;
        summary.bytes_per_visit = progress.visit_bytes as f64 / progress.visits.max(1) as f64;
        summary.background = progress.worked;
        asked.map_err(|error| state.wrap_failure(error)).map(|()| summary)
    }

    // What a pass asks of its recorder. A disabled recorder has neutral answers.

    pub(super) fn step(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.step)
    }

    pub(super) fn seed(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.manifest.seed)
    }

    pub(super) fn epoch(&self) -> u32 {
        self.state.as_ref().map_or(0, |state| state.epoch)
    }

    pub(super) fn replayed(&self) -> Option<Replayed> {
        self.state.as_ref().and_then(|state| state.replayed)
    }

    pub(super) fn layers(&self) -> Arc<Vec<Registered>> {
        self.state.as_ref().map(|state| state.layers.clone()).unwrap_or_default()
    }

    pub(super) fn has_last_layer(&self) -> bool {
        let last = |layer: &Registered| layer.layer.is_none() && layer.spec.factors.is_some();
        self.state.as_ref().is_some_and(|state| state.layers.iter().any(last))
    }

    pub(super) fn variable_layers(&self) -> Vec<(usize, Var, Arc<LazyFold>)> {
        self.state.as_ref().map(|state| state.variables.clone()).unwrap_or_default()
    }

    pub(super) fn disarm(&self) {
        if let Some(state) = &self.state {
            state.taps.disarm();
        }
    }

    /// The form that layer `number` is recorded in: the first pass decides, by what it saw.
    pub(super) fn decide_form(&mut self, number: usize, seen: Form) -> Form {
        match &mut self.state {
            Some(state) => *state.forms[number].get_or_insert(seen),
            None => seen,
        }
    }

    pub(super) fn with_shared_fold<R>(&self, f: impl FnOnce(&SharedFold) -> R) -> Option<R> {
        self.state.as_ref().map(|state| f(&state.shared_fold))
    }

    pub(super) fn known_form(&self, number: usize) -> Option<Form> {
        self.state.as_ref().and_then(|state| state.forms[number])
    }

    /// A pass could not be recorded.
    pub(super) fn lose_pass(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) {
        if let Some(state) = &mut self.state {
            state.lose_pass(kind, visits, info);
        }
    }

    /// A pass went by that was not armed, because nothing is recorded any more.
    pub(super) fn skip_pass(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) {
        if let Some(state) = &mut self.state {
            state.skip_pass(kind, visits, info);
        }
    }

    pub(super) fn send(&mut self, batch: Batch, info: Option<StepInfo>) -> Result<(), RecordError> {
        match &mut self.state {
            Some(state) => state.send(batch, info),
            None => Ok(()),
        }
    }
}

const _: () = {
    const fn movable<T: Send>() {}
    movable::<Recorder>();
};
