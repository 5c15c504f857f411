//! `ConvTranspose1d` and `ConvTranspose2d`: the transpose of a convolution, by the same windows.
//!
//! candle's `conv_transpose1d` has no backward, and a wrong forward for several examples (docs/candle-faults.md, 8, 9).
//! Its `conv_transpose2d` has a backward, except where the output padding reaches the stride (10). So what is not fused
//! is made of those of candle's ops that are right.

use super::op::{fused_forward, per_example, Direction};
use super::windows::{Geometry, Settings};
use super::{describe, is_fused};
use crate::taps::catch::Catch;
use crate::taps::per_example::PerExample;
use crate::taps::spec::LayerSpec;
use crate::taps::tap::{Tap, TapError};
use candle_core::{bail, Module, Result, Tensor};
use candle_nn::{ConvTranspose1d, ConvTranspose1dConfig, ConvTranspose2d, ConvTranspose2dConfig};

impl From<&ConvTranspose1dConfig> for Settings {
    fn from(config: &ConvTranspose1dConfig) -> Self {
        let &ConvTranspose1dConfig { padding, stride, dilation, groups, .. } = config;
        Self { padding, stride, dilation, groups }
    }
}

/// candle has no groups in two dimensions.
impl From<&ConvTranspose2dConfig> for Settings {
    fn from(config: &ConvTranspose2dConfig) -> Self {
        let &ConvTranspose2dConfig { padding, stride, dilation, .. } = config;
        Self { padding, stride, dilation, groups: 1 }
    }
}

/// The layer's geometry for an input of the shape `x`.
fn geometry(x: &Tensor, weight: &Tensor, settings: Settings, output_padding: usize, rank: usize) -> Result<Geometry> {
    if x.rank() != rank {
        bail!("a transposed convolution takes an input of {rank} dimensions, not the shape {:?}", x.shape());
    }
    Geometry::transposed(x.dims(), weight.dims(), settings, output_padding)
}

/// The layer by candle's `conv_transpose2d` without padding, cut and padded afterwards. Its backward is right.
fn composed_forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Geometry,
    settings: Settings,
) -> Result<Tensor> {
    let is_line = x.rank() == 3;
    let (x, weight) = if is_line { (x.unsqueeze(2)?, weight.unsqueeze(2)?) } else { (x.clone(), weight.clone()) };
    let (inputs, groups) = (geometry.outputs, geometry.groups);
    let group = |group: usize| {
        let (x, weight) = (x.narrow(1, group * inputs, inputs)?, weight.narrow(0, group * inputs, inputs)?);
        x.conv_transpose2d(&weight, 0, 0, settings.stride, settings.dilation)
    };
    let y = match groups {
        1 => group(0)?,
        _ => Tensor::cat(&(0..groups).map(group).collect::<Result<Vec<_>>>()?, 1)?,
    };
    let y = cut(&y, 3, settings.padding, geometry.width)?;
    let y = if is_line { y.squeeze(2)? } else { cut(&y, 2, settings.padding, geometry.height)? };
    let Some(bias) = bias else { return Ok(y) };
    let mut shape = vec![1; y.rank()];
    shape[1] = bias.dims1()?;
    y.broadcast_add(&bias.reshape(shape)?)
}

/// The `size` numbers from `first` on. Those behind the last one are 0.
fn cut(y: &Tensor, dim: usize, first: usize, size: usize) -> Result<Tensor> {
    let found = y.dim(dim)?.saturating_sub(first).min(size);
    let y = y.narrow(dim, first, found)?;
    if found == size {
        Ok(y)
    } else {
        y.pad_with_zeros(dim, 0, size - found)
    }
}

macro_rules! transposed_convolution {
    ($layer:ident, $rank:literal, $kind:literal, $is_sound:expr) => {
        impl Tap for $layer {
            fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
                Ok(describe($kind, self.weight(), self.bias()))
            }

            fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
                let settings = Settings::from(self.config());
                let geometry = geometry(x, self.weight(), settings, self.config().output_padding, $rank)?;
                if $is_sound(self) {
                    return Module::forward(self, x);
                }
                composed_forward(x, self.weight(), self.bias(), geometry, settings)
            }

            fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
                if !is_fused(catch, x, self.weight(), self.bias()) {
                    return catch.output(x, self.plain_forward(x)?);
                }
                let geometry = geometry(x, self.weight(), self.config().into(), self.config().output_padding, $rank)?;
                fused_forward(x, self.weight(), self.bias(), geometry, Direction::Transposed, catch)
            }

            fn per_example_reads_parameters(&self) -> bool {
                false
            }

            fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
                let geometry = geometry(x, self.weight(), self.config().into(), self.config().output_padding, $rank)?;
                per_example(geometry, Direction::Transposed, x, delta, self.bias().is_some())
            }
        }
    };
}

transposed_convolution!(ConvTranspose1d, 3, "conv_transpose1d", |_: &ConvTranspose1d| false);
transposed_convolution!(ConvTranspose2d, 4, "conv_transpose2d", |layer: &ConvTranspose2d| {
    layer.config().output_padding < layer.config().stride
});
