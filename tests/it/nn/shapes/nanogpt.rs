//! A small GPT whose heads are boxed modules, with a layer norm before each part.

use super::nn::ops::softmax_last_dim;
use super::nn::{embedding, layer_norm, linear, linear_b, Embedding, LayerNorm, Linear, Module, VarBuilder};
use candle_core::{Result, Tensor};

const WIDTH: usize = 8;
const HEADS: usize = 2;

#[derive(Debug)]
struct Head {
    key: Linear,
    query: Linear,
    value: Linear,
}

impl Module for Head {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, length, _) = x.dims3()?;
        let (key, query) = (self.key.forward(x)?, self.query.forward(x)?);
        let scores = (query.matmul(&key.t()?)? / ((WIDTH / HEADS) as f64).sqrt())?;
        let mask: Vec<f32> =
            (0..length * length).map(|i| if i % length > i / length { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (1, length, length), x.device())?;
        softmax_last_dim(&scores.broadcast_add(&mask)?)?.matmul(&self.value.forward(x)?)
    }
}

struct Block {
    heads: Vec<Box<dyn Module>>,
    mix: Linear,
    norms: [LayerNorm; 2],
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(vb: VarBuilder) -> Result<Self> {
        let head = |n: usize| {
            let vb = vb.pp(format!("heads.{n}"));
            let part = |name| linear_b(WIDTH, WIDTH / HEADS, false, vb.pp(name));
            let head = Head { key: part("key")?, query: part("query")?, value: part("value")? };
            Ok(Box::new(head) as Box<dyn Module>)
        };
        Ok(Self {
            heads: (0..HEADS).map(head).collect::<Result<_>>()?,
            mix: linear(WIDTH, WIDTH, vb.pp("mix"))?,
            norms: [layer_norm(WIDTH, 1e-5, vb.pp("ln1"))?, layer_norm(WIDTH, 1e-5, vb.pp("ln2"))?],
            up: linear(WIDTH, 4 * WIDTH, vb.pp("up"))?,
            down: linear(4 * WIDTH, WIDTH, vb.pp("down"))?,
        })
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.norms[0].forward(x)?;
        let heads = self.heads.iter().map(|head| head.forward(&h)).collect::<Result<Vec<_>>>()?;
        let x = (x + self.mix.forward(&Tensor::cat(&heads, 2)?)?)?;
        let h = self.up.forward(&self.norms[1].forward(&x)?)?.gelu()?;
        x + self.down.forward(&h)?
    }
}

pub struct NanoGpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl NanoGpt {
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            tokens: embedding(11, WIDTH, vb.pp("tokens"))?,
            positions: embedding(4, WIDTH, vb.pp("positions"))?,
            blocks: (0..2).map(|n| Block::new(vb.pp(format!("blocks.{n}")))).collect::<Result<_>>()?,
            norm: layer_norm(WIDTH, 1e-5, vb.pp("norm"))?,
            head: linear(WIDTH, 3, vb.pp("head"))?,
        })
    }

    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let places = Tensor::arange(0, length as u32, ids.device())?.expand((batch, length))?;
        let mut x = (self.tokens.forward(ids)? + self.positions.forward(&places)?)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.head.forward(&self.norm.forward(&x)?.mean(1)?)
    }
}
