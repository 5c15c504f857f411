//! `LayerNorm` and `RmsNorm` as one differentiable op.
//!
//! candle_nn 0.11 computes both, on contiguous inputs, with ops that have no backward. The gradient ends there without
//! a warning, and all layers before it stay frozen (candle issues 2168, 3011, 3752). The tapped layers have a gradient.
//! Ba, Kiros and Hinton 2016; Zhang and Sennrich 2019.

use super::catch::Catch;
use super::fused::{apply_layer, cpu_f32, needs_gradient, slice, with_slice, FusedLayer, Held, Operand};
use super::gradient::{read_f32, sum_and_fold, Folding};
use super::parallel::share_rows;
use super::per_example::PerExample;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{bail, CpuStorage, DType, Device, Result, Shape, Tensor, D};
use candle_nn::{LayerNorm, RmsNorm};
use gradlog_kernels::simd::{sum_over, vectorized};

impl Tap for LayerNorm {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        Ok(make_spec(if self.remove_mean() { "layer_norm" } else { "rms_norm" }, self.weight(), self.bias()))
    }

    /// Uses candle's differentiable ops, not candle_nn's kernel without a backward.
    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        composed_forward(x, self.weight(), self.bias(), self.eps(), self.remove_mean())
    }

    fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
        fused_forward(
            x,
            self.weight(),
            self.bias(),
            Kernel { eps: self.eps() as f32, remove_mean: self.remove_mean() },
            catch,
        )
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        let kernel = Kernel { eps: self.eps() as f32, remove_mean: self.remove_mean() };
        per_example(x, delta, kernel, self.bias().is_some())
    }
}

impl Tap for RmsNorm {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        Ok(make_spec("rms_norm", self.weight(), None))
    }

    /// Uses candle's differentiable ops, not candle_nn's kernel without a backward.
    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        composed_forward(x, self.weight(), None, self.eps(), false)
    }

    fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
        fused_forward(x, self.weight(), None, Kernel { eps: self.eps() as f32, remove_mean: false }, catch)
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        per_example(x, delta, Kernel { eps: self.eps() as f32, remove_mean: false }, false)
    }
}

fn make_spec(kind: &'static str, weight: &Tensor, bias: Option<&Tensor>) -> LayerSpec {
    let mut parameters = vec![Parameter::new("weight", weight)];
    parameters.extend(bias.map(|bias| Parameter::new("bias", bias)));
    LayerSpec { kind, parameters, factors: None, bias: bias.is_some() }
}

/// Computes the layer with candle's differentiable ops, for other devices and dtypes. Half precision is computed in
/// f32.
fn composed_forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64, remove_mean: bool) -> Result<Tensor> {
    let dtype = x.dtype();
    let width = x.dim(D::Minus1)? as f64;
    let x = match dtype {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    };
    let x = if remove_mean { x.broadcast_sub(&(x.sum_keepdim(D::Minus1)? / width)?)? } else { x };
    let variance = (x.sqr()?.sum_keepdim(D::Minus1)? / width)?;
    let normed = x.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)?;
    let scaled = normed.broadcast_mul(weight)?;
    match bias {
        Some(bias) => scaled.broadcast_add(bias),
        None => Ok(scaled),
    }
}

#[derive(Debug, Clone, Copy)]
struct Kernel {
    eps: f32,
    remove_mean: bool,
}

impl Kernel {
    /// `(mean, 1/sqrt(variance + eps))` of one row. The mean is 0 for RmsNorm.
    #[inline(always)]
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        let width = row.len() as f32;
        let mean = if self.remove_mean { sum_over([row], |[v]| v) / width } else { 0.0 };
        let variance = sum_over([row], |[v]| (v - mean) * (v - mean)) / width;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    fn forward(&self, x: &[f32], w: &[f32], b: Option<&[f32]>) -> Vec<f32> {
        let width = w.len();
        let mut y = vec![0f32; x.len()];
        share_rows(&mut y, width, |first, y| {
            let rows = y.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width));
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in rows {
                        self.fill_row(y, x, w, b);
                    }
                },
            );
        });
        y
    }

    #[inline(always)]
    fn fill_row(&self, y: &mut [f32], x: &[f32], w: &[f32], b: Option<&[f32]>) {
        let (mean, rstd) = self.moments(x);
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = (x - mean) * rstd * w;
        }
        if let Some(b) = b {
            y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
        }
    }

    /// `∂L/∂x = rstd · (γδ − mean(γδ) − x̂ · mean(γδ ∘ x̂))`, without the second term where the mean is not removed.
    fn input_gradient(&self, x: &[f32], w: &[f32], g: &[f32]) -> Vec<f32> {
        let width = w.len();
        let mut out = vec![0f32; x.len()];
        share_rows(&mut out, width, |first, out| {
            let (x, g) = (&x[first * width..], &g[first * width..]);
            let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width).zip(g.chunks_exact(width)));
            vectorized(
                #[inline(always)]
                || {
                    for (out, (x, g)) in rows {
                        self.fill_gradient(out, x, w, g);
                    }
                },
            );
        });
        out
    }

    #[inline(always)]
    fn fill_gradient(&self, out: &mut [f32], x: &[f32], w: &[f32], g: &[f32]) {
        let width = w.len() as f32;
        let (mean, rstd) = self.moments(x);
        let sum = if self.remove_mean { sum_over([g, w], |[g, w]| g * w) / width } else { 0.0 };
        let along = sum_over([x, g, w], |[x, g, w]| g * w * (x - mean) * rstd) / width;
        for (((out, x), g), w) in out.iter_mut().zip(x).zip(g).zip(w) {
            *out = rstd * (g * w - sum - (x - mean) * rstd * along);
        }
    }

    /// The gradient of one example: `Σ_t δ_t ∘ x̂_t`, then `Σ_t δ_t` if there is a bias.
    fn example_gradient(&self, x: &[f32], g: &[f32], width: usize, out: &mut [f32]) {
        out.fill(0.0);
        let (weights, biases) = out.split_at_mut(width);
        vectorized(
            #[inline(always)]
            || {
                for (x, g) in x.chunks_exact(width).zip(g.chunks_exact(width)) {
                    let (mean, rstd) = self.moments(x);
                    for ((slot, x), g) in weights.iter_mut().zip(x).zip(g) {
                        *slot += g * (x - mean) * rstd;
                    }
                    biases.iter_mut().zip(g).for_each(|(slot, g)| *slot += g);
                }
            },
        );
    }
}

fn fused_forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, kernel: Kernel, catch: &Catch) -> Result<Tensor> {
    let fits = x.rank() >= 1 && x.dims().last() == weight.dims().last() && x.elem_count() > 0;
    if !fits || !catch.fuses(&[x, weight]) || !bias.is_none_or(|b| cpu_f32(&[b])) {
        return catch.output(x, composed_forward(x, weight, bias, f64::from(kernel.eps), kernel.remove_mean)?);
    }
    catch.note_forward(x);
    apply_layer(NormOp { kernel, catch: catch.clone() }, x, weight, bias)
}

/// The layer norm as a function, with a backward. It is never recorded.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    fused_forward(x, weight, Some(bias), Kernel { eps, remove_mean: true }, &Catch::unarmed())
}

/// The RMS norm as a function, with a backward. It is never recorded.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    fused_forward(x, weight, None, Kernel { eps, remove_mean: false }, &Catch::unarmed())
}

fn per_example(x: &Tensor, delta: &Tensor, kernel: Kernel, bias: bool) -> Result<PerExample> {
    let &[batch, .., width] = x.dims() else {
        bail!("a norm's input must have the batch as its first dimension, not the shape {:?}", x.shape());
    };
    let parameters = width * (1 + usize::from(bias));
    if !x.device().is_cpu() {
        return per_example_by_ops(x, delta, kernel, bias);
    }
    let (xs, g) = (read_f32(x)?, read_f32(delta)?);
    let own = xs.len() / batch.max(1);
    let mut out = vec![0f32; batch * parameters];
    for (example, out) in out.chunks_exact_mut(parameters).enumerate() {
        let range = example * own..(example + 1) * own;
        kernel.example_gradient(&xs[range.clone()], &g[range], width, out);
    }
    Ok(PerExample::Dense(Tensor::from_vec(out, (batch, parameters), &Device::Cpu)?))
}

/// As [`per_example`], on the device of the tensors.
fn per_example_by_ops(x: &Tensor, delta: &Tensor, kernel: Kernel, bias: bool) -> Result<PerExample> {
    let (batch, width) = (x.dim(0)?, x.dim(D::Minus1)?);
    let rows = |t: &Tensor| t.to_dtype(DType::F32)?.contiguous()?.reshape((batch, (), width));
    let (x, delta) = (rows(x)?, rows(delta)?);
    let x = if kernel.remove_mean { x.broadcast_sub(&x.mean_keepdim(2)?)? } else { x };
    let deviation = (x.sqr()?.mean_keepdim(2)? + f64::from(kernel.eps))?.sqrt()?;
    let weight = (x.broadcast_div(&deviation)? * &delta)?.sum(1)?;
    Ok(PerExample::Dense(if bias { Tensor::cat(&[weight, delta.sum(1)?], 1)? } else { weight }))
}

struct NormOp {
    kernel: Kernel,
    catch: Catch,
}

impl FusedLayer for NormOp {
    const NAME: &'static str = "gradlog-norm";

    fn forward(&self, x: Operand<'_>, w: Operand<'_>, b: Option<Operand<'_>>) -> Result<(CpuStorage, Shape)> {
        let bias = b.map(|(storage, layout)| slice(storage, layout)).transpose()?;
        let y = self.kernel.forward(slice(x.0, x.1)?, slice(w.0, w.1)?, bias);
        Ok((CpuStorage::F32(y), x.1.shape().clone()))
    }

    fn backward(&self, x: &Tensor, w: &Tensor, held: Held, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let width = w.elem_count();
        let grad = grad.contiguous()?;
        let fold = self.catch.find_fold();
        if fold.is_none() {
            self.catch.keep_use(x, &grad);
        }
        let batch = if x.rank() > 1 { x.dim(0)? } else { 1 };
        let own = x.elem_count() / batch;
        with_slice(&grad, |g| {
            with_slice(x, |xs| {
                let x_grad = if needs_gradient(x) {
                    let out = with_slice(w, |w| Ok(self.kernel.input_gradient(xs, w, g)))?;
                    Some(Tensor::from_vec(out, x.shape(), x.device())?)
                } else {
                    None
                };
                if !held.trained {
                    return Ok([x_grad, None, None]);
                }
                let Held { bias, .. } = held;
                let parameters = width * (1 + usize::from(bias));
                let fill = |(): &mut (), example: usize, out: &mut [f32]| {
                    let range = example * own..(example + 1) * own;
                    self.kernel.example_gradient(&xs[range.clone()], &g[range], width, out);
                };
                let sum_all = |folding: Option<Folding<'_>>| sum_and_fold(batch, parameters, folding, || (), fill);
                let mut sum = match &fold {
                    Some(fold) => self.catch.keep_folded(fold, batch, |folding| sum_all(Some(folding))),
                    None => sum_all(None).0,
                };
                let b_grad = if bias { Some(Tensor::from_vec(sum.split_off(width), width, x.device())?) } else { None };
                Ok([x_grad, Some(Tensor::from_vec(sum, w.shape(), x.device())?), b_grad])
            })
        })
    }
}
