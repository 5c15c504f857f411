//! `BatchNorm` is refused. Its statistics in training couple the examples of a batch, so no example has its own
//! gradient.

use super::gradient::PerExample;
use super::spec::LayerSpec;
use super::tap::{Tap, TapError};
use candle_core::{bail, Result, Tensor};
use candle_nn::BatchNorm;

const REFUSAL: &str = "BatchNorm has no per-example gradient, because each output depends on the whole batch: use GroupNorm, \
                       LayerNorm or RmsNorm. An untapped BatchNorm in training mode still mixes examples: then only the layers \
                       after it have per-example gradients";

impl Tap for BatchNorm {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        Err(TapError::new(REFUSAL))
    }

    fn plain_forward(&self, _x: &Tensor) -> Result<Tensor> {
        bail!("{REFUSAL}")
    }

    fn per_example(&self, _x: &Tensor, _delta: &Tensor) -> Result<PerExample> {
        bail!("{REFUSAL}")
    }
}
