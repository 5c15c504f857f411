//! The model: an LSTM over characters. `gradlog::nn` stands in the place of `candle_nn`.

use candle_core::{Module, Result, Tensor};
use gradlog::nn::rnn::{lstm, LSTMConfig, LSTMState, LSTM, RNN};
use gradlog::nn::{embedding, linear, Embedding, Linear, VarBuilder};

const WIDTH: usize = 32;
const HIDDEN: usize = 128;

pub struct CharLstm {
    characters: Embedding,
    pub lstm: LSTM,
    head: Linear,
}

impl CharLstm {
    /// A model over `alphabet` characters.
    pub fn new(alphabet: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            characters: embedding(alphabet, WIDTH, vb.pp("characters"))?,
            lstm: lstm(WIDTH, HIDDEN, LSTMConfig::default(), vb.pp("lstm"))?,
            head: linear(HIDDEN, alphabet, vb.pp("head"))?,
        })
    }

    /// Character numbers `[batch, positions]` and the state before them, to logits of the next character, `[batch,
    /// positions, alphabet]`, and the state after them.
    pub fn forward(&self, x: &Tensor, state: &LSTMState) -> Result<(Tensor, LSTMState)> {
        let states = self.lstm.seq_init(&self.characters.forward(x)?, state)?;
        let logits = self.head.forward(&self.lstm.states_to_tensor(&states)?)?;
        Ok((logits, states.last().unwrap_or(state).clone()))
    }
}
