//! Two LSTM layers over words, a GRU behind them, and a class for the whole sentence.

use super::nn::rnn::{gru, lstm, GRUConfig, LSTMConfig, GRU, LSTM, RNN};
use super::nn::{embedding, linear, Embedding, Linear, Module, VarBuilder};
use candle_core::{Result, Tensor};

#[derive(Debug, Clone)]
pub struct Tagger {
    words: Embedding,
    lstms: Vec<LSTM>,
    gru: GRU,
    tags: Linear,
}

impl Tagger {
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let layer = |layer_idx| {
            let config = LSTMConfig { layer_idx, ..Default::default() };
            lstm(if layer_idx == 0 { 5 } else { 6 }, 6, config, vb.pp("lstm"))
        };
        Ok(Self {
            words: embedding(11, 5, vb.pp("words"))?,
            lstms: (0..2).map(layer).collect::<Result<_>>()?,
            gru: gru(6, 4, GRUConfig::default(), vb.pp("gru"))?,
            tags: linear(4, 3, vb.pp("tags"))?,
        })
    }

    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let mut x = self.words.forward(ids)?;
        for layer in &self.lstms {
            let states = layer.seq(&x)?;
            x = layer.states_to_tensor(&states)?;
        }
        let states = self.gru.seq(&x.contiguous()?)?;
        // candle lays the states of a GRU side by side, and those of an LSTM one above the other.
        let x = self.gru.states_to_tensor(&states)?.reshape((x.dim(0)?, states.len(), 4))?;
        self.tags.forward(&x.mean(1)?)
    }
}
