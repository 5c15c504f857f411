//! Pictures of 8 by 8 to a few numbers and back, by transposed convolutions.

use super::nn::{
    conv2d, conv_transpose2d, conv_transpose2d_no_bias, linear, Conv2d, Conv2dConfig, ConvTranspose2d,
    ConvTranspose2dConfig, Linear, Module, VarBuilder,
};
use candle_core::{Result, Tensor};

#[derive(Debug, Clone)]
pub struct Autoencoder {
    down: Conv2d,
    up1: ConvTranspose2d,
    up2: ConvTranspose2d,
    compare: Linear,
}

impl Autoencoder {
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let halve = Conv2dConfig { stride: 2, padding: 1, ..Default::default() };
        let double = ConvTranspose2dConfig { stride: 2, padding: 1, ..Default::default() };
        Ok(Self {
            down: conv2d(1, 3, 4, halve, vb.pp("down"))?,
            up1: conv_transpose2d(3, 2, 4, double, vb.pp("up1"))?,
            up2: conv_transpose2d_no_bias(2, 1, 3, ConvTranspose2dConfig::default(), vb.pp("up2"))?,
            compare: linear(100, 3, vb.pp("compare"))?,
        })
    }

    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, _) = xs.dims2()?;
        let small = self.down.forward(&xs.reshape((batch, 1, 8, 8))?)?.tanh()?;
        let image = self.up2.forward(&self.up1.forward(&small)?.tanh()?)?;
        self.compare.forward(&image.flatten_from(1)?)
    }
}
