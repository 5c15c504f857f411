//! The model: an ordinary CNN. `gradlog::nn` stands in the place of `candle_nn`, and nothing else differs.

use candle_core::{Module, Result, Tensor};
use gradlog::nn::{conv2d, linear, Conv2d, Conv2dConfig, Linear, VarBuilder};
use gradlog::ops::{max_pool2d, relu};

/// Number of features that enter the last layer.
pub const FEATURES: usize = 128;
pub const CLASSES: usize = 10;

pub struct Cnn {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
}

impl Cnn {
    pub fn new(vb: VarBuilder<'_>) -> Result<Self> {
        let plain = Conv2dConfig::default();
        Ok(Self {
            conv1: conv2d(1, 32, 3, plain, vb.pp("conv1"))?,
            conv2: conv2d(32, 64, 3, plain, vb.pp("conv2"))?,
            fc1: linear(64 * 12 * 12, FEATURES, vb.pp("fc1"))?,
            fc2: linear(FEATURES, CLASSES, vb.pp("fc2"))?,
        })
    }

    /// Maps images `[batch, 1, 28, 28]` to the features of the last layer, `[batch, 128]`, and the logits, `[batch,
    /// 10]`.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let x = relu(&self.conv1.forward(x)?)?;
        let x = max_pool2d(&relu(&self.conv2.forward(&x)?)?, 2)?;
        let features = relu(&self.fc1.forward(&x.flatten_from(1)?)?)?;
        let logits = self.fc2.forward(&features)?;
        Ok((features, logits))
    }
}
