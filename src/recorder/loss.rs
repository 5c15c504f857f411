//! Losses as tensors: the scalar to differentiate, and the output columns of each example.

use super::classifier::{self, Sizes, Targets};
use super::device_loss;
use super::later::Later;
use super::outputs::{self, ClosedForm, Outputs, Weighing};
use super::prediction;
use super::targets::{check_integers, check_targets, read_labels, read_numbers, read_targets, refuse_share};
use crate::taps::{watch_scalar, Upstream};
use candle_core::{bail, CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, WithDType};
use gradlog_format::log::PredictionScore;
use num_traits::Float;
use std::sync::Arc;

/// A loss, and what a pass keeps with it.
pub(super) struct Recorded {
    pub loss: Tensor,
    /// The number of losses.
    pub examples: usize,
    /// Whether the columns say how the model predicts a class.
    pub predicts: bool,
    /// The columns, and `c_i`.
    pub numbers: Later<(Outputs, Vec<f32>)>,
    /// Each example's own `∂ℓ_i/∂output`, of the output's shape, in f32. Kept only where it is needed.
    pub delta: Option<Tensor>,
}

/// The closed form to compute.
pub(super) enum Kind {
    /// Targets are class numbers, or probabilities of the classes. `ignored` is the number that marks a position
    /// without a target; `mask` is 0 there.
    CrossEntropy {
        ignored: Option<i64>,
        mask: Option<Tensor>,
    },
    MeanSquaredError,
    BinaryCrossEntropy,
    /// Minus a score of the prediction. The target is the class; an empty tensor means the predicted classes.
    PredictionScore(PredictionScore),
}

impl Kind {
    /// Whether the columns say how the model predicts a class.
    pub(super) fn predicts(&self) -> bool {
        !matches!(self, Self::MeanSquaredError)
    }
}

/// Computes the loss of `output` against `target` in closed form, with `on_device` by candle's ops.
///
/// Otherwise, for f32 and f64 in main memory, the loss is one op. For other outputs the closed form is computed in f32
/// from a copy. The loss is then `Σ output ∘ (c δ)` plus a constant that corrects its value; its gradient by the output
/// is the same `c δ`.
pub(super) fn closed_form(
    kind: &Kind,
    (output, target): (&Tensor, &Tensor),
    weighing: &Weighing,
    upstream: &Upstream,
    keep_delta: bool,
    on_device: bool,
) -> Result<Recorded> {
    if on_device && device_loss::takes(output) {
        return device_loss::closed_form(kind, output, target, weighing, upstream, keep_delta);
    }
    match (output.device(), output.dtype()) {
        (Device::Cpu, DType::F32) => cpu_loss::<f32>(kind, output, target, weighing, upstream, keep_delta),
        (Device::Cpu, DType::F64) => cpu_loss::<f64>(kind, output, target, weighing, upstream, keep_delta),
        _ => {
            let host = output.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let form = compute_form::<f32>(kind, &host, target, weighing)?;
            let scaled = Tensor::from_vec(scale_deltas(&form, 1.0), host.shape(), &Device::Cpu)?;
            let scaled = scaled.to_dtype(output.dtype())?.to_device(output.device())?;
            let surrogate = (output * scaled)?.sum_all()?;
            let value = Tensor::new(form.value, output.device())?.to_dtype(output.dtype())?;
            let loss = (&surrogate + (value - surrogate.detach())?)?;
            let loss = watch_scalar(&loss, upstream, false)?;
            record_form(&form, loss, host.shape(), keep_delta)
        }
    }
}

fn cpu_loss<T: Number>(
    kind: &Kind,
    output: &Tensor,
    target: &Tensor,
    weighing: &Weighing,
    upstream: &Upstream,
    keep_delta: bool,
) -> Result<Recorded> {
    let form = Arc::new(compute_form::<T>(kind, output, target, weighing)?);
    let op = ClosedFormOp { form: form.clone(), upstream: upstream.clone() };
    let loss = output.contiguous()?.apply_op1(op)?;
    record_form(&form, loss, output.shape(), keep_delta)
}

fn record_form<T: Number>(form: &ClosedForm<T>, loss: Tensor, shape: &Shape, keep_delta: bool) -> Result<Recorded> {
    let outputs = form.outputs.clone();
    let coefficients: Vec<f32> = form.coefficients.iter().map(|c| c.to_f32().unwrap_or(f32::NAN)).collect();
    let delta = if keep_delta { Some(delta_tensor(form, shape)?) } else { None };
    let (examples, predicts) = (outputs.loss.len(), outputs.describe_a_prediction());
    Ok(Recorded { loss, examples, predicts, numbers: Later::Here((outputs, coefficients)), delta })
}

fn delta_tensor<T: Number>(form: &ClosedForm<T>, shape: &Shape) -> Result<Tensor> {
    let values: Vec<f32> = form.delta.iter().map(|d| d.to_f32().unwrap_or(f32::NAN)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// `c_i δ_i · factor`.
fn scale_deltas<T: Number>(form: &ClosedForm<T>, factor: f64) -> Vec<T> {
    let own = form.delta.len() / form.coefficients.len().max(1);
    let factor = T::from(factor).unwrap_or_else(T::one);
    let mut out = Vec::with_capacity(form.delta.len());
    for (delta, c) in form.delta.chunks(own.max(1)).zip(&form.coefficients) {
        let weight = *c * factor;
        out.extend(delta.iter().map(|d| *d * weight));
    }
    out
}

/// The number types of closed forms: f32 and f64.
pub(super) trait Number: Float + WithDType + Send + Sync {}
impl Number for f32 {}
impl Number for f64 {}

fn compute_form<T: Number>(
    kind: &Kind,
    output: &Tensor,
    target: &Tensor,
    weighing: &Weighing,
) -> Result<ClosedForm<T>> {
    let (batch, _) = check_sizes(kind, output, target, weighing)?;
    match kind {
        Kind::CrossEntropy { ignored, mask } => {
            let (targets, sizes) = read_targets::<T>(output, target, *ignored, mask.as_ref())?;
            with_numbers::<T, _>(output, |logits| {
                classifier::cross_entropy(logits, &targets, sizes, weighing).map_err(candle_core::Error::msg)
            })
        }
        Kind::PredictionScore(score) => {
            let classes = output.dim(1)?;
            let given: Option<Vec<u32>> = match target.elem_count() {
                0 => None,
                _ => Some(read_labels(target, None, None)?.into_iter().flatten().collect()),
            };
            with_numbers::<T, _>(output, |logits| {
                prediction::prediction_score(logits, given.as_deref(), batch, classes, *score, weighing)
                    .map_err(candle_core::Error::msg)
            })
        }
        Kind::MeanSquaredError | Kind::BinaryCrossEntropy => {
            let targets = read_numbers::<T>(target)?;
            if matches!(kind, Kind::BinaryCrossEntropy) {
                targets.iter().try_for_each(|target| refuse_share(*target))?;
            }
            with_numbers::<T, _>(output, |values| {
                Ok(match kind {
                    Kind::MeanSquaredError => outputs::mean_squared_error(values, &targets, batch, weighing),
                    _ => outputs::binary_cross_entropy(values, &targets, batch, weighing),
                })
            })
        }
    }
}

/// The batch, and for cross entropy the sizes of the logits, if shapes, types and weights fit.
pub(super) fn check_sizes(
    kind: &Kind,
    output: &Tensor,
    target: &Tensor,
    weighing: &Weighing,
) -> Result<(usize, Option<Sizes>)> {
    let Some(&batch) = output.dims().first() else {
        bail!("the loss needs outputs with the batch as first dimension, not a scalar");
    };
    if weighing.weights.as_ref().is_some_and(|w| w.len() != batch) {
        bail!(
            "{} weights for a batch of {batch}: give one for each example",
            weighing.weights.as_ref().map_or(0, Vec::len)
        );
    }
    match kind {
        Kind::CrossEntropy { ignored, mask } => {
            return Ok((batch, Some(check_targets(output, target, *ignored, mask.as_ref())?)));
        }
        Kind::PredictionScore(_) => {
            let &[_, classes] = output.dims() else {
                bail!("a score of a prediction takes logits [batch, classes], not {:?}", output.shape());
            };
            if target.elem_count() > 0 && target.dims() != [batch] {
                bail!("the classes must be a tensor of shape [{batch}], not {:?}", target.shape());
            }
            if target.elem_count() > 0 {
                check_integers(target)?;
            }
            prediction::check_classes(classes).map_err(candle_core::Error::msg)?;
        }
        Kind::MeanSquaredError | Kind::BinaryCrossEntropy => {
            if output.dims() != target.dims() {
                bail!(
                    "the loss takes outputs and targets of one shape, not {:?} and {:?}",
                    output.shape(),
                    target.shape()
                );
            }
        }
    }
    Ok((batch, None))
}

fn with_numbers<T: Number, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (candle_core::Storage::Cpu(cpu), Some((start, end))) => f(&cpu.as_slice::<T>()?[start..end]),
        _ => bail!("the outputs must be contiguous in main memory"),
    }
}

/// What logits say of each example, without a loss, with `on_device` by candle's ops. Other types than f32 and f64 are
/// converted to f32.
pub(super) fn describe_logits(
    logits: &Tensor,
    target: &Tensor,
    ignored: Option<i64>,
    mask: Option<&Tensor>,
    on_device: bool,
) -> Result<Later<Outputs>> {
    if on_device && device_loss::takes(logits) {
        return device_loss::describe_logits(logits, target, ignored, mask);
    }
    fn describe<T: Number>(logits: &Tensor, (targets, sizes): (Targets<T>, Sizes)) -> Result<Outputs> {
        with_numbers::<T, _>(logits, |logits| {
            classifier::describe_logits(logits, &targets, sizes).map_err(candle_core::Error::msg)
        })
    }
    let host = logits.detach().to_device(&Device::Cpu)?;
    let outputs = match host.dtype() {
        DType::F64 => describe::<f64>(&host, read_targets(logits, target, ignored, mask)?),
        _ => describe::<f32>(&host.to_dtype(DType::F32)?, read_targets(logits, target, ignored, mask)?),
    };
    outputs.map(Later::Here)
}

/// The loss `L = Σ c_i ℓ_i` from the caller's own losses `ℓ`, `[batch]`.
pub(super) fn weigh_losses(
    losses: &Tensor,
    weighing: &Weighing,
    upstream: &Upstream,
    on_device: bool,
) -> Result<Recorded> {
    let batch = match *losses.dims() {
        [batch] => batch,
        _ => bail!(
            "per-example losses must be a tensor of shape [batch], not {:?}: take each example's mean or sum over its other \
             dimensions",
            losses.shape()
        ),
    };
    if !losses.dtype().is_float() {
        bail!("per-example losses must be floats, not {:?}: they have no gradient", losses.dtype());
    }
    if weighing.weights.as_ref().is_some_and(|w| w.len() != batch) {
        bail!(
            "{} weights for a batch of {batch}: give one for each example",
            weighing.weights.as_ref().map_or(0, Vec::len)
        );
    }
    if on_device && device_loss::takes(losses) {
        return device_loss::weigh_losses(losses, weighing, upstream);
    }
    let coefficients: Vec<f32> = weighing.coefficients(&vec![1; batch]);
    let weights =
        Tensor::from_slice(&coefficients, batch, &Device::Cpu)?.to_dtype(losses.dtype())?.to_device(losses.device())?;
    let loss = watch_scalar(&(losses * weights)?.sum_all()?, upstream, false)?;
    let outputs = Outputs::from_losses(losses.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1()?);
    Ok(Recorded { loss, examples: batch, predicts: false, numbers: Later::Here((outputs, coefficients)), delta: None })
}

/// A loss with known value and gradient, as an op.
struct ClosedFormOp<T> {
    form: Arc<ClosedForm<T>>,
    upstream: Upstream,
}

impl<T: Number> CustomOp1 for ClosedFormOp<T> {
    fn name(&self) -> &'static str {
        "gradlog-loss"
    }

    fn cpu_fwd(&self, _storage: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((T::to_cpu_storage_owned(vec![self.form.value]), Shape::from(())))
    }

    fn bwd(&self, output: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.upstream.add(grad)?;
        let factor = grad.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(Some(Tensor::from_vec(scale_deltas(&self.form, factor), output.shape(), output.device())?))
    }
}

/// The number of positions of features: 1 for `[batch, width]`.
pub(super) fn count_positions(tensor: &Tensor) -> Result<usize> {
    match *tensor.dims() {
        [_, _] => Ok(1),
        [_, positions, _] => Ok(positions),
        _ => bail!("features must be [batch, width] or [batch, positions, width], not {:?}", tensor.shape()),
    }
}
