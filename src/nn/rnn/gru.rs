//! Gated recurrent units.

use super::{take_one, Core, GRUConfig, GRUState, Inits, RNN};
use crate::taps::GruCell;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// A layer of gated recurrent units. `candle_nn::GRU`, recorded.
///
/// One step, with `a = x W_ihᵀ + b_ih` and `s = h W_hhᵀ + b_hh` in three parts each:
///
/// ```text
/// r = σ(a_r + s_r)   z = σ(a_z + s_z)   n = tanh(a_n + r ∘ s_n)
/// h' = z ∘ h + (1 − z) ∘ n
/// ```
///
/// Shapes: `x` is `[batch, inputs]`, or `[batch, steps, inputs]` for a sequence. `h` is `[batch, hidden]`. `W_ih` is
/// `[3 · hidden, inputs]`, `W_hh` is `[3 · hidden, hidden]`, the biases are `[3 · hidden]`. These are PyTorch's names,
/// shapes and order of gates.
///
/// Cho et al. 2014. As in candle_nn, cuDNN and PyTorch, `r` scales the product and not the state before it.
#[allow(clippy::upper_case_acronyms)]
#[derive(Debug, Clone)]
pub struct GRU {
    core: Core<GruCell>,
    config: GRUConfig,
}

impl GRU {
    /// Creates a layer with the variables `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0` and `bias_hh_l0` of `vb`.
    ///
    /// # Errors
    /// candle's error.
    pub fn new(in_dim: usize, hidden_dim: usize, config: GRUConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let inits =
            Inits { weights: (config.w_ih_init, config.w_hh_init), biases: (config.b_ih_init, config.b_hh_init) };
        Ok(Self { core: Core::new(GruCell, (in_dim, hidden_dim), inits, "l0", &vb)?, config })
    }

    /// The configuration.
    pub fn config(&self) -> &GRUConfig {
        &self.config
    }
}

/// Creates a layer of gated recurrent units. See [`GRU::new`].
///
/// # Errors
/// candle's error.
pub fn gru(in_dim: usize, hidden_dim: usize, config: GRUConfig, vb: VarBuilder<'_>) -> Result<GRU> {
    GRU::new(in_dim, hidden_dim, config, vb)
}

fn make_state(state: Vec<Tensor>) -> Result<GRUState> {
    Ok(GRUState { h: take_one(state)? })
}

impl RNN for GRU {
    type State = GRUState;

    fn zero_state(&self, batch_dim: usize) -> Result<GRUState> {
        Ok(GRUState { h: self.core.zeros(batch_dim)? })
    }

    fn step(&self, input: &Tensor, state: &GRUState) -> Result<GRUState> {
        make_state(self.core.step(input, &[&state.h])?)
    }

    fn seq_init(&self, input: &Tensor, state: &GRUState) -> Result<Vec<GRUState>> {
        self.core.steps(input, &[&state.h])?.into_iter().map(make_state).collect()
    }

    /// The `h` of all states beside each other, `[batch, steps · hidden]`. candle_nn 0.11 concatenates them here, and
    /// stacks those of an LSTM.
    fn states_to_tensor(&self, states: &[GRUState]) -> Result<Tensor> {
        let states = states.iter().map(|s| &s.h).collect::<Vec<_>>();
        Tensor::cat(&states, 1)
    }
}
