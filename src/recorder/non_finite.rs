//! Finds losses and gradients that are NaN or infinite, before a step is recorded and taken.
//!
//! It looks only if the user does not want such steps recorded. Otherwise the background thread flags their rows and
//! tells of their gradients. The training thread looks at losses that are in main memory. Losses on a device are
//! looked at by the background thread.

use super::config::OnNonFinite;
use super::error::RecordError;
use super::guard::{Committed, Found, FoundExample};
use super::message::{Batch, Gradients, LayerGradients, PassKind};
use super::outputs::Outputs;
use super::pass_core::PassCore;
use crate::taps::{cpu_f32, with_slice, PerExample};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor};
use gradlog_format::log::{EventAction, EventKind};

/// Examples that an error names.
const NAMED: usize = 3;

/// What is not finite in a pass.
pub(super) struct NotFinite {
    /// In words, for the error.
    what: String,
    kind: EventKind,
    /// The examples, with their values.
    examples: Vec<(u64, f32)>,
    layer: Option<u32>,
}

impl PassCore<'_> {
    /// Whether this pass looks for numbers that are not finite.
    pub(super) fn looks(&self) -> bool {
        self.kind == PassKind::Training
            && self.recorder.is_enabled()
            && self.recorder.on_nonfinite() != OnNonFinite::Record
    }

    /// Looks at the losses of examples that have a weight in the step.
    pub(super) fn check_losses(&mut self, outputs: &Outputs, coefficients: &[f32]) {
        if !self.looks() {
            return;
        }
        let predicts = |i: usize| outputs.positions.as_ref().is_none_or(|positions| positions.get(i) != Some(&0));
        let counts = |i: &usize| predicts(*i) && coefficients.get(*i).is_some_and(|c| *c != 0.0);
        let wrong: Vec<usize> =
            (0..outputs.loss.len()).filter(counts).filter(|i| !outputs.loss[*i].is_finite()).collect();
        if let Some(first) = wrong.first() {
            let what = format!("the loss is {} at {}", outputs.loss[*first], self.name_examples(&wrong));
            let example = |i: &usize| self.ids.get(*i).map(|id| (*id, outputs.loss[*i]));
            let examples = wrong.iter().filter_map(example).collect();
            self.not_finite = Some(NotFinite { what, kind: EventKind::NonFiniteLoss, examples, layer: None });
        }
    }

    /// Looks at what the taps caught, and at the factors of the losses.
    pub(super) fn check_caught(&mut self, batch: &Batch) {
        if !self.looks() || self.not_finite.is_some() {
            return;
        }
        if batch.coefficients.iter().any(|c| !c.is_finite()) {
            self.not_finite = Some(wrong_gradients("the factor that the loss was multiplied by is not finite".into()));
            return;
        }
        let layers = self.recorder.layers();
        let wrong = batch.layers.iter().find(|part| !is_finite_part(part));
        if let Some(part) = wrong {
            let name = layers.get(part.layer).map_or("", |layer| &layer.name);
            let what = format!("the gradient of layer `{name}` holds NaN or infinite numbers");
            let ids = find_examples(part, batch.ids.len()).into_iter().filter_map(|i| batch.ids.get(i).copied());
            let examples = ids.map(|id| (id, f32::NAN)).collect();
            self.not_finite =
                Some(NotFinite { examples, layer: u32::try_from(part.layer).ok(), ..wrong_gradients(what) });
        }
    }

    /// Looks at all gradients of a backward pass.
    pub(super) fn check_gradients(&mut self, grads: &GradStore) -> Result<()> {
        if !self.looks() || self.not_finite.is_some() {
            return Ok(());
        }
        let wrong = |grad: &Tensor| grad.dtype().is_float() && !is_finite(grad).unwrap_or(true);
        let count = grads.get_ids().filter_map(|id| grads.get_id(*id)).filter(|grad| wrong(grad)).count();
        if count > 0 {
            self.not_finite = Some(wrong_gradients(format!("{count} of the gradients hold NaN or infinite numbers")));
        }
        Ok(())
    }

    /// Abandons the step, and says so.
    pub(super) fn leave_out_step(&mut self, visits: u32) -> std::result::Result<Committed, RecordError> {
        let step = self.recorder.step();
        let skipped = self.recorder.on_nonfinite() == OnNonFinite::Skip;
        let what = match self.not_finite.take() {
            Some(wrong) => self.tell_not_finite(wrong, skipped),
            None => String::new(),
        };
        self.recorder.disarm();
        // This error comes first, because the loop must not take the step. The news waits until it can be sent, and the
        // next call returns a failure.
        let _ = self.recorder.abandon_with(visits);
        Err(RecordError::NotFinite { step, what, skipped })
    }

    /// Keeps the event for the log and the caller. Returns what is wrong, in words.
    fn tell_not_finite(&mut self, wrong: NotFinite, skipped: bool) -> String {
        let NotFinite { what, kind, examples, layer } = wrong;
        if self.recorder.tells_non_finite() {
            let action = if skipped { EventAction::Skipped } else { EventAction::Stopped };
            let mut found = Found::new(kind, (self.recorder.step(), self.recorder.epoch()));
            (found.action, found.layer) = (action, layer);
            examples.into_iter().for_each(|(id, value)| found.add(FoundExample { id, value, layer }));
            self.recorder.keep_event(found);
        }
        what
    }

    fn name_examples(&self, places: &[usize]) -> String {
        let named: Vec<String> =
            places.iter().filter_map(|i| self.ids.get(*i)).take(NAMED).map(ToString::to_string).collect();
        let more = places.len().saturating_sub(NAMED);
        let examples = if places.len() == 1 { "example" } else { "examples" };
        match more {
            0 => format!("{examples} {}", named.join(", ")),
            _ => format!("{examples} {} and {more} more", named.join(", ")),
        }
    }
}

/// Gradients that are not finite, of examples that are not known.
fn wrong_gradients(what: String) -> NotFinite {
    NotFinite { what, kind: EventKind::NonFiniteGradient, examples: Vec::new(), layer: None }
}

/// The tensors of a layer's gradients. Folded gradients have none.
fn tensors(part: &LayerGradients) -> Vec<&Tensor> {
    match &part.gradients {
        Gradients::Factored { input, delta } => vec![input, delta],
        Gradients::Uses { uses, .. } => uses.iter().flat_map(|(x, delta)| [x, delta]).collect(),
        Gradients::Given(given) => given.iter().flat_map(PerExample::tensors).collect(),
        Gradients::OnDevice(sketch) => vec![&sketch.norms],
        Gradients::Folded(_) | Gradients::Zero => Vec::new(),
    }
}

fn is_finite_part(part: &LayerGradients) -> bool {
    if let Gradients::Folded(folded) = &part.gradients {
        return folded.squared_norms.iter().all(|norms| norms.plain.is_finite());
    }
    // A tensor that cannot be read is not what is looked for here: the background thread reports it.
    tensors(part).into_iter().all(|tensor| is_finite(tensor).unwrap_or(true))
}

/// The places of the examples whose part of a layer's gradients is not finite. Runs only if there is one.
fn find_examples(part: &LayerGradients, examples: usize) -> Vec<usize> {
    let mut wrong = vec![false; examples];
    if let Gradients::Folded(folded) = &part.gradients {
        let norms = folded.squared_norms.iter().map(|norms| norms.plain);
        wrong.iter_mut().zip(norms).for_each(|(wrong, norm)| *wrong = !norm.is_finite());
    }
    for tensor in tensors(part).into_iter().filter(|tensor| tensor.dtype().is_float()) {
        let numbers =
            tensor.detach().to_device(&Device::Cpu).and_then(|tensor| tensor.flatten_all()?.to_dtype(DType::F64));
        let Ok(numbers) = numbers.and_then(|numbers| numbers.to_vec1::<f64>()) else { continue };
        let width = (numbers.len() / examples.max(1)).max(1);
        for (wrong, row) in wrong.iter_mut().zip(numbers.chunks(width)) {
            *wrong |= row.iter().any(|x| !x.is_finite());
        }
    }
    wrong.iter().enumerate().filter_map(|(i, wrong)| wrong.then_some(i)).collect()
}

/// Whether all numbers are finite.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    if !tensor.dtype().is_float() {
        return Ok(true);
    }
    if cpu_f32(&[tensor]) {
        return with_slice(tensor, |numbers| Ok(numbers.iter().all(|x| x.is_finite())));
    }
    // 0 times a number that is not finite is NaN. So one number comes from the device.
    let sum = (tensor.detach() * 0.0)?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    Ok(sum == 0.0)
}
