//! The recorder, which a training loop holds.

use super::config::OnNonFinite;
use super::cost::{Cost, RecordingSummary};
use super::error::RecordError;
use super::guard::{Committed, Found, GuardEvent, Opinion};
use super::message::{Batch, Message, PassKind, Replayed};
use super::state::State;
use crate::step::StepInfo;
use crate::taps::{LazyFold, Registered, SharedFold};
use candle_core::{TensorId, Var};
use gradlog_format::log::Coupling;
use gradlog_format::sketch::Form;
use std::sync::Arc;
use std::time::Duration;

/// Records a training run. [The crate's page](crate) has a loop, the threads, the limits on what recording may do to a
/// training, and the shutdown.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use gradlog::{Config, Recorder, Taps};
///
/// # let dir = std::env::temp_dir().join(format!("gradlog-doc-recorder-{}", std::process::id()));
/// // Without taps the log holds losses and predictions, and no gradients.
/// let mut recorder = Recorder::create(&dir, &Taps::new(), Config::default())?;
/// let mut pass = recorder.pass(&[7, 8])?;
/// let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
/// pass.cross_entropy(&logits, &Tensor::new(&[0u32, 2], &Device::Cpu)?)?;
/// pass.commit(0.1)?; // the learning rate of the step
/// assert_eq!(recorder.finish()?.visits, 2);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A recorder that is dropped without [`Recorder::finish`] writes what it has, ignores errors, and leaves a readable
/// run.
pub struct Recorder {
    pub(super) state: Option<State>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(state) = &self.state else { return f.write_str("Recorder(disabled)") };
        let mut out = f.debug_struct("Recorder");
        out.field("dir", &state.dir).field("step", &state.step).field("epoch", &state.epoch);
        out.field("layers", &state.layers.len()).field("visits", &state.visits).field("dropped", &state.dropped);
        out.field("failed", &state.shared.has_failed()).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Makes a recorder that records nothing. It makes no file and no thread, the taps stay unarmed, and no call fails
    /// for reasons of recording. Losses are computed as usual.
    pub fn disabled() -> Self {
        Self { state: None }
    }

    /// Whether this recorder records.
    pub fn is_enabled(&self) -> bool {
        self.state.is_some()
    }

    /// Why recording has stopped; `None` while it works. `finish` returns the same error.
    pub fn failure(&self) -> Option<RecordError> {
        self.state.as_ref().and_then(|state| state.check_health().err())
    }

    /// Estimates from the layers what the run will take on disk. See [`Cost`].
    pub fn cost(&self) -> Cost {
        let Some(state) = &self.state else { return Cost::default() };
        let cost = Cost::expected(&state.manifest, &state.forms, state.shared_fold.known_width());
        let cost = match state.visit_metric() {
            Some(_) => cost.with_norm_in_metric(),
            None => cost,
        };
        Cost { card_bytes_max: state.cards.bytes_max(), ..cost }
    }

    /// What couples the examples of a batch, as far as the declared model shows it: BatchNorm in training mode. Rows
    /// then hold [shares](crate::OnBatchNorm::RecordShare). Empty if nothing is known to couple them.
    pub fn couplings(&self) -> Vec<Coupling> {
        self.state.as_ref().map(|state| state.manifest.couplings()).unwrap_or_default()
    }

    /// Sets the epoch of the passes that follow. Default 0.
    ///
    /// A step that is open goes on: passes that were accumulated before belong to it, with their own epoch. If your
    /// loop drops their gradients at the end of an epoch, call [`Recorder::abandon_step`].
    pub fn set_epoch(&mut self, epoch: u32) {
        if let Some(state) = &mut self.state {
            state.epoch = epoch;
        }
    }

    /// Ends the open step without an optimizer step. Call it when the loop drops the gradients that it has accumulated,
    /// for example because a later pass is NaN. Otherwise the first passes would be credited to the next step.
    ///
    /// Visits that were accumulated are not recorded. The log counts them as abandoned, which is not a loss: they
    /// changed no weight. The next step has the same number. A pass that is still open is ended first, by
    /// [`Pass::abandon`](crate::Pass::abandon). Without accumulated passes nothing happens. Several workers abandon a
    /// step together, so that their steps keep the same numbers.
    ///
    /// ```no_run
    /// # use gradlog::{Pass, Recorder, RecordError};
    /// # fn half(_: &mut Recorder, _: usize) -> Result<bool, RecordError> { Ok(true) }
    /// # fn run(mut recorder: Recorder) -> Result<(), RecordError> {
    /// // `half` runs a pass and accumulates it, or abandons it and returns false.
    /// if !half(&mut recorder, 0)? || !half(&mut recorder, 1)? {
    ///     recorder.abandon_step()?; // and drop the gradients
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RecordError::Timeout`] if the queue stays full. Otherwise the failure of the background thread, if it has
    /// failed. The step is abandoned all the same.
    pub fn abandon_step(&mut self) -> Result<(), RecordError> {
        self.state.as_mut().map_or(Ok(()), |state| state.abandon_step(0))
    }

    /// Number of steps so far that were abandoned, by the loop or because they are not finite.
    pub fn abandoned_steps(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.abandoned.steps)
    }

    /// Waits until everything committed so far is on the device. Passes of an incomplete step are not written yet: they
    /// wait for its learning rate.
    ///
    /// # Errors
    /// [`RecordError::Timeout`] after [`Config::wait_max`](crate::Config::wait_max), which counts once for sending the
    /// request and once for the answer. Otherwise the failure of the background thread, if it has failed; under
    /// [`OnFailure::GoOn`](crate::OnFailure::GoOn) inside [`RecordError::Unrecorded`].
    ///
    /// # Cost
    /// The training waits until the queue is empty and one sync of the log is done.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        match &mut self.state {
            Some(state) => {
                let sent = state.send_gap().and_then(|()| state.send_cards(true));
                let asked = sent.and_then(|()| state.ask(Message::Flush));
                asked.map_err(|error| state.wrap_failure(error))
            }
            None => Ok(()),
        }
    }

    /// Ends the run. When it returns `Ok`, everything committed is on disk. A step that is still open is abandoned: no
    /// optimizer took it, so its visits are counted and not recorded.
    ///
    /// # Errors
    /// As [`Recorder::flush`].
    ///
    /// # Cost
    /// The training waits until the queue is empty and the log is synced.
    pub fn finish(mut self) -> Result<RecordingSummary, RecordError> {
        let Some(mut state) = self.state.take() else {
            return Ok(RecordingSummary::default());
        };
        state.look_at_layers_at_end();
        // An error here repeats an earlier one, which the answer to `Finish` has too.
        let _ = state.abandon_step(0);
        let sent = state.send_gap().and_then(|()| state.send_cards(true));
        let asked = sent.and_then(|()| state.ask(Message::Finish));
        let mut summary = RecordingSummary {
            visits: state.visits,
            dropped: state.dropped,
            dropped_probes: state.dropped_probes,
            abandoned_steps: state.abandoned.steps,
            abandoned: state.abandoned.visits,
            cards: state.cards.count(),
            refused_cards: state.cards.refused,
            blocked: state.queue.as_ref().map_or(Duration::ZERO, |queue| queue.blocked),
            flush_wait: state.queue.as_ref().map_or(Duration::ZERO, |queue| queue.flush_wait),
            ..RecordingSummary::default()
        };
        state.close(asked.is_ok());
        let progress = state.shared.progress();
        summary.bytes = progress.bytes;
        summary.bytes_per_visit = progress.visit_bytes as f64 / progress.visits.max(1) as f64;
        summary.background = progress.worked;
        summary.device_bytes = progress.device_bytes;
        summary.copied_ahead = progress.copied_ahead;
        summary.copy_failure = state.copies.failure();
        asked.map_err(|error| state.wrap_failure(error)).map(|()| summary)
    }

    // What a pass needs from its recorder. A disabled recorder gives neutral answers.

    pub(super) fn step(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.step)
    }

    pub(super) fn seed(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.manifest.seed)
    }

    pub(super) fn epoch(&self) -> u32 {
        self.state.as_ref().map_or(0, |state| state.epoch)
    }

    pub(super) fn replay_state(&self) -> Option<Replayed> {
        self.state.as_ref().and_then(|state| state.replayed)
    }

    /// Checks that the pass changed no statistics that are said to be frozen.
    pub(super) fn check_frozen_statistics(&mut self) -> Result<(), RecordError> {
        match &mut self.state {
            Some(state) => state.frozen.look_after(state.step),
            None => Ok(()),
        }
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

    /// Says what is wrong if declared variables have got no gradient yet.
    pub(super) fn look_at_reach(&mut self, is_reached: impl Fn(TensorId) -> bool) -> Option<String> {
        self.state.as_mut().and_then(|state| state.reach.look(is_reached))
    }

    /// Decides the form that layer `number` is recorded in. The first pass decides, by what it saw.
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

    /// Notes a pass that could not be recorded.
    pub(super) fn lose_pass(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) {
        if let Some(state) = &mut self.state {
            state.lose_pass(kind, visits, info);
        }
    }

    /// What happens to a step that is not finite.
    pub(super) fn on_nonfinite(&self) -> OnNonFinite {
        self.state.as_ref().map(|state| state.on_nonfinite).unwrap_or_default()
    }

    /// Looks at a training pass before it is handed over. What is noticed is kept for the log and for the caller.
    /// Returns why the step is left out, if it is.
    pub(super) fn watch_pass(&mut self, batch: &mut Batch, ends_step: bool) -> Option<Found> {
        let state = self.state.as_mut()?;
        let layers = state.layers.clone();
        let Opinion { noticed, refused } = state.guard.look(batch, &layers, ends_step);
        noticed.into_iter().for_each(|found| drop(state.keep_event(found)));
        refused
    }

    /// Keeps an event for the log and for the caller, and returns it as the caller sees it.
    pub(super) fn keep_event(&mut self, found: Found) -> Option<GuardEvent> {
        self.state.as_mut().map(|state| state.keep_event(found))
    }

    /// Whether numbers that are not finite make events.
    pub(super) fn tells_non_finite(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.guard.tells_non_finite())
    }

    /// What was noticed since the last call.
    pub(super) fn take_news(&mut self) -> Committed {
        self.state.as_ref().map(|state| state.shared.lock_news().take()).unwrap_or_default()
    }

    /// Abandons the open step with a last pass of `visits`, which was not handed over.
    pub(super) fn abandon_with(&mut self, visits: u32) -> Result<(), RecordError> {
        self.state.as_mut().map_or(Ok(()), |state| state.abandon_step(visits))
    }

    /// Counts the open step, with a last pass of `visits`, as missing.
    pub(super) fn lose_step(&mut self, visits: u32) -> Result<(), RecordError> {
        self.state.as_mut().map_or(Ok(()), |state| state.lose_step(visits))
    }

    /// Notes a pass that was not armed, because recording has stopped.
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
