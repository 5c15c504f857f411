//! Layer normalization, as in `candle_nn::layer_norm`, with a backward. Ba, Kiros and Hinton 2016; Zhang and Sennrich
//! 2019.

use super::built::built_layer;
use candle_core::{Module, Result, Tensor};
pub use candle_nn::LayerNormConfig;
use candle_nn::VarBuilder;

built_layer! {
    /// `γ (x − mean) / √(variance + ε) + β` over the last dimension. `candle_nn::LayerNorm`, recorded.
    ///
    /// candle's own, on contiguous inputs, has no backward: the layers before it would not train.
    LayerNorm(candle_nn::LayerNorm)
}

built_layer! {
    /// `γ x / √(mean of x² + ε)` over the last dimension. `candle_nn::RmsNorm`, recorded.
    ///
    /// candle's own, on contiguous inputs, has no backward: the layers before it would not train.
    RmsNorm(candle_nn::RmsNorm)
}

impl LayerNorm {
    /// Makes a layer of weight and bias, one number for each place of the last dimension.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        candle_nn::LayerNorm::new(weight, bias, eps).into()
    }

    /// Makes a layer without a bias.
    pub fn new_no_bias(weight: Tensor, eps: f64) -> Self {
        candle_nn::LayerNorm::new_no_bias(weight, eps).into()
    }

    /// Makes a layer that does not remove the mean.
    pub fn rms_norm(weight: Tensor, eps: f64) -> Self {
        candle_nn::LayerNorm::rms_norm(weight, eps).into()
    }

    /// The weight, γ.
    pub fn weight(&self) -> &Tensor {
        self.inner().weight()
    }

    /// The bias, β.
    pub fn bias(&self) -> Option<&Tensor> {
        self.inner().bias()
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.inner().eps()
    }

    /// Whether the mean is removed.
    pub fn remove_mean(&self) -> bool {
        self.inner().remove_mean()
    }
}

impl RmsNorm {
    /// Makes a layer of a weight, one number for each place of the last dimension.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        candle_nn::RmsNorm::new(weight, eps).into()
    }

    /// The weight, γ.
    pub fn weight(&self) -> &Tensor {
        self.inner().weight()
    }

    /// What is added to the mean square.
    pub fn eps(&self) -> f64 {
        self.inner().eps()
    }

    /// The same as `forward`, which has a backward here.
    ///
    /// # Errors
    /// candle's error.
    pub fn forward_diff(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward(xs)
    }
}

/// A layer norm with the variables `weight` and perhaps `bias` of `vb`.
///
/// # Errors
/// candle's error.
pub fn layer_norm<C: Into<LayerNormConfig>>(size: usize, config: C, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    Ok(LayerNorm::at(&vb, candle_nn::layer_norm(size, config, vb.clone())?))
}

/// A layer norm without a bias.
///
/// # Errors
/// candle's error.
pub fn layer_norm_no_bias(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    Ok(LayerNorm::at(&vb, candle_nn::layer_norm_no_bias(size, eps, vb.clone())?))
}

/// An RMS norm with the variable `weight` of `vb`.
///
/// # Errors
/// candle's error.
pub fn rms_norm(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<RmsNorm> {
    Ok(RmsNorm::at(&vb, candle_nn::rms_norm(size, eps, vb.clone())?))
}
