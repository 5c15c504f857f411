//! What all passes share: the settings, the loss, and the way to the background thread.

use super::error::RecordError;
use super::guard::{Committed, Found};
use super::handle::Recorder;
use super::later::Later;
use super::layer_rates::rate_factors;
use super::loss::{self, Kind, Recorded};
use super::message::{Batch, LayerGradients, PassKind};
use super::non_finite::NotFinite;
use super::outputs::{Outputs, Weighing};
use super::preconditioner::Preconditioner;
use crate::step::StepInfo;
use crate::taps::{SharedFold, Upstream};
use candle_core::{DType, Device, Tensor};
use gradlog_format::log::{EventAction, PredictionScore};
use std::sync::Arc;

/// A pass of any kind. The taps are armed while it lives. It records nothing if it is dropped without being handed
/// over.
pub(super) struct PassCore<'r> {
    pub(super) recorder: &'r mut Recorder,
    pub(super) number: u64,
    pub(super) ids: Vec<u64>,
    pub(super) kind: PassKind,
    pub(super) weighing: Weighing,
    pub(super) ignored: Option<i64>,
    pub(super) mask: Option<Tensor>,
    /// Whether a loss or `logits` has read `ignored` and `mask`.
    pub(super) positions_used: bool,
    /// What `logits` says of each example, beside a loss that does not know it.
    pub(super) described: Option<Later<Outputs>>,
    pub(super) features: Option<Tensor>,
    pub(super) output_delta: Option<Tensor>,
    /// The first setting that was made after the loss.
    pub(super) late: Option<&'static str>,
    pub(super) outputs: Option<Later<(Outputs, Vec<f32>)>>,
    /// Whether the loss says itself how the model predicts a class.
    pub(super) predicts: bool,
    pub(super) upstream: Upstream,
    /// Whether the loss depends on a variable.
    pub(super) has_graph: bool,
    pub(super) per_example: Vec<LayerGradients>,
    /// Tapped layers that backward reached, although no tap saw a forward pass.
    pub(super) around_tap: Vec<String>,
    /// What is wrong with layers that the optimizer has in part.
    pub(super) partly_trained: Option<String>,
    /// What is wrong with the declared last layer, if it does not make the logits.
    pub(super) unlike_head: Option<String>,
    /// What is wrong with declared variables that got no gradient.
    pub(super) unreached_variables: Option<String>,
    /// For curvature rows, the weight of each.
    pub(super) curvature: Option<Vec<f32>>,
    /// What is not finite, if such steps are not recorded.
    pub(super) not_finite: Option<NotFinite>,
    /// Whether a check runs the pass. It is not handed over.
    pub(super) is_check: bool,
    /// What a second record of the same examples is multiplied by.
    pub(super) preconditioner: Option<Arc<Preconditioner>>,
}

impl<'r> PassCore<'r> {
    /// Whether the taps are armed for this pass. They are not for a disabled recorder, nor for one that has failed and
    /// lets the training go on.
    pub(super) fn is_recorded(&self) -> bool {
        self.number != 0
    }

    pub(super) fn new(recorder: &'r mut Recorder, number: u64, ids: Vec<u64>, kind: PassKind) -> Self {
        Self {
            ids,
            recorder,
            number,
            kind,
            weighing: Weighing::default(),
            ignored: None,
            mask: None,
            positions_used: false,
            described: None,
            features: None,
            output_delta: None,
            late: None,
            outputs: None,
            predicts: false,
            upstream: Upstream::default(),
            has_graph: false,
            per_example: Vec::new(),
            around_tap: Vec::new(),
            partly_trained: None,
            unlike_head: None,
            unreached_variables: None,
            curvature: None,
            not_finite: None,
            is_check: false,
            preconditioner: None,
        }
    }

    /// The folded vector that the layers of this pass share.
    pub(super) fn with_shared_fold<R>(&self, f: impl FnOnce(&SharedFold) -> R) -> Option<R> {
        match &self.preconditioner {
            Some(preconditioner) => Some(f(&preconditioner.shared)),
            None => self.recorder.with_shared_fold(f),
        }
    }

    /// Notes a setting that comes after the loss and has no effect; `commit` refuses it.
    pub(super) fn check_setting(&mut self, setting: &'static str) {
        if self.outputs.is_some() {
            self.late.get_or_insert(setting);
        }
    }

    /// As [`Self::check_setting`], for what `logits` may still read after the loss.
    pub(super) fn check_position_setting(&mut self, setting: &'static str) {
        if self.positions_used {
            self.late.get_or_insert(setting);
        }
    }

    pub(super) fn cross_entropy(&mut self, logits: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
        let kind = Kind::CrossEntropy { ignored: self.ignored, mask: self.mask.clone() };
        self.positions_used = true;
        self.closed_form(&kind, logits, targets)
    }

    pub(super) fn mse(&mut self, outputs: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
        self.check_positions("mse")?;
        self.closed_form(&Kind::MeanSquaredError, outputs, targets)
    }

    pub(super) fn binary_cross_entropy_with_logits(
        &mut self,
        logits: &Tensor,
        targets: &Tensor,
    ) -> Result<Tensor, RecordError> {
        self.check_positions("binary_cross_entropy_with_logits")?;
        self.closed_form(&Kind::BinaryCrossEntropy, logits, targets)
    }

    pub(super) fn prediction_score(
        &mut self,
        logits: &Tensor,
        score: PredictionScore,
        classes: Option<&Tensor>,
    ) -> Result<Tensor, RecordError> {
        self.check_positions("prediction_score")?;
        if self.recorder.is_enabled() && !matches!(self.kind, PassKind::Probe { .. }) {
            return Err(self.error("a sweep needs a loss: use `prediction_score` with probes only"));
        }
        let predicted = Tensor::zeros(0, DType::U32, &Device::Cpu)?;
        self.closed_form(&Kind::PredictionScore(score), logits, classes.unwrap_or(&predicted))
    }

    pub(super) fn losses(&mut self, losses: &Tensor) -> Result<Tensor, RecordError> {
        self.check_first_loss()?;
        let on_device = self.is_on_device(losses);
        let recorded = loss::weigh_losses(losses, &self.weighing, &self.upstream, on_device)?;
        self.keep_outputs(recorded)
    }

    fn closed_form(&mut self, kind: &Kind, output: &Tensor, target: &Tensor) -> Result<Tensor, RecordError> {
        self.check_first_loss()?;
        self.check_target(target)?;
        let keep_delta = self.is_recorded() && (self.features.is_some() || self.recorder.has_last_layer());
        let (pair, on_device) = ((output, target), self.is_on_device(output));
        let recorded = loss::closed_form(kind, pair, &self.weighing, &self.upstream, keep_delta, on_device)?;
        self.look_at_head(output);
        self.keep_outputs(recorded)
    }

    /// Refuses a target with a gradient. These losses have none by their target, and candle_nn's have.
    fn check_target(&self, target: &Tensor) -> Result<(), RecordError> {
        if !target.track_op() {
            return Ok(());
        }
        Err(self.error(
            "the targets depend on a variable, so candle_nn's loss would have a gradient by them, and this one has none: if they \
             are meant as constants, give `targets.detach()` (and compute them before the pass, or under `taps.pause()`); else \
             compute each example's loss yourself, and give the losses to `pass.losses`",
        ))
    }

    fn check_positions(&self, loss: &str) -> Result<(), RecordError> {
        if (self.mask.is_some() || self.ignored.is_some()) && !self.positions_used {
            return Err(self.error(format!(
                "`mask` and `ignore_index` are for cross entropy and have no effect on `{loss}`: leave them out, and weigh the losses \
                 yourself with `pass.losses`"
            )));
        }
        Ok(())
    }

    pub(super) fn check_first_loss(&self) -> Result<(), RecordError> {
        if let Some(weights) =
            self.weighing.weights.as_ref().filter(|w| self.recorder.is_enabled() && w.len() != self.ids.len())
        {
            return Err(self.error(format!(
                "{} weights for {} ids: give one for each id",
                weights.len(),
                self.ids.len()
            )));
        }
        match self.outputs {
            Some(_) => Err(self.error(
                "the pass already has a loss: add several terms for each example and give the sums to `pass.losses`",
            )),
            None => Ok(()),
        }
    }

    fn keep_outputs(&mut self, recorded: Recorded) -> Result<Tensor, RecordError> {
        let Recorded { loss, examples, predicts, numbers, delta } = recorded;
        let numbers = if self.judges_numbers() { Later::Here(numbers.read()?) } else { numbers };
        if let Later::Here((outputs, coefficients)) = &numbers {
            self.check_losses(outputs, coefficients);
        }
        if self.is_recorded() {
            self.check_examples(examples)?;
            self.check_prediction(self.described.is_some() && predicts)?;
            self.has_graph = loss.track_op();
            self.output_delta = delta;
            (self.outputs, self.predicts) = (Some(numbers), predicts);
        }
        Ok(loss)
    }

    /// Refuses a loss of another number of examples than the pass has.
    fn check_examples(&self, examples: usize) -> Result<(), RecordError> {
        if examples == self.ids.len() {
            return Ok(());
        }
        Err(self.error(format!(
            "{examples} losses for {} ids: give logits and targets with the batch as first dimension",
            self.ids.len()
        )))
    }

    /// Writes kind and counts for `Debug`, without ids or numbers of the training.
    pub(super) fn fmt_counts(&self, name: &str, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct(name);
        out.field("kind", &self.kind).field("step", &self.recorder.step()).field("examples", &self.ids.len());
        out.field("recorded", &self.is_recorded()).field("has_loss", &self.outputs.is_some()).finish_non_exhaustive()
    }

    pub(super) fn error(&self, what: impl Into<String>) -> RecordError {
        RecordError::Pass { step: self.recorder.step(), what: what.into() }
    }

    /// Refuses a step with one pass's gradients if other passes were accumulated for it. Nobody takes that step.
    pub(super) fn check_one_pass(&mut self, accumulates: bool) -> Result<(), RecordError> {
        let earlier = self.recorder.state.as_ref().map_or(0, |state| state.batch_size);
        if accumulates || earlier == 0 || !self.is_recorded() {
            return Ok(());
        }
        let error = self.error(format!(
            "`backward_step` steps with the gradients of its own pass alone, and {earlier} visits of earlier passes were \
             accumulated for this step: they would be credited with a step that they have no part in. No step was taken, and all \
             its visits count as abandoned. Add the gradients of the passes yourself, step with the sum, and end the last pass \
             with `commit` (`Pass::accumulate` shows the loop); or use one larger batch; or implement \
             `StepReport::accumulates` if your optimizer adds them up"
        ));
        self.recorder.disarm();
        // An error here repeats an earlier one, which every later call returns.
        let _ = self.recorder.abandon_with(self.ids.len() as u32);
        Err(error)
    }

    fn check_layer_rates(&self, step: Option<&StepInfo>) -> Result<(), RecordError> {
        let Some(info) = step else { return Ok(()) };
        rate_factors(&self.recorder.layers(), info).map(drop).map_err(|what| self.error(what))
    }

    /// Hands the pass over, and returns what the guard noticed since the last time.
    pub(super) fn hand_over(&mut self, step: Option<StepInfo>) -> Result<Committed, RecordError> {
        let visits = self.ids.len() as u32;
        if self.not_finite.is_some() {
            return self.leave_out_step(visits);
        }
        let refused = step.as_ref().and_then(StepInfo::find_fault);
        if let Some(fault) = refused.filter(|_| self.recorder.is_enabled()) {
            let error = self.error(format!("{fault}, so the step cannot be recorded: its visits count as dropped"));
            self.recorder.disarm();
            // An error here repeats an earlier one, which every later call returns.
            let _ = self.recorder.lose_step(visits);
            return Err(error);
        }
        if !self.is_recorded() {
            self.recorder.skip_pass(self.kind, visits, step);
            return Ok(self.recorder.take_news());
        }
        self.recorder.disarm();
        let frozen = self.recorder.check_frozen_statistics();
        let told = frozen.and_then(|()| self.check_layer_rates(step.as_ref()));
        let collected = told.and_then(|()| self.check_taps_ran()).and_then(|()| self.collect());
        let mut collected = collected.and_then(|batch| self.check_variables_reached().map(|()| batch));
        if let Ok(batch) = &collected {
            self.check_caught(batch);
        }
        if self.not_finite.is_some() {
            return self.leave_out_step(visits);
        }
        if let Some(found) = collected.as_mut().ok().and_then(|batch| self.watch(batch, step.is_some())) {
            return self.refuse_step(visits, found);
        }
        if let Some(error) = collected.as_mut().ok().and_then(|batch| self.pack(batch).err()) {
            collected = Err(error);
        }
        match collected {
            Ok(batch) => self.recorder.send(batch, step).map(|()| self.recorder.take_news()),
            Err(error) => {
                // A pass that cannot be recorded still happened: its step counts, and its visits are missing.
                self.recorder.lose_pass(self.kind, visits, step);
                Err(error)
            }
        }
    }
}

impl PassCore<'_> {
    /// Makes one tensor of what lies on a device.
    fn pack(&mut self, batch: &mut Batch) -> Result<(), RecordError> {
        let Some(state) = &mut self.recorder.state else { return Ok(()) };
        batch.pack(&state.layers, state.sketching)?;
        batch.start_copy(&mut state.copies);
        Ok(batch.raise_fence()?)
    }

    /// Lets the guard look at a training pass. Returns why the step is left out, if it is.
    fn watch(&mut self, batch: &mut Batch, ends_step: bool) -> Option<Found> {
        if self.kind != PassKind::Training {
            return None;
        }
        self.recorder.watch_pass(batch, ends_step)
    }

    /// Abandons the step because of what the guard found, and says so.
    fn refuse_step(&mut self, visits: u32, found: Found) -> Result<Committed, RecordError> {
        let skipped = found.action == EventAction::Skipped;
        let event = self.recorder.keep_event(found);
        // This error comes first, because the loop must not take the step. The next call returns a failure.
        let _ = self.recorder.abandon_with(visits);
        match event {
            Some(event) => Err(RecordError::Guarded { event: Box::new(event), skipped }),
            None => Ok(Committed::default()),
        }
    }
}

impl Drop for PassCore<'_> {
    fn drop(&mut self) {
        if !self.is_recorded() {
            return;
        }
        self.recorder.disarm();
        if let Some(state) = self.recorder.state.as_ref().filter(|_| self.preconditioner.is_some()) {
            state.set_folds();
        }
        // Drops what an abandoned pass has caught.
        for layer in self.recorder.layers().iter() {
            layer.slot.take(self.number);
        }
    }
}
