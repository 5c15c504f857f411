//! Activations, as in `candle_nn::activation`. Only a PReLU has something to train. He et al. 2015.

use super::built::built_layer;
use candle_core::{Result, Tensor};
pub use candle_nn::Activation;
use candle_nn::VarBuilder;

built_layer! {
    /// `max(x, 0) + w min(x, 0)`. `candle_nn::PReLU`, recorded.
    PReLU(candle_nn::PReLU)
}

impl PReLU {
    /// Makes a layer of slopes: one, or one for each channel.
    pub fn new(weight: Tensor, is_scalar: bool) -> Self {
        candle_nn::PReLU::new(weight, is_scalar).into()
    }

    /// The slopes.
    pub fn weight(&self) -> &Tensor {
        self.inner().weight()
    }

    /// Whether one slope serves all channels.
    pub fn is_scalar(&self) -> bool {
        self.inner().is_scalar()
    }
}

/// A PReLU with the variable `weight` of `vs`: one slope for each of `num_channels` channels, or one for all.
///
/// # Errors
/// candle's error.
pub fn prelu(num_channels: Option<usize>, vs: VarBuilder<'_>) -> Result<PReLU> {
    Ok(PReLU::at(&vs, candle_nn::prelu(num_channels, vs.clone())?))
}
