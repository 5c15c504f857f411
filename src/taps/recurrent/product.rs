//! One of the two linear layers of a recurrent layer.

use super::super::catch::Catch;
use super::super::per_example::PerExample;
use super::super::spec::LayerSpec;
use super::super::tap::{Tap, TapError};
use candle_core::{Result, Tensor};
use candle_nn::Linear;

/// A linear layer that is used at each step. Its gradients are recorded as sums, even if a pass has one step.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    kind: &'static str,
    layer: Linear,
}

impl Product {
    /// `kind` is the kind of the recurrent layer.
    pub(crate) fn new(kind: &'static str, weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { kind, layer: Linear::new(weight, bias) }
    }

    pub(super) fn weight(&self) -> &Tensor {
        self.layer.weight()
    }

    pub(super) fn bias(&self) -> Option<&Tensor> {
        self.layer.bias()
    }
}

impl Tap for Product {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        Ok(LayerSpec { kind: self.kind, factors: None, ..self.layer.spec()? })
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layer.plain_forward(x)
    }

    fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
        self.layer.tapped_forward(x, catch)
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        self.layer.per_example(x, delta)
    }

    fn per_example_reads_parameters(&self) -> bool {
        self.layer.per_example_reads_parameters()
    }
}
