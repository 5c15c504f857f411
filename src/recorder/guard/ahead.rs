//! Gradient norms before the step, for a guard that leaves out steps. Runs in the training thread.

use super::parts::LargestParts;
use crate::recorder::message::{Batch, Gradients, LayerGradients};
use crate::taps::{cpu_f32, wide_squared_norm, with_slice, Registered};
use candle_core::{DType, Result, Tensor, D};

/// What is known of the norms of a pass before its step.
pub(super) struct KnownNorms {
    /// Of each example, over the layers whose norm is known; NaN for an example without weight.
    pub norms: Vec<f32>,
    pub parts: LargestParts,
    /// Whether the norms are those of all layers.
    pub are_whole: bool,
    /// Whether a layer's norm is known.
    pub any: bool,
}

/// The squared norm of each example's own gradient, as far as it is known without folding anything.
pub(super) fn known_norms(batch: &Batch, layers: &[Registered]) -> Result<KnownNorms> {
    let examples = batch.ids.len();
    let (mut squared, mut parts) = (vec![0f64; examples], LargestParts::default());
    let (mut are_whole, mut any, mut weightless) = (true, false, false);
    parts.begin(examples);
    for part in &batch.layers {
        let Some(layer) = layers.get(part.layer) else { continue };
        let own = if layer.tied.is_some() { None } else { layer_norms(part, layer, examples)? };
        let Some(own) = own else {
            are_whole = false;
            continue;
        };
        any = true;
        weightless |= part.weighted;
        for ((sum, own), c) in squared.iter_mut().zip(&own).zip(&batch.coefficients) {
            *sum += if part.weighted { own / f64::from(*c).powi(2) } else { *own };
        }
        parts.note(part.layer, squared.iter().copied());
    }
    let norm = |(squared, c): (&f64, &f32)| if weightless && *c == 0.0 { f32::NAN } else { squared.sqrt() as f32 };
    let norms = squared.iter().zip(&batch.coefficients).map(norm).collect();
    Ok(KnownNorms { norms, parts, are_whole, any })
}

/// The squared norms of one layer's gradients, as backward gave them. `None` if they are not known here.
fn layer_norms(part: &LayerGradients, layer: &Registered, examples: usize) -> Result<Option<Vec<f64>>> {
    let (input, delta) = match &part.gradients {
        Gradients::Folded(folded) => return Ok(Some(folded.squared_norms.iter().map(|norms| norms.plain).collect())),
        Gradients::OnDevice(sketch) => return Ok(Some(sketch.read_squared_norms()?)),
        Gradients::Zero => return Ok(Some(vec![0.0; examples])),
        Gradients::Uses { .. } | Gradients::Given(_) => return Ok(None),
        Gradients::Factored { input, delta } => (input, delta),
    };
    // ‖δ ⊗ a‖² = ‖δ‖² ‖a‖², and a bias has the gradient δ.
    let bias = if layer.spec.bias { 1.0 } else { 0.0 };
    let (a, d) = (row_norms(input, examples)?, row_norms(delta, examples)?);
    Ok(Some(a.iter().zip(&d).map(|(a, d)| d * (a + bias)).collect()))
}

/// The squared norm of each example's row.
fn row_norms(tensor: &Tensor, examples: usize) -> Result<Vec<f64>> {
    let width = tensor.elem_count() / examples.max(1);
    if cpu_f32(&[tensor]) && width > 0 {
        return with_slice(tensor, |numbers| Ok(numbers.chunks_exact(width).map(wide_squared_norm).collect()));
    }
    let rows = tensor.detach().reshape((examples, width))?.to_dtype(DType::F32)?;
    let sums: Vec<f32> = rows.sqr()?.sum(D::Minus1)?.to_vec1()?;
    Ok(sums.into_iter().map(f64::from).collect())
}
