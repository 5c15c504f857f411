//! The model: a decoder-only transformer over characters, every layer tapped.
//!
//! All tensors keep the batch as their first dimension through every tapped layer. A tap needs that to separate the
//! examples. So position ids are expanded to `[batch, positions]`. And the linear layers get `[batch, positions,
//! width]`, not `[batch * positions, width]`.

use candle_core::{Device, Module, Result, Tensor, D};
use candle_nn::{embedding, layer_norm, linear, Embedding, LayerNorm, Linear, VarBuilder};
use gradlog::{Tapped, Taps};

pub const WIDTH: usize = 64;
pub const BLOCKS: usize = 2;
const HEADS: usize = 4;

pub struct Transformer {
    characters: Tapped<Embedding>,
    positions: Tapped<Embedding>,
    blocks: Vec<Block>,
    norm: Tapped<LayerNorm>,
    head: Tapped<Linear>,
}

struct Block {
    norm1: Tapped<LayerNorm>,
    query: Tapped<Linear>,
    key: Tapped<Linear>,
    value: Tapped<Linear>,
    mix: Tapped<Linear>,
    norm2: Tapped<LayerNorm>,
    up: Tapped<Linear>,
    down: Tapped<Linear>,
}

impl Transformer {
    /// A model over `vocabulary` characters for sequences of up to `length`.
    pub fn new(taps: &Taps, vocabulary: usize, length: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let characters = taps.tap("characters", embedding(vocabulary, WIDTH, vb.pp("characters"))?);
        let positions = taps.tap("positions", embedding(length, WIDTH, vb.pp("positions"))?);
        let blocks = (0..BLOCKS).map(|n| Block::new(taps, &format!("block{n}"), &vb)).collect::<Result<_>>()?;
        let norm = taps.tap("norm", layer_norm(WIDTH, 1e-5, vb.pp("norm"))?);
        let head = taps.tap("head", linear(WIDTH, vocabulary, vb.pp("head"))?);
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
    fn new(taps: &Taps, name: &str, vb: &VarBuilder<'_>) -> Result<Self> {
        let vb = vb.pp(name);
        let full = |part: &str| format!("{name}.{part}");
        // candle_nn's LayerNorm has no backward on contiguous inputs. A tapped one has.
        let norm =
            |part: &str| Ok::<_, candle_core::Error>(taps.tap(full(part), layer_norm(WIDTH, 1e-5, vb.pp(part))?));
        let layer = |part: &str, inputs, outputs| {
            Ok::<_, candle_core::Error>(taps.tap(full(part), linear(inputs, outputs, vb.pp(part))?))
        };
        Ok(Self {
            norm1: norm("norm1")?,
            query: layer("query", WIDTH, WIDTH)?,
            key: layer("key", WIDTH, WIDTH)?,
            value: layer("value", WIDTH, WIDTH)?,
            mix: layer("mix", WIDTH, WIDTH)?,
            norm2: norm("norm2")?,
            up: layer("up", WIDTH, 4 * WIDTH)?,
            down: layer("down", 4 * WIDTH, WIDTH)?,
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
        let scores = (query.matmul(&key.t()?)? * scale)?.broadcast_add(mask)?;
        // `softmax_last_dim` is faster but has no backward.
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        self.mix.forward(&mixed.transpose(1, 2)?.contiguous()?.reshape((batch, positions, WIDTH))?)
    }
}

/// `[positions, positions]`: 0 at the current and earlier positions, minus infinity at later ones.
fn causal_mask(positions: usize, device: &Device) -> Result<Tensor> {
    let entry = |place: usize| if place % positions > place / positions { f32::NEG_INFINITY } else { 0.0 };
    Tensor::from_vec((0..positions * positions).map(entry).collect(), (positions, positions), device)
}
