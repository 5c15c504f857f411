//! ReLU with one pass forward and one pass backward.

use crate::taps::parallel::fresh;
use crate::taps::{cpu_f32, slice, with_slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Computes `max(x, 0)`, of the shape of `x`. Value and gradient equal those of `x.relu()` bit for bit, but for the
/// sign of a zero: a value's is positive here, and candle leaves it to the compiler.
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
        let y = fresh(x.len(), |y| {
            let x = &x[y.first()..];
            // `max` may give either zero for `-0`, whatever the compiler makes of it.
            y.write(x.iter().map(|x| if *x > 0.0 { *x } else { 0.0 }));
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let out = with_slice(grad, |g| {
            with_slice(x, |x| {
                Ok(fresh(x.len(), |out| {
                    let (x, g) = (&x[out.first()..], &g[out.first()..]);
                    // A product, as in candle, so that a gradient that is not finite stays not finite.
                    out.write(g.iter().zip(x).map(|(g, x)| g * if *x >= 0.0 { 1.0 } else { 0.0 }));
                }))
            })
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}
