//! The model: a CNN over words (Kim 2014). `gradlog::nn` stands in the place of `candle_nn`.

use candle_core::{Module, Result, Tensor};
use gradlog::nn::{conv1d, embedding, linear, Conv1d, Conv1dConfig, Embedding, Linear, VarBuilder};

pub const WIDTH: usize = 48;
pub const FILTERS: usize = 96;
const CLASSES: usize = 2;

#[derive(Debug, Clone)]
pub struct TextCnn {
    words: Embedding,
    phrases: Conv1d,
    head: Linear,
}

impl TextCnn {
    pub fn new(vocabulary: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let config = Conv1dConfig { padding: 1, ..Conv1dConfig::default() };
        Ok(Self {
            words: embedding(vocabulary, WIDTH, vb.pp("words"))?,
            phrases: conv1d(WIDTH, FILTERS, 3, config, vb.pp("phrases"))?,
            head: linear(FILTERS, CLASSES, vb.pp("head"))?,
        })
    }
}

impl Module for TextCnn {
    /// Word numbers `[batch, words]` to logits `[batch, 2]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let words = self.words.forward(x)?.transpose(1, 2)?.contiguous()?;
        let phrases = self.phrases.forward(&words)?.relu()?;
        self.head.forward(&phrases.max(2)?)
    }
}
