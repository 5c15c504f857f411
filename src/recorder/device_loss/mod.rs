//! Losses by candle's ops, on the device of the outputs.
//!
//! Nothing here waits for the device. The loss stays a tensor, and so does each example's own gradient `δ_i` by the
//! output, which backward multiplies by `c_i`. The columns need a few numbers of each example, or of each position of
//! cross entropy. They leave the device together, where the background thread or a policy reads them. Logits, soft
//! targets and gradients do not leave it.
//!
//! Numbers are f32, or f64 for f64 outputs. Columns are made of them in f64. They differ from those of main memory by
//! the rounding of sums and exponentials in that type.

mod cross_entropy;
mod elementwise;
mod ops;
mod rows;
mod scale;
mod score;
mod shares;
mod targets;
#[cfg(test)]
mod tests;

use super::later::{Later, Pending};
use super::loss::{check_sizes, Kind, Recorded};
use super::outputs::{Outputs, Weighing};
use crate::taps::{watch_scalar, Upstream};
use candle_core::{bail, DType, Result, Tensor};
use cross_entropy::{classes_max, Given};
use scale::Scale;

/// A loss before it is a tensor with a gradient.
struct Computed {
    /// `ℓ_i`, `[batch, 1]`.
    losses: Tensor,
    /// `∂ℓ_i/∂output`, in the output's order.
    delta: Tensor,
    scale: Scale,
    /// NaN where a target is wrong, else 0. It makes the loss and its whole gradient NaN, because targets are judged
    /// only where the numbers are read.
    poison: Option<Tensor>,
    /// The columns and the coefficients.
    described: Pending<(Outputs, Vec<f32>)>,
}

/// What logits say of each example: the columns of the prediction, the losses, and the numbers of counted positions.
pub(super) struct Described {
    pub outputs: Outputs,
    losses: Vec<f32>,
    counts: Vec<usize>,
}

/// Whether a loss of these outputs can be computed here.
pub(super) fn takes(output: &Tensor) -> bool {
    let is_counted = output.dims().last().is_none_or(|classes| *classes <= classes_max(output.dtype()));
    output.elem_count() > 0 && output.dtype().is_float() && is_counted
}

/// Computes the loss of `output` against `target`.
pub(super) fn closed_form(
    kind: &Kind,
    output: &Tensor,
    target: &Tensor,
    weighing: &Weighing,
    upstream: &Upstream,
    keep_delta: bool,
) -> Result<Recorded> {
    let (batch, sizes) = check_sizes(kind, output, target, weighing)?;
    let computed = match (kind, sizes) {
        (Kind::CrossEntropy { ignored, mask }, Some(sizes)) => {
            let given = Given { logits: output, target, ignored: *ignored, mask: mask.as_ref(), sizes };
            cross_entropy::cross_entropy(given, weighing)?
        }
        (Kind::CrossEntropy { .. }, None) => bail!("cross entropy needs logits and targets that fit"),
        (Kind::PredictionScore(score), _) => {
            let given = (target.elem_count() > 0).then_some(target);
            score::prediction_score(output, given, *score, weighing)?
        }
        (Kind::MeanSquaredError, _) => elementwise::mean_squared_error(output, target, weighing)?,
        (Kind::BinaryCrossEntropy, _) => elementwise::binary_cross_entropy(output, target, weighing)?,
    };
    let loss = computed.attach(output, upstream)?;
    let delta = computed.delta.reshape(output.shape())?;
    let delta = if keep_delta { Some(delta.to_dtype(DType::F32)?) } else { None };
    let numbers = Later::OnDevice(computed.described);
    Ok(Recorded { loss, examples: batch, predicts: kind.predicts(), numbers, delta })
}

/// What logits say of each example, without a loss.
pub(super) fn describe_logits(
    logits: &Tensor,
    target: &Tensor,
    ignored: Option<i64>,
    mask: Option<&Tensor>,
) -> Result<Later<Outputs>> {
    let sizes = super::targets::check_targets(logits, target, ignored, mask)?;
    let given = Given { logits, target, ignored, mask, sizes };
    Ok(Later::OnDevice(cross_entropy::describe_logits(given)?.map(|described| described.outputs)))
}

/// The loss `L = Σ c_i ℓ_i` from the caller's own losses `ℓ`, `[batch]`.
pub(super) fn weigh_losses(losses: &Tensor, weighing: &Weighing, upstream: &Upstream) -> Result<Recorded> {
    let batch = losses.dim(0)?;
    let coefficients: Vec<f32> = weighing.coefficients(&vec![1; batch]);
    let weighted = if weighing.weights.is_some() {
        let weights = Tensor::from_slice(&coefficients, batch, losses.device())?.to_dtype(losses.dtype())?;
        (losses * weights)?
    } else {
        (losses * f64::from(coefficients.first().copied().unwrap_or(0.0)))?
    };
    let loss = watch_scalar(&weighted.sum_all()?, upstream, true)?;
    let numbers = Pending::new(vec![losses.clone()], move |parts| {
        let losses = parts[0].iter().map(|loss| *loss as f32).collect();
        Ok((Outputs::from_losses(losses), coefficients))
    });
    Ok(Recorded { loss, examples: batch, predicts: false, numbers: Later::OnDevice(numbers), delta: None })
}
