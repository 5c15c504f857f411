//! Compares what the taps recorded of a batch with candle's own backward: layer by layer, and as a sum.

use super::evidence::Evidence;
use super::measure::norm;
use super::observe::{LayerRun, Observed};
use super::parameters::Parameters;
use crate::recorder::loss::count_positions;
use crate::taps::{
    has_sound_backward, read_f32, Captured, ExactGradients, LazyFold, PerExample, Presence, Registered, Tap, Taps,
};
use candle_core::{DType, Result, Tensor};
use std::sync::Arc;

/// The recorded gradients of one layer.
pub(super) struct Recorded {
    /// `None` if they could not be compared. There is a finding then.
    exact: Option<ExactGradients>,
    /// Whether they carry each example's factor, as backward gives them.
    is_weighted: bool,
}

impl Recorded {
    /// Whether it can be compared.
    pub(super) fn is_compared(&self) -> bool {
        self.exact.is_some()
    }

    /// The example's own gradient.
    pub(super) fn own(&self, example: usize, factor: f64) -> Option<Vec<f32>> {
        self.scaled(example, if self.is_weighted { 1.0 / factor } else { 1.0 })
    }

    /// The example's gradient times its factor.
    fn weighted(&self, example: usize, factor: f64) -> Option<Vec<f32>> {
        self.scaled(example, if self.is_weighted { 1.0 } else { factor })
    }

    fn scaled(&self, example: usize, scale: f64) -> Option<Vec<f32>> {
        let mut gradient = self.exact.as_ref()?.example(example);
        gradient.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
        Some(gradient)
    }
}

/// The recorded gradients of all layers, before any sketch. What cannot be compared becomes evidence.
pub(super) fn recorded_gradients(
    layers: &[Registered],
    batch: &Observed,
    examples: usize,
    evidence: &mut Evidence<'_>,
) -> Vec<Recorded> {
    let one = |(number, layer): (usize, &Registered)| {
        let exact = match &layer.layer {
            Some(tap) => tapped_gradients(number, layer, tap, &batch.layers[number], examples, evidence),
            None => last_layer_gradients(number, layer, batch, examples, evidence),
        };
        Recorded { exact, is_weighted: layer.layer.is_some() }
    };
    layers.iter().enumerate().map(one).collect()
}

fn tapped_gradients(
    number: usize,
    layer: &Registered,
    tap: &Arc<dyn Tap>,
    run: &LayerRun,
    examples: usize,
    evidence: &mut Evidence<'_>,
) -> Option<ExactGradients> {
    if run.uses == 0 && layer.presence == Presence::Required {
        evidence.unreached.push(number);
        return None;
    }
    if run.caught.len() < run.uses {
        evidence.severed.push(number);
        return None;
    }
    let rows = |t: &Tensor| t.dims().first().copied().unwrap_or(0);
    let mut uses = Vec::with_capacity(run.caught.len());
    for captured in &run.caught {
        let Captured::Use { x, delta } = captured else { return None };
        if let Some(found) = [rows(x), rows(delta)].into_iter().find(|found| *found != examples) {
            evidence.note_not_first(number, found, 0);
            return None;
        }
        match tap.per_example(x, delta) {
            Ok(gradients) => uses.push(gradients),
            Err(error) => {
                evidence.wrong_taps.push((number, format!("`per_example` fails: {error}")));
                return None;
            }
        }
    }
    let exact = ExactGradients::new(&uses, layer.spec.elements(), examples);
    exact.map_err(|error| evidence.wrong_taps.push((number, error.to_string()))).ok()
}

fn last_layer_gradients(
    number: usize,
    layer: &Registered,
    batch: &Observed,
    examples: usize,
    evidence: &mut Evidence<'_>,
) -> Option<ExactGradients> {
    let (inputs, outputs) = layer.spec.factors?;
    let Some((features, delta)) = &batch.last else {
        evidence.unreached.push(number);
        return None;
    };
    let gradients = || {
        let positions = count_positions(features)?;
        let inputs = features.contiguous()?.reshape((examples, positions, inputs))?;
        let deltas = delta.contiguous()?.reshape((examples, positions, outputs))?;
        let uses = [PerExample::Outer { inputs, deltas, bias: layer.spec.bias }];
        ExactGradients::new(&uses, layer.spec.elements(), examples)
    };
    gradients().map_err(|error: candle_core::Error| evidence.wrong_taps.push((number, error.to_string()))).ok()
}

/// Compares each tap with candle's backward through the layer itself, for the inputs and output gradients that it
/// caught: `∂/∂W Σ y(x_i; W) ∘ δ_i`.
pub(super) fn compare_with_plain_layers(
    layers: &[Registered],
    taps: &Taps,
    parameters: &Parameters,
    batch: &Observed,
    recorded: &[Recorded],
    evidence: &mut Evidence<'_>,
) -> Result<()> {
    for (number, layer) in layers.iter().enumerate() {
        let (Some(tap), Some(exact)) = (&layer.layer, &recorded[number].exact) else { continue };
        for example in 0..batch.factors.len() {
            let caught = &batch.layers[number].caught;
            let mut grads = Vec::with_capacity(caught.len());
            for captured in caught {
                let Captured::Use { x, delta } = captured else { continue };
                let x = x.narrow(0, example, 1)?.force_contiguous()?;
                let y = match has_sound_backward(&**tap) {
                    true => tap.plain_forward(&x)?,
                    false => tap.tapped_forward(&x, &taps.unarmed_catch())?,
                };
                let delta = delta.narrow(0, example, 1)?;
                if y.shape() != delta.shape() {
                    let what = format!(
                        "its output for one example has the shape {:?}, and {:?} in the batch",
                        y.shape(),
                        delta.shape()
                    );
                    evidence.note_wrong_tap(number, what);
                    return Ok(());
                }
                let dtype = if delta.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
                let product = (y.to_dtype(dtype)? * delta.to_dtype(dtype)?)?.sum_all()?;
                grads.push(product.backward()?);
            }
            let gradient = exact.example(example);
            for (subject, parameter) in parameters.of_layer(number) {
                let Some(id) = parameter.id else { continue };
                let mut expected = vec![0f32; parameter.range.len()];
                for grad in grads.iter().filter_map(|grads| grads.get_id(id)) {
                    expected.iter_mut().zip(read_f32(grad)?).for_each(|(sum, v)| *sum += v);
                }
                evidence.taps.add(subject, example, &gradient[parameter.range.clone()], &expected);
            }
        }
    }
    Ok(())
}

/// Compares the sum of the recorded gradients with candle's gradient of the batch.
pub(super) fn compare_sums(
    parameters: &Parameters,
    batch: &Observed,
    recorded: &[Recorded],
    evidence: &mut Evidence<'_>,
) -> Result<()> {
    for (subject, (id, places)) in &parameters.tensors {
        let layers = || places.iter().map(|place| &parameters.all[*place]);
        if layers().any(|parameter| recorded[parameter.layer].exact.is_none()) {
            continue;
        }
        let mut rest = match batch.grads.get_id(*id) {
            Some(grad) => read_f32(grad)?,
            None => vec![0.0; parameters.all[*subject].range.len()],
        };
        let mut size = norm(&rest);
        for (example, factor) in batch.factors.iter().enumerate() {
            for parameter in layers() {
                let Some(gradient) = recorded[parameter.layer].weighted(example, *factor) else { continue };
                let part = &gradient[parameter.range.clone()];
                rest.iter_mut().zip(part).for_each(|(rest, part)| *rest -= part);
                size += norm(part);
            }
        }
        evidence.sums.add_norms(*subject, 0, norm(&rest), size);
    }
    Ok(())
}

/// Compares what backward folds, in fused ops or on a device, with the projection of the exact gradients.
pub(super) fn compare_folds(
    recorded: &[Recorded],
    again: &Observed,
    folds: &[Arc<LazyFold>],
    evidence: &mut Evidence<'_>,
) {
    for (number, (layer, run)) in recorded.iter().zip(&again.layers).enumerate() {
        let (Some(exact), [captured]) = (&layer.exact, &run.caught[..]) else { continue };
        let folded = match captured {
            Captured::Folded(folded) => folded.clone(),
            // A device that cannot be read fails the check elsewhere.
            Captured::Sketched(sketch) => match sketch.read() {
                Ok(folded) => folded,
                Err(_) => continue,
            },
            Captured::Use { .. } => continue,
        };
        let fold = folds[number].get();
        let sketches = folded.sketches.chunks_exact(fold.outputs()).enumerate();
        for (example, sketch) in sketches {
            let gradient = exact.example(example);
            evidence.folds.add(number, example, sketch, &fold.apply(&gradient));
            let exact_norm = norm(&gradient);
            let folded_norm = folded.squared_norms.get(example).map_or(f64::NAN, |norms| norms.plain.sqrt());
            evidence.folds.add(number, example, &[folded_norm as f32], &[exact_norm as f32]);
        }
    }
}
