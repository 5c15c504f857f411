//! Group normalization, as in `candle_nn::group_norm`. Wu and He 2018.

use crate::taps::{tap_built, KnownGroupNorm, Tapped};
use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};

/// Normalization over groups of channels. `candle_nn::GroupNorm`, recorded.
///
/// Shapes: `x` is `[batch, channels, ..]`, weight and bias are `[channels]`.
#[derive(Clone)]
pub struct GroupNorm(Tapped<KnownGroupNorm>);

impl GroupNorm {
    /// Makes a layer of weight and bias, `[num_channels]` each.
    ///
    /// # Errors
    /// candle's error, for example if `num_groups` does not divide `num_channels`.
    pub fn new(weight: Tensor, bias: Tensor, num_channels: usize, num_groups: usize, eps: f64) -> Result<Self> {
        Ok(Self(tap_built("", KnownGroupNorm::new(weight, bias, num_channels, num_groups, eps)?)))
    }

    /// The layer as candle_nn has it. A forward pass through it is not recorded.
    pub fn inner(&self) -> &candle_nn::GroupNorm {
        self.0.inner().layer()
    }
}

impl Module for GroupNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Module::forward(&self.0, x)
    }
}

/// Prints the kind and not the numbers.
impl std::fmt::Debug for GroupNorm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupNorm").finish_non_exhaustive()
    }
}

/// A group norm with the variables `weight` and `bias` of `vb`.
///
/// # Errors
/// candle's error, for example if `num_groups` does not divide `num_channels`.
pub fn group_norm(num_groups: usize, num_channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<GroupNorm> {
    let weight = vb.get_with_hints(num_channels, "weight", Init::Const(1.))?;
    let bias = vb.get_with_hints(num_channels, "bias", Init::Const(0.))?;
    let layer = KnownGroupNorm::new(weight, bias, num_channels, num_groups, eps)?;
    Ok(GroupNorm(tap_built(&vb.prefix(), layer)))
}
