//! A struct of layers whose constructor takes a `VarBuilder`.

use super::nn::{linear, linear_no_bias, Dropout, Linear, Module, ModuleT, VarBuilder};
use candle_core::{Result, Tensor};

#[derive(Debug, Clone)]
pub struct Mlp {
    input: Linear,
    hidden: Linear,
    output: Linear,
    dropout: Dropout,
}

impl Mlp {
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            input: linear(6, 8, vb.pp("input"))?,
            hidden: linear_no_bias(8, 8, vb.pp("hidden"))?,
            output: linear(8, 3, vb.pp("output"))?,
            dropout: Dropout::new(0.5),
        })
    }

    pub fn hidden_width(&self) -> usize {
        self.hidden.weight().dims()[0]
    }
}

impl ModuleT for Mlp {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let x = self.input.forward(x)?.relu()?;
        let x = self.dropout.forward(&x, train)?;
        let x = x.apply(&self.hidden)?.tanh()?;
        self.output.forward(&x)
    }
}
