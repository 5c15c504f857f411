//! Recurrent layers, as in `candle_nn::rnn`, and a plain recurrent layer, which candle_nn lacks.
//!
//! | layer | constructor | state | source |
//! |---|---|---|---|
//! | [`LSTM`] | [`lstm`] | [`LSTMState`]: `h`, `c` | Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000 |
//! | [`GRU`] | [`gru`] | [`GRUState`]: `h` | Cho et al. 2014 |
//! | [`Elman`] | [`elman`] | [`ElmanState`]: `h` | Elman 1990 |
//!
//! All implement candle's trait [`RNN`]. Configurations and states of LSTM and GRU are candle's own types.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{VarBuilder, VarMap};
//! use gradlog::nn::rnn::{lstm, LSTMConfig, LSTM, RNN}; // was candle_nn::rnn
//! use gradlog::Taps;
//!
//! let variables = VarMap::new();
//! let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let (layer, taps) = Taps::collect(|| lstm(4, 8, LSTMConfig::default(), vb.pp("lstm")))?;
//! let states = layer.seq(&Tensor::zeros((2, 5, 4), DType::F32, &Device::Cpu)?)?; // 2 examples of 5 steps
//! assert_eq!(layer.states_to_tensor(&states)?.dims(), [2, 5, 8]);
//! assert_eq!(format!("{taps:?}"), r#"Taps { layers: ["lstm.ih_l0", "lstm.hh_l0"], .. }"#);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! # What is recorded
//!
//! A layer is recorded as two linear layers: `ih_l0`, from the input to the gates, and `hh_l0`, from the state before
//! the step to the gates. An example's gradient is the sum over its steps. Any of the calls `seq`, `seq_init` and
//! `step` may be used, in any number and order.
//!
//! # State that goes on from one pass to the next
//!
//! Detach it: `LSTMState::new(state.h().detach(), state.c().detach())`. Without that, the backward pass goes on into
//! the forward pass of the step before, and that gradient cannot be recorded with the examples of this pass. `commit`
//! refuses such a pass and names the layers. (In plain candle such a backward pass takes longer with each step.)
//!
//! # Cost
//!
//! `seq` and `seq_init` are the fast calls: the input's product is made for the whole sequence at once, and all steps
//! are one op with its own backward, on the CPU in f32. A loop over `step` makes the same numbers. Other devices and
//! dtypes take candle's ops step by step, and are recorded as well.
//!
//! # Layers with explicit names
//!
//! [`Taps::tap`](crate::Taps::tap) takes layers with one weight, so it does not take a recurrent layer. Build it inside
//! [`Taps::collect`](crate::Taps::collect). candle_nn's own `LSTM` and `GRU` hide their weights, so they cannot be
//! converted.

mod elman;
mod gru;
mod lstm;

pub use candle_nn::rnn::{Direction, GRUConfig, GRUState, LSTMConfig, LSTMState, RNN};
pub use elman::{elman, Elman, ElmanActivation, ElmanConfig, ElmanState};
pub use gru::{gru, GRU};
pub use lstm::{lstm, LSTM};

use crate::taps::{tap_built, Cell, Product, Recurrent};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// What all recurrent layers have: weights, and where zeros for their first state are made.
#[derive(Debug, Clone)]
struct Core<C> {
    layer: Recurrent<C>,
    hidden: usize,
    device: Device,
    dtype: DType,
}

/// How the parameters of a layer begin.
#[derive(Debug, Clone, Copy)]
struct Inits {
    weights: (Init, Init),
    biases: (Option<Init>, Option<Init>),
}

impl<C: Cell> Core<C> {
    /// Makes the variables `weight_ih_SUFFIX`, `weight_hh_SUFFIX`, `bias_ih_SUFFIX` and `bias_hh_SUFFIX`, in candle's
    /// order.
    fn new(cell: C, (inputs, hidden): (usize, usize), inits: Inits, suffix: &str, vb: &VarBuilder<'_>) -> Result<Self> {
        let width = C::GATES * hidden;
        let w_ih = vb.get_with_hints((width, inputs), &format!("weight_ih_{suffix}"), inits.weights.0)?;
        let w_hh = vb.get_with_hints((width, hidden), &format!("weight_hh_{suffix}"), inits.weights.1)?;
        let bias = |init: Option<Init>, name: &str| {
            init.map(|init| vb.get_with_hints(width, &format!("{name}_{suffix}"), init)).transpose()
        };
        let b_ih = bias(inits.biases.0, "bias_ih")?;
        let b_hh = bias(inits.biases.1, "bias_hh")?;
        let tap = |name: &str, weight, bias| {
            tap_built(&vb.pp(format!("{name}_{suffix}")).prefix(), Product::new(C::KIND, weight, bias))
        };
        let (input, state) = (tap("ih", w_ih, b_ih), tap("hh", w_hh, b_hh));
        Ok(Self { layer: Recurrent { cell, input, state }, hidden, device: vb.device().clone(), dtype: vb.dtype() })
    }

    fn zeros(&self, batch: usize) -> Result<Tensor> {
        Tensor::zeros((batch, self.hidden), self.dtype, &self.device)?.contiguous()
    }

    /// One step: `input` is `[batch, inputs]`.
    fn step(&self, input: &Tensor, state: &[&Tensor]) -> Result<Vec<Tensor>> {
        input.dims2()?;
        Ok(self.layer.run(input, state)?.pop().unwrap_or_default())
    }

    /// All steps: `input` is `[batch, steps, inputs]`.
    fn steps(&self, input: &Tensor, state: &[&Tensor]) -> Result<Vec<Vec<Tensor>>> {
        let (_, steps, _) = input.dims3()?;
        if steps == 0 {
            return Ok(Vec::new());
        }
        self.layer.run(input, state)
    }
}

/// Takes the only tensor of a step's result.
fn take_one(state: Vec<Tensor>) -> Result<Tensor> {
    let [h] = <[Tensor; 1]>::try_from(state).map_err(|_| candle_core::Error::msg("a step without a state"))?;
    Ok(h)
}
