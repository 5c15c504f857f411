//! A CNN for two classes, small enough to be trained hundreds of times.

use candle_core::{Module, Result, Tensor};
use gradlog::nn::{conv2d, linear, Conv2d, Conv2dConfig, Linear, VarBuilder};
use gradlog::ops::{max_pool2d, relu};

pub struct SmallCnn {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
}

impl SmallCnn {
    pub fn new(vb: VarBuilder<'_>) -> Result<Self> {
        let plain = Conv2dConfig::default();
        Ok(Self {
            conv1: conv2d(1, 8, 3, plain, vb.pp("conv1"))?,
            conv2: conv2d(8, 16, 3, plain, vb.pp("conv2"))?,
            fc1: linear(16 * 5 * 5, 64, vb.pp("fc1"))?,
            fc2: linear(64, 2, vb.pp("fc2"))?,
        })
    }

    /// Maps images `[batch, 1, 28, 28]` to logits `[batch, 2]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = max_pool2d(&relu(&self.conv1.forward(x)?)?, 2)?;
        let x = max_pool2d(&relu(&self.conv2.forward(&x)?)?, 2)?;
        self.fc2.forward(&relu(&self.fc1.forward(&x.flatten_from(1)?)?)?)
    }
}
