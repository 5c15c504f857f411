//! Words to classes by `seq()`, closures and a convolution over one dimension.

use super::nn::{conv1d, embedding, linear, seq, Activation, Conv1dConfig, Module, Sequential, VarBuilder};
use candle_core::Result;

pub fn classifier(vb: VarBuilder) -> Result<Sequential> {
    let config = Conv1dConfig { padding: 1, ..Default::default() };
    Ok(seq()
        .add(embedding(11, 5, vb.pp("words"))?)
        .add_fn(|xs| xs.transpose(1, 2)?.contiguous())
        .add(conv1d(5, 7, 3, config, vb.pp("conv"))?)
        .add(Activation::NewGelu)
        .add_fn(|xs| xs.mean(2))
        .add(linear(7, 3, vb.pp("out"))?))
}

pub fn forward(model: &Sequential, ids: &candle_core::Tensor) -> Result<candle_core::Tensor> {
    model.forward(ids)
}
