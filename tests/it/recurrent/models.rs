//! One program over a stack of recurrent layers, for gradlog's layers and for candle's.

use crate::common::*;
use candle_core::{DType, Device, IndexOp, Result, Tensor};
use candle_nn::rnn::{GRUState, LSTMState, RNN};
use candle_nn::{Init, VarBuilder, VarMap};
use gradlog::nn::rnn::{Direction, ElmanActivation, ElmanConfig, ElmanState, GRUConfig, LSTMConfig};
use gradlog::Taps;

pub const INPUTS: usize = 3;
pub const HIDDEN: usize = 4;

/// How a program calls its layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Call {
    /// `seq`, from zeros.
    Seq,
    /// `seq_init`, from given states.
    SeqInit,
    /// A loop over `step`, from given states.
    Steps,
    /// `seq_init` on the first steps, then `step`, then `seq_init` on the rest.
    Mixed,
}

/// The kind of the layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Lstm,
    Gru,
    Tanh,
    Relu,
}

/// `(x, h, c) -> states`: `x` is `[batch, steps, INPUTS]`, `h` and `c` are first states `[batch, HIDDEN]`, and the
/// result has all states after all steps of the last layer in a row, `[batch, ..]`.
pub type Program = Box<dyn Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>>;

/// A model of recurrent layers, twice over the same variables.
pub struct Model {
    pub ours: Program,
    pub plain: Program,
    pub taps: Taps,
    pub variables: VarMap,
}

/// A layer's state as tensors.
pub trait State: Clone + 'static {
    fn new(h: &Tensor, c: &Tensor) -> Self;
    fn parts(&self) -> Vec<Tensor>;
}

impl State for LSTMState {
    fn new(h: &Tensor, c: &Tensor) -> Self {
        Self::new(h.clone(), c.clone())
    }

    fn parts(&self) -> Vec<Tensor> {
        vec![self.h().clone(), self.c().clone()]
    }
}

impl State for GRUState {
    fn new(h: &Tensor, _: &Tensor) -> Self {
        Self { h: h.clone() }
    }

    fn parts(&self) -> Vec<Tensor> {
        vec![self.h().clone()]
    }
}

impl State for ElmanState {
    fn new(h: &Tensor, _: &Tensor) -> Self {
        Self::new(h.clone())
    }

    fn parts(&self) -> Vec<Tensor> {
        vec![self.h().clone()]
    }
}

fn run<R: RNN>(layer: &R, call: Call, x: &Tensor, first: &R::State) -> Result<Vec<R::State>> {
    let steps = x.dim(1)?;
    let step = |t: usize, state: &R::State| layer.step(&x.i((.., t, ..))?.contiguous()?, state);
    match call {
        Call::Seq => layer.seq(x),
        Call::SeqInit => layer.seq_init(x, first),
        Call::Steps => {
            let mut states = vec![first.clone()];
            for t in 0..steps {
                states.push(step(t, &states[t])?);
            }
            Ok(states.split_off(1))
        }
        Call::Mixed => {
            let half = steps / 2;
            let mut states = layer.seq_init(&x.narrow(1, 0, half)?, first)?;
            states.push(step(half, states.last().unwrap_or(first))?);
            if half + 1 < steps {
                let rest = x.narrow(1, half + 1, steps - half - 1)?;
                states.extend(layer.seq_init(&rest, &states[half].clone())?);
            }
            Ok(states)
        }
    }
}

fn program<R: RNN + 'static>(layers: Vec<R>, call: Call) -> Program
where
    R::State: State,
{
    Box::new(move |x, h, c| {
        let (mut x, mut parts) = (x.clone(), Vec::new());
        for layer in &layers {
            let states = run(layer, call, &x, &R::State::new(h, c))?;
            parts = states.iter().flat_map(State::parts).collect();
            let h: Vec<Tensor> = states.iter().map(|state| state.parts()[0].clone()).collect();
            x = Tensor::stack(&h, 1)?;
        }
        Tensor::cat(&parts, 1)
    })
}

/// A plain recurrent layer by candle's ops.
struct PlainElman {
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Option<(Tensor, Tensor)>,
    relu: bool,
}

impl PlainElman {
    fn new(inputs: usize, bias: bool, relu: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        let bias = match bias {
            true => Some((vb.get(HIDDEN, "bias_ih_l0")?, vb.get(HIDDEN, "bias_hh_l0")?)),
            false => None,
        };
        let (w_ih, w_hh) = (vb.get((HIDDEN, inputs), "weight_ih_l0")?, vb.get((HIDDEN, HIDDEN), "weight_hh_l0")?);
        Ok(Self { w_ih, w_hh, bias, relu })
    }
}

impl RNN for PlainElman {
    type State = ElmanState;

    fn zero_state(&self, batch: usize) -> Result<ElmanState> {
        Ok(ElmanState::new(Tensor::zeros((batch, HIDDEN), self.w_hh.dtype(), &Device::Cpu)?))
    }

    fn step(&self, x: &Tensor, state: &ElmanState) -> Result<ElmanState> {
        let mut sum = (x.matmul(&self.w_ih.t()?)? + state.h.matmul(&self.w_hh.t()?)?)?;
        if let Some((b_ih, b_hh)) = &self.bias {
            sum = sum.broadcast_add(&(b_ih + b_hh)?)?;
        }
        Ok(ElmanState::new(if self.relu { sum.relu()? } else { sum.tanh()? }))
    }

    fn states_to_tensor(&self, states: &[ElmanState]) -> Result<Tensor> {
        Tensor::stack(&states.iter().map(|s| s.h.clone()).collect::<Vec<_>>(), 1)
    }
}

/// The settings of a model.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub kind: Kind,
    pub call: Call,
    pub layers: usize,
    /// The biases `ih` and `hh`.
    pub biases: (bool, bool),
    pub direction: Direction,
    pub dtype: DType,
}

impl Settings {
    pub fn new(kind: Kind, call: Call) -> Self {
        let direction = Direction::Forward;
        Self { kind, call, layers: 1, biases: (true, true), direction, dtype: DType::F32 }
    }
}

impl Model {
    pub fn new(settings: Settings) -> Self {
        let Settings { kind, call, layers, biases, direction, dtype } = settings;
        let variables = VarMap::new();
        let root = VarBuilder::from_varmap(&variables, dtype, &Device::Cpu);
        let inputs = |number: usize| if number == 0 { INPUTS } else { HIDDEN };
        let vb = |number: usize| root.pp(format!("layer{number}"));
        let bias = |wanted: bool| wanted.then_some(Init::Const(0.));
        let (b_ih_init, b_hh_init) = (bias(biases.0), bias(biases.1));
        let lstm = LSTMConfig { b_ih_init, b_hh_init, direction, ..Default::default() };
        let gru = GRUConfig { b_ih_init, b_hh_init, ..Default::default() };
        let activation = if kind == Kind::Relu { ElmanActivation::Relu } else { ElmanActivation::Tanh };
        let mut elman = ElmanConfig::default().with_activation(activation);
        (elman.b_ih_init, elman.b_hh_init) = (b_ih_init, b_hh_init);
        let numbers = 0..layers;
        let (ours, taps) = Taps::collect(|| -> Result<Program> {
            use gradlog::nn::rnn;
            Ok(match kind {
                Kind::Lstm => {
                    let made = numbers.clone().map(|n| rnn::lstm(inputs(n), HIDDEN, lstm, vb(n)));
                    program(made.collect::<Result<Vec<_>>>()?, call)
                }
                Kind::Gru => {
                    let made = numbers.clone().map(|n| rnn::gru(inputs(n), HIDDEN, gru, vb(n)));
                    program(made.collect::<Result<Vec<_>>>()?, call)
                }
                Kind::Tanh | Kind::Relu => {
                    let made = numbers.clone().map(|n| rnn::elman(inputs(n), HIDDEN, elman, vb(n)));
                    program(made.collect::<Result<Vec<_>>>()?, call)
                }
            })
        })
        .unwrap();
        let plain = || -> Result<Program> {
            use candle_nn::rnn;
            Ok(match kind {
                Kind::Lstm => {
                    let made = numbers.clone().map(|n| rnn::lstm(inputs(n), HIDDEN, lstm, vb(n)));
                    program(made.collect::<Result<Vec<_>>>()?, call)
                }
                Kind::Gru => {
                    let made = numbers.clone().map(|n| rnn::gru(inputs(n), HIDDEN, gru, vb(n)));
                    program(made.collect::<Result<Vec<_>>>()?, call)
                }
                Kind::Tanh | Kind::Relu => {
                    let made =
                        numbers.clone().map(|n| PlainElman::new(inputs(n), biases.0, kind == Kind::Relu, &vb(n)));
                    program(made.collect::<Result<Vec<_>>>()?, call)
                }
            })
        };
        let plain = plain().unwrap();
        let mut data: Vec<_> =
            variables.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect();
        data.sort_by(|a, b| a.0.cmp(&b.0));
        for (seed, (_, variable)) in (40..).zip(data) {
            variable.set(&(noise(seed, variable.dims()) * 0.8).unwrap().to_dtype(dtype).unwrap()).unwrap();
        }
        Self { ours, plain, taps, variables }
    }
}
