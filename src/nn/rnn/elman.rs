//! A plain recurrent layer.

use super::{take_one, Core, Direction, Inits, RNN};
use crate::taps::ElmanCell;
use candle_core::{Result, Tensor};
use candle_nn::{init, Init, VarBuilder};

/// The state of an [`Elman`] layer.
#[derive(Debug, Clone)]
pub struct ElmanState {
    /// The hidden state, which is also the output.
    pub h: Tensor,
}

impl ElmanState {
    /// Makes a state of `h`, `[batch, hidden]`.
    pub fn new(h: Tensor) -> Self {
        Self { h }
    }

    /// The hidden state, which is also the output.
    pub fn h(&self) -> &Tensor {
        &self.h
    }
}

/// The activation of an [`Elman`] layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ElmanActivation {
    /// `tanh`.
    #[default]
    Tanh,
    /// `max(·, 0)`. The slope at 0 is 1, as in candle. In PyTorch it is 0.
    Relu,
}

/// Settings of an [`Elman`] layer. The fields are those of [`LSTMConfig`](super::LSTMConfig), with an activation.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ElmanConfig {
    /// How `weight_ih` begins.
    pub w_ih_init: Init,
    /// How `weight_hh` begins.
    pub w_hh_init: Init,
    /// How `bias_ih` begins. `None` for a layer without.
    pub b_ih_init: Option<Init>,
    /// How `bias_hh` begins. `None` for a layer without.
    pub b_hh_init: Option<Init>,
    /// The number in the variables' names.
    pub layer_idx: usize,
    /// Whether the variables' names end with `_reverse`.
    pub direction: Direction,
    /// The activation.
    pub activation: ElmanActivation,
}

impl Default for ElmanConfig {
    fn default() -> Self {
        Self {
            w_ih_init: init::DEFAULT_KAIMING_UNIFORM,
            w_hh_init: init::DEFAULT_KAIMING_UNIFORM,
            b_ih_init: Some(Init::Const(0.)),
            b_hh_init: Some(Init::Const(0.)),
            layer_idx: 0,
            direction: Direction::Forward,
            activation: ElmanActivation::Tanh,
        }
    }
}

impl ElmanConfig {
    /// The default without biases.
    pub fn default_no_bias() -> Self {
        Self { b_ih_init: None, b_hh_init: None, ..Self::default() }
    }

    /// Sets the activation.
    #[must_use]
    pub fn with_activation(self, activation: ElmanActivation) -> Self {
        Self { activation, ..self }
    }
}

/// A plain recurrent layer, which candle_nn lacks. PyTorch's `nn.RNN`.
///
/// ```text
/// h' = f(x W_ihᵀ + b_ih + h W_hhᵀ + b_hh)   where f is tanh or ReLU
/// ```
///
/// Shapes: `x` is `[batch, inputs]`, or `[batch, steps, inputs]` for a sequence. `h` is `[batch, hidden]`. `W_ih` is
/// `[hidden, inputs]`, `W_hh` is `[hidden, hidden]`, the biases are `[hidden]`. The names are PyTorch's.
///
/// Elman 1990.
#[derive(Debug, Clone)]
pub struct Elman {
    core: Core<ElmanCell>,
    config: ElmanConfig,
}

impl Elman {
    /// Creates a layer with the variables `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0` and `bias_hh_l0` of `vb`.
    ///
    /// # Errors
    /// candle's error.
    pub fn new(in_dim: usize, hidden_dim: usize, config: ElmanConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let direction = match config.direction {
            Direction::Forward => "",
            Direction::Backward => "_reverse",
        };
        let cell = match config.activation {
            ElmanActivation::Tanh => ElmanCell::Tanh,
            ElmanActivation::Relu => ElmanCell::Relu,
        };
        let inits =
            Inits { weights: (config.w_ih_init, config.w_hh_init), biases: (config.b_ih_init, config.b_hh_init) };
        let suffix = format!("l{}{direction}", config.layer_idx);
        Ok(Self { core: Core::new(cell, (in_dim, hidden_dim), inits, &suffix, &vb)?, config })
    }

    /// The configuration.
    pub fn config(&self) -> &ElmanConfig {
        &self.config
    }
}

/// Creates a plain recurrent layer. See [`Elman::new`].
///
/// # Errors
/// candle's error.
pub fn elman(in_dim: usize, hidden_dim: usize, config: ElmanConfig, vb: VarBuilder<'_>) -> Result<Elman> {
    Elman::new(in_dim, hidden_dim, config, vb)
}

fn make_state(state: Vec<Tensor>) -> Result<ElmanState> {
    Ok(ElmanState { h: take_one(state)? })
}

impl RNN for Elman {
    type State = ElmanState;

    fn zero_state(&self, batch_dim: usize) -> Result<ElmanState> {
        Ok(ElmanState { h: self.core.zeros(batch_dim)? })
    }

    fn step(&self, input: &Tensor, state: &ElmanState) -> Result<ElmanState> {
        make_state(self.core.step(input, &[&state.h])?)
    }

    fn seq_init(&self, input: &Tensor, state: &ElmanState) -> Result<Vec<ElmanState>> {
        self.core.steps(input, &[&state.h])?.into_iter().map(make_state).collect()
    }

    /// The `h` of all states, `[batch, steps, hidden]`.
    fn states_to_tensor(&self, states: &[ElmanState]) -> Result<Tensor> {
        let states = states.iter().map(|s| &s.h).collect::<Vec<_>>();
        Tensor::stack(&states, 1)
    }
}
