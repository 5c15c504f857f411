//! The model: a decoder-only transformer over characters. `gradlog::nn` stands in the place of `candle_nn`.
//!
//! All tensors keep the batch as their first dimension through every layer. gradlog needs that to separate the
//! examples. So position ids are expanded to `[batch, positions]`. And the linear layers get `[batch, positions,
//! width]`, not `[batch * positions, width]`.

use candle_core::{Device, Module, Result, Tensor};
use gradlog::nn::{embedding, layer_norm, linear, ops, Embedding, LayerNorm, Linear, VarBuilder};

pub const WIDTH: usize = 64;
pub const BLOCKS: usize = 2;
const HEADS: usize = 4;

pub struct Transformer {
    characters: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

struct Block {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    mix: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Transformer {
    /// A model over `vocabulary` characters for sequences of up to `length`.
    pub fn new(vocabulary: usize, length: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let characters = embedding(vocabulary, WIDTH, vb.pp("characters"))?;
        let positions = embedding(length, WIDTH, vb.pp("positions"))?;
        let blocks = (0..BLOCKS).map(|n| Block::new(vb.pp(format!("block{n}")))).collect::<Result<_>>()?;
        let norm = layer_norm(WIDTH, 1e-5, vb.pp("norm"))?;
        let head = linear(WIDTH, vocabulary, vb.pp("head"))?;
        Ok(Self { characters, positions, blocks, norm, head })
    }

    /// Character numbers `[batch, positions]` to logits of the next character, `[batch, positions, vocabulary]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, positions) = x.dims2()?;
        let places = Tensor::arange(0, positions as u32, x.device())?.expand((batch, positions))?;
        let mut h = (self.characters.forward(x)? + self.positions.forward(&places)?)?;
        let mask = causal_mask(positions, x.device())?;
        for block in &self.blocks {
            h = block.forward(&h, &mask)?;
        }
        self.head.forward(&self.norm.forward(&h)?)
    }
}

impl Block {
    fn new(vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            norm1: layer_norm(WIDTH, 1e-5, vb.pp("norm1"))?,
            query: linear(WIDTH, WIDTH, vb.pp("query"))?,
            key: linear(WIDTH, WIDTH, vb.pp("key"))?,
            value: linear(WIDTH, WIDTH, vb.pp("value"))?,
            mix: linear(WIDTH, WIDTH, vb.pp("mix"))?,
            norm2: layer_norm(WIDTH, 1e-5, vb.pp("norm2"))?,
            up: linear(WIDTH, 4 * WIDTH, vb.pp("up"))?,
            down: linear(4 * WIDTH, WIDTH, vb.pp("down"))?,
        })
    }

    fn forward(&self, h: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let h = (h + self.attend(&self.norm1.forward(h)?, mask)?)?;
        let inner = self.up.forward(&self.norm2.forward(&h)?)?.relu()?;
        &h + self.down.forward(&inner)?
    }

    fn attend(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, positions, _) = x.dims3()?;
        let by_head = |y: Tensor| y.reshape((batch, positions, HEADS, WIDTH / HEADS))?.transpose(1, 2)?.contiguous();
        let query = by_head(self.query.forward(x)?)?;
        let key = by_head(self.key.forward(x)?)?;
        let value = by_head(self.value.forward(x)?)?;
        let scale = 1.0 / ((WIDTH / HEADS) as f64).sqrt();
        let scores = (query.matmul(&key.t()?)? * scale)?.broadcast_add(&mask.to_dtype(x.dtype())?)?;
        // This one has a backward. That of candle_nn has none.
        let mixed = ops::softmax_last_dim(&scores)?.matmul(&value)?;
        self.mix.forward(&mixed.transpose(1, 2)?.contiguous()?.reshape((batch, positions, WIDTH))?)
    }
}

/// `[positions, positions]`: 0 at the current and earlier positions, minus infinity at later ones.
fn causal_mask(positions: usize, device: &Device) -> Result<Tensor> {
    let entry = |place: usize| if place % positions > place / positions { f32::NEG_INFINITY } else { 0.0 };
    Tensor::from_vec((0..positions * positions).map(entry).collect(), (positions, positions), device)
}
