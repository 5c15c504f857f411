//! ReLU with one pass forward and one pass backward.

use crate::taps::parallel::share_rows;
use crate::taps::{cpu_f32, slice, with_slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// With this many numbers it pays to wake a thread for an element-wise pass.
const STRETCH: usize = 1 << 12;

/// Computes `max(x, 0)`, of the shape of `x`. Value and gradient equal those of `x.relu()` bit for bit.
///
/// The slope at 0 is 1, as in candle. In PyTorch it is 0. See [the module's page](super#where-pytorch-differs).
///
/// For f32 in main memory it takes one pass forward and one backward. Other dtypes and devices use candle's `relu`.
///
/// # Errors
/// candle's error.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if !cpu_f32(&[x]) {
        return x.relu();
    }
    x.contiguous()?.apply_op1(Relu)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "gradlog-relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        share_rows(&mut y, STRETCH, |first, y| {
            let x = &x[first * STRETCH..];
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x.max(0.0));
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = vec![0f32; x.elem_count()];
        with_slice(grad, |g| {
            with_slice(x, |x| {
                share_rows(&mut out, STRETCH, |first, out| {
                    let from = first * STRETCH;
                    for ((out, x), g) in out.iter_mut().zip(&x[from..]).zip(&g[from..]) {
                        // A product, as in candle, so that a gradient that is not finite stays not finite.
                        *out = g * if *x >= 0.0 { 1.0 } else { 0.0 };
                    }
                });
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}
