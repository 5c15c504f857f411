//! Losses as tensors: the scalar to differentiate, and the output columns of each example.

use super::classifier::{self, Sizes, Targets};
use super::outputs::{self, ClosedForm, Outputs, Weighing};
use super::prediction;
use crate::taps::{watch_scalar, Upstream};
use candle_core::{bail, CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, WithDType};
use gradlog_format::log::PredictionScore;
use num_traits::Float;
use std::sync::Arc;

/// A loss, and what a pass keeps with it.
pub(super) struct Recorded {
    pub loss: Tensor,
    pub outputs: Outputs,
    pub coefficients: Vec<f32>,
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

/// Computes the loss of `output` against `target` in closed form.
///
/// For f32 and f64 in main memory the loss is one op. Otherwise the closed form is computed in f32 from a copy of the
/// outputs. The loss is then `Σ output ∘ (c δ)` plus a constant that corrects its value; its gradient by the output is
/// the same `c δ`.
pub(super) fn closed_form(
    kind: &Kind,
    output: &Tensor,
    target: &Tensor,
    weighing: &Weighing,
    upstream: &Upstream,
    keep_delta: bool,
) -> Result<Recorded> {
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
            let loss = watch_scalar(&loss, upstream)?;
            record_form(form, loss, host.shape(), keep_delta)
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
    let outputs = form.outputs.clone();
    let coefficients = form.coefficients.iter().map(|c| c.to_f32().unwrap_or(f32::NAN)).collect();
    let delta = if keep_delta { Some(delta_tensor(&form, output.shape())?) } else { None };
    Ok(Recorded { loss, outputs, coefficients, delta })
}

fn record_form<T: Number>(form: ClosedForm<T>, loss: Tensor, shape: &Shape, keep_delta: bool) -> Result<Recorded> {
    let delta = if keep_delta { Some(delta_tensor(&form, shape)?) } else { None };
    let coefficients = form.coefficients.iter().map(|c| c.to_f32().unwrap_or(f32::NAN)).collect();
    Ok(Recorded { loss, outputs: form.outputs, coefficients, delta })
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
trait Number: Float + WithDType + Send + Sync {}
impl Number for f32 {}
impl Number for f64 {}

fn compute_form<T: Number>(
    kind: &Kind,
    output: &Tensor,
    target: &Tensor,
    weighing: &Weighing,
) -> Result<ClosedForm<T>> {
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
            let (targets, sizes) = read_targets::<T>(output, target, *ignored, mask.as_ref())?;
            with_numbers::<T, _>(output, |logits| {
                classifier::cross_entropy(logits, &targets, sizes, weighing).map_err(candle_core::Error::msg)
            })
        }
        Kind::PredictionScore(score) => {
            let &[_, classes] = output.dims() else {
                bail!("a score of a prediction takes logits [batch, classes], not {:?}", output.shape());
            };
            let given = match target.elem_count() {
                0 => None,
                _ if target.dims() == [batch] => Some(read_labels(target, None, None)?.into_iter().flatten().collect()),
                _ => bail!("the classes must be a tensor of shape [{batch}], not {:?}", target.shape()),
            };
            let given: Option<Vec<u32>> = given;
            with_numbers::<T, _>(output, |logits| {
                prediction::prediction_score(logits, given.as_deref(), batch, classes, *score, weighing)
                    .map_err(candle_core::Error::msg)
            })
        }
        Kind::MeanSquaredError | Kind::BinaryCrossEntropy => {
            if output.dims() != target.dims() {
                bail!(
                    "the loss takes outputs and targets of one shape, not {:?} and {:?}",
                    output.shape(),
                    target.shape()
                );
            }
            let targets = read_numbers::<T>(target)?;
            let is_probability = |t: &T| *t >= T::zero() && *t <= T::one();
            if let (Kind::BinaryCrossEntropy, Some(bad)) = (kind, targets.iter().find(|t| !is_probability(t))) {
                bail!(
                    "a target is {}, and binary cross entropy takes targets of 0 to 1: convert them, or give your own losses to \
                     `pass.losses`",
                    outputs::to_f32(*bad)
                );
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

fn with_numbers<T: Number, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (candle_core::Storage::Cpu(cpu), Some((start, end))) => f(&cpu.as_slice::<T>()?[start..end]),
        _ => bail!("the outputs must be contiguous in main memory"),
    }
}

fn read_numbers<T: Number>(tensor: &Tensor) -> Result<Vec<T>> {
    tensor.detach().to_device(&Device::Cpu)?.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1()
}

/// Reads the targets of logits: class numbers, or probabilities in the logits' shape.
fn read_targets<T: Number>(
    logits: &Tensor,
    target: &Tensor,
    ignored: Option<i64>,
    mask: Option<&Tensor>,
) -> Result<(Targets<T>, Sizes)> {
    let is_soft = target.dtype().is_float() && matches!(target.rank(), 2 | 3);
    let sizes = match (logits.dims(), target.dims()) {
        (&[b, c], &[tb]) if b == tb => Sizes { batch: b, positions: 1, classes: c, is_sequence: false },
        (&[b, t, c], &[tb, tt]) if (b, t) == (tb, tt) => Sizes { batch: b, positions: t, classes: c, is_sequence: true },
        (&[b, c], own) if is_soft && own == [b, c] => {
            Sizes { batch: b, positions: 1, classes: c, is_sequence: false }
        }
        (&[b, t, c], own) if is_soft && own == [b, t, c] => {
            Sizes { batch: b, positions: t, classes: c, is_sequence: true }
        }
        (z, t) => bail!(
            "logits [batch, classes] take class numbers [batch] or probabilities [batch, classes], and logits [batch, positions, \
             classes] take [batch, positions] or [batch, positions, classes], not {z:?} with {t:?} {:?}: probabilities are floats, \
             class numbers are integers; for another loss give its values to `pass.losses`, and logits with such targets to \
             `pass.logits`",
            target.dtype()
        ),
    };
    if target.rank() < logits.rank() {
        return Ok((Targets::Classes(read_labels(target, ignored, mask)?), sizes));
    }
    if ignored.is_some() {
        bail!("`pass.ignore_index` marks class numbers, and these targets are probabilities: use `pass.mask`");
    }
    let counted = match mask {
        Some(mask) if mask.dims() != &logits.dims()[..logits.rank() - 1] => bail!(
            "a mask of shape {:?} does not fit logits of shape {:?}: give a number for each prediction",
            mask.shape(),
            logits.shape()
        ),
        Some(mask) => Some(read_mask(mask)?),
        None => None,
    };
    Ok((Targets::Shares { shares: read_numbers(target)?, counted }, sizes))
}

/// What logits say of each example, without a loss. Other types than f32 and f64 are converted to f32.
pub(super) fn describe_logits(
    logits: &Tensor,
    target: &Tensor,
    ignored: Option<i64>,
    mask: Option<&Tensor>,
) -> Result<Outputs> {
    fn describe<T: Number>(logits: &Tensor, (targets, sizes): (Targets<T>, Sizes)) -> Result<Outputs> {
        with_numbers::<T, _>(logits, |logits| {
            classifier::describe_logits(logits, &targets, sizes).map_err(candle_core::Error::msg)
        })
    }
    let host = logits.detach().to_device(&Device::Cpu)?;
    match host.dtype() {
        DType::F64 => describe::<f64>(&host, read_targets(logits, target, ignored, mask)?),
        _ => describe::<f32>(&host.to_dtype(DType::F32)?, read_targets(logits, target, ignored, mask)?),
    }
}

/// Which positions count.
fn read_mask(mask: &Tensor) -> Result<Vec<bool>> {
    let numbers = read_numbers::<f32>(mask)?;
    if let Some(bad) = numbers.iter().find(|number| !matches!(**number, 0.0 | 1.0)) {
        bail!(
            "a number of the mask is {bad}, and a mask has 0 for what does not count and 1 for what does: weigh examples with \
             `pass.weights`, and positions by losses of your own with `pass.losses`"
        );
    }
    Ok(numbers.into_iter().map(|number| number == 1.0).collect())
}

/// The class numbers; `None` at positions without a target.
fn read_labels(target: &Tensor, ignored: Option<i64>, mask: Option<&Tensor>) -> Result<Vec<Option<u32>>> {
    if !target.dtype().is_int() {
        bail!("class numbers must be integers, not {:?}: convert the targets", target.dtype());
    }
    let numbers = target.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    let counted: Option<Vec<bool>> = match mask {
        Some(mask) if mask.dims() != target.dims() => {
            bail!("a mask of shape {:?} does not fit targets of shape {:?}", mask.shape(), target.shape())
        }
        Some(mask) => Some(read_mask(mask)?),
        None => None,
    };
    let label = |(place, number): (usize, &i64)| {
        if Some(*number) == ignored || counted.as_ref().is_some_and(|counted| !counted[place]) {
            return Ok(None);
        }
        match u32::try_from(*number) {
            Ok(label) => Ok(Some(label)),
            Err(_) => {
                bail!("label {number} is no class number: labels count from 0; mark positions without one with `pass.ignore_index`")
            }
        }
    };
    numbers.iter().enumerate().map(label).collect()
}

/// The loss `L = Σ c_i ℓ_i` from the caller's own losses `ℓ`, `[batch]`.
pub(super) fn weigh_losses(losses: &Tensor, weighing: &Weighing, upstream: &Upstream) -> Result<Recorded> {
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
    let coefficients: Vec<f32> = weighing.coefficients(&vec![1; batch]);
    let weights =
        Tensor::from_slice(&coefficients, batch, &Device::Cpu)?.to_dtype(losses.dtype())?.to_device(losses.device())?;
    let loss = watch_scalar(&(losses * weights)?.sum_all()?, upstream)?;
    let outputs = Outputs::from_losses(losses.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1()?);
    Ok(Recorded { loss, outputs, coefficients, delta: None })
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
