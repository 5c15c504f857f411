//! Linear layers, as in `candle_nn::linear`.

use super::built::built_layer;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

built_layer! {
    /// `y = x Wᵀ + b` over the last dimension. `candle_nn::Linear`, recorded.
    ///
    /// Shapes: `x` is `[batch, .., inputs]`, `W` is `[outputs, inputs]`, `b` is `[outputs]`.
    Linear(candle_nn::Linear)
}

impl Linear {
    /// Makes a layer of `weight`, `[outputs, inputs]`, and perhaps `bias`, `[outputs]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        candle_nn::Linear::new(weight, bias).into()
    }

    /// The same as [`Linear::new`], as `candle_transformers::models::with_tracing` calls it.
    pub fn from_weights(weights: Tensor, bias: Option<Tensor>) -> Self {
        Self::new(weights, bias)
    }

    /// The weight, `[outputs, inputs]`.
    pub fn weight(&self) -> &Tensor {
        self.inner().weight()
    }

    /// The bias, `[outputs]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.inner().bias()
    }
}

/// candle_nn's layer, with the same weights.
impl From<Linear> for candle_nn::Linear {
    fn from(layer: Linear) -> Self {
        layer.inner().clone()
    }
}

/// candle_nn's layer, with the same weights.
impl From<&Linear> for candle_nn::Linear {
    fn from(layer: &Linear) -> Self {
        layer.inner().clone()
    }
}

/// A linear layer with the variables `weight` and `bias` of `vb`.
///
/// # Errors
/// candle's error.
pub fn linear(in_dim: usize, out_dim: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    Ok(Linear::at(&vb, candle_nn::linear(in_dim, out_dim, vb.clone())?))
}

/// A linear layer without a bias.
///
/// # Errors
/// candle's error.
pub fn linear_no_bias(in_dim: usize, out_dim: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    Ok(Linear::at(&vb, candle_nn::linear_no_bias(in_dim, out_dim, vb.clone())?))
}

/// A linear layer, with a bias if `bias` is set.
///
/// # Errors
/// candle's error.
pub fn linear_b(in_dim: usize, out_dim: usize, bias: bool, vb: VarBuilder<'_>) -> Result<Linear> {
    if bias {
        linear(in_dim, out_dim, vb)
    } else {
        linear_no_bias(in_dim, out_dim, vb)
    }
}
