//! Convolutions over pictures of 8 by 8, as in candle's own example for digits, with a PReLU and a group norm.

use super::nn::{
    conv2d, conv2d_no_bias, group_norm, linear, prelu, Conv2d, Conv2dConfig, GroupNorm, Linear, Module, PReLU,
    VarBuilder,
};
use candle_core::{Result, Tensor, D};

#[derive(Debug)]
pub struct ConvNet {
    conv1: Conv2d,
    norm: GroupNorm,
    slope: PReLU,
    conv2: Conv2d,
    fc: Linear,
}

impl ConvNet {
    pub fn new(vs: VarBuilder) -> Result<Self> {
        let padded = Conv2dConfig { padding: 1, ..Default::default() };
        Ok(Self {
            conv1: conv2d(1, 4, 3, padded, vs.pp("c1"))?,
            norm: group_norm(2, 4, 1e-5, vs.pp("norm"))?,
            slope: prelu(Some(4), vs.pp("slope"))?,
            conv2: conv2d_no_bias(4, 6, 3, Conv2dConfig::default(), vs.pp("c2"))?,
            fc: linear(6, 3, vs.pp("fc"))?,
        })
    }

    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, _) = xs.dims2()?;
        let xs = xs.reshape((batch, 1, 8, 8))?.apply(&self.conv1)?.apply(&self.norm)?.apply(&self.slope)?;
        let xs = self.conv2.forward(&xs)?.relu()?;
        self.fc.forward(&xs.flatten_from(2)?.mean(D::Minus1)?)
    }
}
