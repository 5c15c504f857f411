//! Long short-term memory.

use super::{Core, Direction, Inits, LSTMConfig, LSTMState, RNN};
use crate::taps::LstmCell;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// A long short-term memory layer. `candle_nn::LSTM`, recorded.
///
/// One step, with `a = x W_ihᵀ + b_ih + h W_hhᵀ + b_hh` in four parts `a_i`, `a_f`, `a_g`, `a_o`:
///
/// ```text
/// i = σ(a_i)   f = σ(a_f)   g = tanh(a_g)   o = σ(a_o)
/// c' = f ∘ c + i ∘ g
/// h' = o ∘ tanh(c')
/// ```
///
/// Shapes: `x` is `[batch, inputs]`, or `[batch, steps, inputs]` for a sequence. `h` and `c` are `[batch, hidden]`.
/// `W_ih` is `[4 · hidden, inputs]`, `W_hh` is `[4 · hidden, hidden]`, the biases are `[4 · hidden]`. These are
/// PyTorch's names, shapes and order of gates.
///
/// Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000.
///
/// [`Direction::Backward`] only names the variables `.._reverse`, as in candle_nn. Reverse the sequence yourself.
#[allow(clippy::upper_case_acronyms)]
#[derive(Debug, Clone)]
pub struct LSTM {
    core: Core<LstmCell>,
    config: LSTMConfig,
}

impl LSTM {
    /// Creates a layer with the variables `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0` and `bias_hh_l0` of `vb`.
    ///
    /// # Errors
    /// candle's error.
    pub fn new(in_dim: usize, hidden_dim: usize, config: LSTMConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let direction = match config.direction {
            Direction::Forward => "",
            Direction::Backward => "_reverse",
        };
        let inits =
            Inits { weights: (config.w_ih_init, config.w_hh_init), biases: (config.b_ih_init, config.b_hh_init) };
        let suffix = format!("l{}{direction}", config.layer_idx);
        Ok(Self { core: Core::new(LstmCell, (in_dim, hidden_dim), inits, &suffix, &vb)?, config })
    }

    /// The configuration.
    pub fn config(&self) -> &LSTMConfig {
        &self.config
    }
}

/// Creates an LSTM layer. See [`LSTM::new`].
///
/// # Errors
/// candle's error.
pub fn lstm(in_dim: usize, hidden_dim: usize, config: LSTMConfig, vb: VarBuilder<'_>) -> Result<LSTM> {
    LSTM::new(in_dim, hidden_dim, config, vb)
}

fn make_state(state: Vec<Tensor>) -> Result<LSTMState> {
    let [h, c] = <[Tensor; 2]>::try_from(state).map_err(|_| candle_core::Error::msg("a step without a state"))?;
    Ok(LSTMState { h, c })
}

impl RNN for LSTM {
    type State = LSTMState;

    fn zero_state(&self, batch_dim: usize) -> Result<LSTMState> {
        let zeros = self.core.zeros(batch_dim)?;
        Ok(LSTMState { h: zeros.clone(), c: zeros })
    }

    fn step(&self, input: &Tensor, state: &LSTMState) -> Result<LSTMState> {
        make_state(self.core.step(input, &[&state.h, &state.c])?)
    }

    fn seq_init(&self, input: &Tensor, state: &LSTMState) -> Result<Vec<LSTMState>> {
        self.core.steps(input, &[&state.h, &state.c])?.into_iter().map(make_state).collect()
    }

    /// The `h` of all states, `[batch, steps, hidden]`.
    fn states_to_tensor(&self, states: &[LSTMState]) -> Result<Tensor> {
        let states = states.iter().map(|s| &s.h).collect::<Vec<_>>();
        Tensor::stack(&states, 1)
    }
}
