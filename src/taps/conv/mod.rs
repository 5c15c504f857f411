//! `Conv1d` and `Conv2d` as one op each: patches times kernel. The patches of one example at a time stay in cache.
//!
//! For each example, the gradient of the kernel is a matrix product of output gradients and patches. The sum over
//! examples is the batch's weight gradient. One by one they are the per-example gradients, which therefore cost little
//! more. candle_nn's backward uses transposed convolutions instead.

mod by_ops;
mod op;
mod transpose;
mod windows;

use super::catch::Catch;
use super::fused::cpu_f32;
use super::per_example::PerExample;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig};
use op::{fused_forward, per_example, Direction};
use windows::{Geometry, Settings};

/// Describes a convolution by its kernel and bias.
fn describe(kind: &'static str, weight: &Tensor, bias: Option<&Tensor>) -> LayerSpec {
    let mut parameters = vec![Parameter::new("weight", weight)];
    parameters.extend(bias.map(|bias| Parameter::new("bias", bias)));
    LayerSpec { kind, parameters, factors: None, bias: bias.is_some() }
}

/// Whether the convolution of `x` can run as one op.
fn is_fused(catch: &Catch, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> bool {
    x.elem_count() > 0 && catch.fuses(&[x, weight]) && bias.is_none_or(|bias| cpu_f32(&[bias]))
}

macro_rules! convolution {
    ($layer:ident, $config:ident, $kind:literal) => {
        impl From<&$config> for Settings {
            fn from(config: &$config) -> Self {
                let &$config { padding, stride, dilation, groups, .. } = config;
                Self { padding, stride, dilation, groups }
            }
        }

        impl Tap for $layer {
            fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
                Ok(describe($kind, self.weight(), self.bias()))
            }

            fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
                Module::forward(self, x)
            }

            fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
                if !is_fused(catch, x, self.weight(), self.bias()) {
                    return catch.output(x, Module::forward(self, x)?);
                }
                let geometry = Geometry::new(x.dims(), self.weight().dims(), self.config().into())?;
                fused_forward(x, self.weight(), self.bias(), geometry, Direction::Plain, catch)
            }

            fn per_example_reads_parameters(&self) -> bool {
                false
            }

            fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
                let geometry = Geometry::new(x.dims(), self.weight().dims(), self.config().into())?;
                per_example(geometry, Direction::Plain, x, delta, self.bias().is_some())
            }
        }
    };
}

convolution!(Conv1d, Conv1dConfig, "conv1d");
convolution!(Conv2d, Conv2dConfig, "conv2d");
