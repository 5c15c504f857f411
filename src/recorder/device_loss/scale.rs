//! The coefficients of the examples, as far as they can be known without waiting, and the loss that they make.

use super::ops::{choose, compute_type};
use super::Computed;
use crate::recorder::outputs::Weighing;
use crate::taps::{attach_backward, Upstream};
use candle_core::{Device, Result, Tensor};

/// `c_i = ∂L/∂ℓ_i` on the device.
#[derive(Clone)]
pub(super) enum Scale {
    /// That of every example.
    Same(f64),
    /// `[batch, 1]`.
    Each(Tensor),
}

impl Scale {
    /// Of examples with `count` predictions each. The tensor is of the type and device of `like`.
    pub(super) fn uniform(weighing: &Weighing, batch: usize, count: usize, like: &Tensor) -> Result<Self> {
        let own: Vec<f64> = weighing.coefficients(&vec![count; batch]);
        if weighing.weights.is_none() {
            return Ok(Self::Same(own.first().copied().unwrap_or(0.0)));
        }
        // Not every device has f64.
        let own = Tensor::from_vec(own, (batch, 1), &Device::Cpu)?.to_dtype(like.dtype())?;
        Ok(Self::Each(own.to_device(like.device())?))
    }

    /// Of examples whose predictions are counted on the device: `counts`, `[batch, 1]`.
    pub(super) fn counted(weighing: &Weighing, counts: &Tensor) -> Result<Self> {
        let mut own = counts.clone();
        if weighing.reduction == crate::recorder::Reduction::Mean {
            let total = counts.sum_all()?;
            own = own.broadcast_div(&total.maximum(&total.ones_like()?)?)?;
        }
        if let Some(weights) = &weighing.weights {
            let weights = Tensor::from_slice(weights, counts.shape(), counts.device())?;
            own = (own * weights.to_dtype(counts.dtype())?)?;
        }
        Ok(Self::Each(own))
    }

    /// `L = Σ c_i ℓ_i` of losses `[batch, 1]`. An example with `c_i = 0` takes no part, even with a loss that is not
    /// finite.
    fn value(&self, losses: &Tensor) -> Result<Tensor> {
        match self {
            Self::Same(c) => losses.sum_all()? * *c,
            Self::Each(c) => choose(&c.ne(0.0)?, &(c * losses)?, &c.zeros_like()?)?.sum_all(),
        }
    }

    /// `c_i` times a number, `[batch, 1]` or `[1, 1]`.
    fn times(&self, factor: &Tensor) -> Result<Tensor> {
        let factor = factor.reshape((1, 1))?;
        match self {
            Self::Same(c) => factor * *c,
            Self::Each(c) => c.broadcast_mul(&factor),
        }
    }
}

impl Computed {
    /// The loss of `output` as a tensor: its value is `Σ c_i ℓ_i`, its gradient `c_i δ_i`. Backward leaves what the
    /// loss was multiplied by in `upstream`, and waits for nothing.
    pub(super) fn attach(&self, output: &Tensor, upstream: &Upstream) -> Result<Tensor> {
        let (dtype, shape) = (output.dtype(), output.shape().clone());
        let poison = self.poison.as_ref().map(Tensor::sum_all).transpose()?;
        let spoil = move |x: Tensor| match &poison {
            Some(poison) => x + poison,
            None => Ok(x),
        };
        let value = spoil(self.scale.value(&self.losses)?)?.to_dtype(dtype)?;
        let delta = self.delta.reshape((self.losses.dim(0)?, ()))?;
        let (scale, upstream) = (self.scale.clone(), upstream.clone());
        attach_backward(output, &value, move |grad| {
            upstream.keep(grad);
            let factor = scale.times(&spoil(grad.detach().to_dtype(compute_type(dtype))?)?)?;
            delta.broadcast_mul(&factor)?.to_dtype(dtype)?.reshape(&shape)
        })
    }
}
