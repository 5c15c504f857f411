//! candle_nn's functions. Those that have no backward there have one here.
//!
//! | function | candle_nn 0.11 | here |
//! |---|---|---|
//! | `softmax_last_dim` | no backward | one op each way on the CPU in f32; else candle's `softmax` |
//! | `softmax` | a chain of ops | the same one op for the last dimension |
//! | `layer_norm`, `rms_norm` | no backward | that of the layers |
//!
//! All else is candle_nn's own function.

use crate::taps::parallel::share_rows;
use crate::taps::{cpu_f32, slice, with_slice};
use candle_core::shape::Dim;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, D};
pub use candle_nn::ops::*;
use gradlog_kernels::simd::{largest, sum_over, vectorized};

/// `exp(x) / Σ exp(x)` over the last dimension. The output has the shape of `xs`.
///
/// # Errors
/// candle's error.
pub fn softmax_last_dim(xs: &Tensor) -> Result<Tensor> {
    if xs.rank() == 0 || xs.elem_count() == 0 || !cpu_f32(&[xs]) {
        return candle_nn::ops::softmax(xs, D::Minus1);
    }
    xs.contiguous()?.apply_op1(Softmax)
}

/// `exp(x) / Σ exp(x)` over the dimension `dim`. The output has the shape of `xs`.
///
/// # Errors
/// candle's error.
pub fn softmax<I: Dim>(xs: &Tensor, dim: I) -> Result<Tensor> {
    let dim = dim.to_index(xs.shape(), "softmax")?;
    if dim + 1 == xs.rank() {
        return softmax_last_dim(xs);
    }
    candle_nn::ops::softmax(xs, dim)
}

/// `γ (x − mean) / √(variance + ε) + β` over the last dimension.
///
/// # Errors
/// candle's error.
pub fn layer_norm(xs: &Tensor, alpha: &Tensor, beta: &Tensor, eps: f32) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    if alpha.dims1()? != width || beta.dims1()? != width {
        candle_core::bail!(
            "shape mismatch in layer-norm src: {:?} alpha: {:?} beta: {:?}",
            xs.shape(),
            alpha.shape(),
            beta.shape()
        );
    }
    crate::taps::layer_norm(xs, alpha, beta, eps)
}

/// `γ x / √(mean of x² + ε)` over the last dimension.
///
/// # Errors
/// candle's error.
pub fn rms_norm(xs: &Tensor, alpha: &Tensor, eps: f32) -> Result<Tensor> {
    if alpha.dims1()? != xs.dim(D::Minus1)? {
        candle_core::bail!("shape mismatch in rms-norm {:?} {:?}", xs.shape(), alpha.shape());
    }
    crate::taps::rms_norm(xs, alpha, eps)
}

/// The softmax of each row.
struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "gradlog-softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let mut y = slice(x, layout)?.to_vec();
        share_rows(&mut y, width, |_, rows| {
            vectorized(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact_mut(width) {
                        let largest = largest(row);
                        row.iter_mut().for_each(|y| *y = (*y - largest).exp());
                        let sum = sum_over([row], |[y]| y);
                        row.iter_mut().for_each(|y| *y /= sum);
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    /// `∂L/∂x = y ∘ (δ − Σ δ ∘ y)`.
    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = y.dim(D::Minus1)?;
        let mut out = vec![0f32; y.elem_count()];
        with_slice(grad, |g| {
            with_slice(y, |y| {
                share_rows(&mut out, width, |first, out| {
                    let from = first * width;
                    let rows = y[from..].chunks_exact(width).zip(g[from..].chunks_exact(width));
                    vectorized(
                        #[inline(always)]
                        || {
                            for (out, (y, g)) in out.chunks_exact_mut(width).zip(rows) {
                                let along = sum_over([y, g], |[y, g]| y * g);
                                out.iter_mut().zip(y).zip(g).for_each(|((out, y), g)| *out = y * (g - along));
                            }
                        },
                    );
                });
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}
