//! The model: an LSTM over characters with a two-layer reader behind it, whose linear layers are plain or adapted.

use candle_core::{Module, Result, Tensor};
use gradlog::nn::lora::{lora_linear, LoraConfig};
use gradlog::nn::rnn::{lstm, LSTMConfig, LSTM, RNN};
use gradlog::nn::{embedding, linear, Embedding, VarBuilder};

const WIDTH: usize = 48;
const HIDDEN: usize = 128;
/// Rank and alpha of the correction.
const LORA: (usize, f64) = (8, 16.0);

pub struct Reader {
    characters: Embedding,
    lstm: LSTM,
    up: Box<dyn Module>,
    head: Box<dyn Module>,
}

impl Reader {
    /// A model whose weights are all those of `vb`.
    pub fn new(alphabet: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Self::make(alphabet, vb, |name, inputs, outputs| Ok(Box::new(linear(inputs, outputs, vb.pp(name))?)))
    }

    /// A model with the weights of `frozen`, whose linear layers have a low-rank correction in `adapter`.
    pub fn adapt(alphabet: usize, frozen: &VarBuilder<'_>, adapter: &VarBuilder<'_>) -> Result<Self> {
        let config = LoraConfig::new(LORA.0, LORA.1);
        Self::make(alphabet, frozen, |name, inputs, outputs| {
            Ok(Box::new(lora_linear(inputs, outputs, config, frozen.pp(name), adapter.pp(name))?))
        })
    }

    fn make(
        alphabet: usize,
        vb: &VarBuilder<'_>,
        layer: impl Fn(&str, usize, usize) -> Result<Box<dyn Module>>,
    ) -> Result<Self> {
        Ok(Self {
            characters: embedding(alphabet, WIDTH, vb.pp("characters"))?,
            lstm: lstm(WIDTH, HIDDEN, LSTMConfig::default(), vb.pp("lstm"))?,
            up: layer("up", HIDDEN, 2 * HIDDEN)?,
            head: layer("head", 2 * HIDDEN, alphabet)?,
        })
    }
}

impl Module for Reader {
    /// Character numbers `[batch, positions]` to logits of the next character, `[batch, positions, alphabet]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let states = self.lstm.seq(&self.characters.forward(x)?)?;
        let h = self.up.forward(&self.lstm.states_to_tensor(&states)?)?.relu()?;
        self.head.forward(&h)
    }
}
