//! `BatchNorm` is refused: in training its statistics couple the examples of a batch, so no example has a gradient of its own.

use super::gradient::PerExample;
use super::spec::LayerSpec;
use super::tap::Tap;
use candle_core::{bail, Result, Tensor};
use candle_nn::BatchNorm;

const REFUSAL: &str = "BatchNorm has no per-example gradient, because each output depends on the whole batch: use GroupNorm, \
                       LayerNorm or RmsNorm. Left untapped, it still mixes examples: in training mode only the layers behind it \
                       have gradients that are each example's own";

impl Tap for BatchNorm {
    fn spec(&self) -> std::result::Result<LayerSpec, String> {
        Err(REFUSAL.into())
    }

    fn plain_forward(&self, _x: &Tensor) -> Result<Tensor> {
        bail!("{REFUSAL}")
    }

    fn per_example(&self, _x: &Tensor, _delta: &Tensor) -> Result<PerExample> {
        bail!("{REFUSAL}")
    }
}
