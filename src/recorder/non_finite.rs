//! Finds losses and gradients that are NaN or infinite, before a step is recorded and taken.
//!
//! It looks only if the user does not want such steps recorded. Otherwise the background thread flags their rows, and
//! the training thread does nothing.

use super::config::OnNonFinite;
use super::error::RecordError;
use super::message::{Batch, Gradients, LayerGradients, PassKind};
use super::outputs::Outputs;
use super::pass_core::PassCore;
use crate::taps::{cpu_f32, with_slice};
use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor};

/// Examples that an error names.
const NAMED: usize = 3;

impl PassCore<'_> {
    /// Whether this pass looks for numbers that are not finite.
    fn looks(&self) -> bool {
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
            self.not_finite = Some(format!("the loss is {} at {}", outputs.loss[*first], self.name_examples(&wrong)));
        }
    }

    /// Looks at what the taps caught, and at the factors of the losses.
    pub(super) fn check_caught(&mut self, batch: &Batch) {
        if !self.looks() || self.not_finite.is_some() {
            return;
        }
        if batch.coefficients.iter().any(|c| !c.is_finite()) {
            self.not_finite = Some("the factor that the loss was multiplied by is not finite".into());
            return;
        }
        let layers = self.recorder.layers();
        let wrong = batch.layers.iter().find(|part| !is_finite_part(part));
        if let Some(part) = wrong {
            let name = layers.get(part.layer).map_or("", |layer| &layer.name);
            self.not_finite = Some(format!("the gradient of layer `{name}` holds NaN or infinite numbers"));
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
            self.not_finite = Some(format!("{count} of the gradients hold NaN or infinite numbers"));
        }
        Ok(())
    }

    /// Abandons the step, and says so.
    pub(super) fn leave_out_step(&mut self, visits: u32) -> std::result::Result<(), RecordError> {
        let (step, what) = (self.recorder.step(), self.not_finite.take().unwrap_or_default());
        self.recorder.disarm();
        // This error comes first, because the loop must not take the step. The news waits until it can be sent, and the
        // next call returns a failure.
        let _ = self.recorder.abandon_with(visits);
        Err(RecordError::NotFinite { step, what, skipped: self.recorder.on_nonfinite() == OnNonFinite::Skip })
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

fn is_finite_part(part: &LayerGradients) -> bool {
    // A tensor that cannot be read is not what is looked for here: the background thread reports it.
    let all = |tensors: &[&Tensor]| tensors.iter().all(|tensor| is_finite(tensor).unwrap_or(true));
    match &part.gradients {
        Gradients::Factored { input, delta } => all(&[input, delta]),
        Gradients::Folded(folded) => folded.squared_norms.iter().all(|norms| norms.plain.is_finite()),
        Gradients::Uses { uses, .. } => uses.iter().all(|(x, delta)| all(&[x, delta])),
        Gradients::Zero => true,
        Gradients::Given(given) => given.iter().all(|one| all(&one.tensors())),
    }
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
