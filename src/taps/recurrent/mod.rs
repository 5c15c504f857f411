//! Recurrent layers: the input's product for the whole sequence, then all steps as one op with its own backward.
//!
//! A recurrent layer has two recorded linear layers: one from the input to the gates, one from the last state to the
//! gates. The gradient of each is a sum over steps of outer products. For the second one, inputs are the states before
//! each step, and output gradients come from backpropagation through time.

mod activation;
mod cell;
mod nodes;
mod product;
mod unrolled;

use super::catch::Catch;
use super::fused::{cpu_f32, needs_gradient, with_slice};
use super::linear::weight_gradients;
use super::tap::Tap;
use super::tapped::Tapped;
use candle_core::{CpuStorage, CustomOp3, IndexOp, Layout, Module, Result, Shape, Tensor};
pub(crate) use cell::{Cell, ElmanCell, GruCell, LstmCell};
use nodes::{Bundle, Deposits, ResultOp};
pub(crate) use product::Product;
use std::sync::{Arc, Mutex};
use unrolled::{Sizes, StateGradients, Trace, Weights};

/// A recurrent layer: its cell and its two linear layers.
#[derive(Debug, Clone)]
pub(crate) struct Recurrent<C> {
    pub cell: C,
    /// From the input to the gates.
    pub input: Tapped<Product>,
    /// From the state to the gates.
    pub state: Tapped<Product>,
}

impl<C: Cell> Recurrent<C> {
    /// Runs the steps of `x`, `[batch, steps, inputs]`, or the one step of `x`, `[batch, inputs]`. The first state is
    /// `h`, or `h` and `c`, `[batch, hidden]` each. Returns the state after each step.
    pub(crate) fn run(&self, x: &Tensor, state: &[&Tensor]) -> Result<Vec<Vec<Tensor>>> {
        let products = self.input.forward(x)?;
        let weight = self.state.inner().weight();
        let hidden = weight.dim(1)?;
        let (batch, steps) = match *products.dims() {
            [batch, steps, _] => (batch, steps),
            _ => (products.dim(0)?, 1),
        };
        let sizes = Sizes { batch, steps, hidden };
        let catch = self.state.catch();
        if !self.is_fused(&catch, &products, state, sizes) {
            return self.run_composed(&products, state, None);
        }
        if self.state.runs_plain() {
            return self.run_composed(&products, state, Some(&catch));
        }
        self.run_fused(&products, state, sizes, catch)
    }

    /// Whether the fused op can take these tensors. A layer of which only weight or bias is trained takes candle's ops.
    fn is_fused(&self, catch: &Catch, products: &Tensor, state: &[&Tensor], sizes: Sizes) -> bool {
        let (weight, bias) = (self.state.inner().weight(), self.state.inner().bias());
        let whole = bias.is_none_or(|bias| needs_gradient(bias) == needs_gradient(weight));
        let fits = state.iter().all(|state| state.dims() == [sizes.batch, sizes.hidden]);
        let supported = catch.fuses(&[products, weight]) && cpu_f32(state) && bias.is_none_or(|b| cpu_f32(&[b]));
        whole && fits && supported && products.elem_count() > 0
    }

    fn run_fused(&self, products: &Tensor, state: &[&Tensor], sizes: Sizes, catch: Catch) -> Result<Vec<Vec<Tensor>>> {
        let Sizes { batch, hidden, .. } = sizes;
        let layer = self.state.inner();
        let products = products.contiguous()?;
        let read = |t: &Tensor| with_slice(t, |values| Ok(values.to_vec()));
        let c = state.get(1).map_or(Ok(Vec::new()), |c| read(c))?;
        let bias = layer.bias().map(read).transpose()?;
        let h = read(state[0])?;
        let mut trace = with_slice(layer.weight(), |weight| {
            let weights = Weights { weight, bias: bias.as_deref() };
            with_slice(&products, |x| Ok(unrolled::forward(&self.cell, sizes, x, weights, &h, &c)))
        })?;
        let results = read_results::<C>(&trace, sizes);
        let shape = match products.rank() {
            3 => Shape::from((batch, sizes.steps, hidden)),
            _ => Shape::from((batch, hidden)),
        };
        let states = Tensor::from_vec(std::mem::take(&mut trace.h), shape, products.device())?;
        catch.note_forward(&states);
        let weights = Bundle::new(layer.weight(), layer.bias())?;
        let first = Bundle::new(state[0], state.get(1).copied())?;
        let (weights_token, first_token) = (weights.token.clone(), first.token.clone());
        let deposits = Arc::new(Deposits::default());
        let op = Recurrence { cell: self.cell, sizes, trace, states, weights, first, deposits, catch };
        let deposits = op.deposits.clone();
        let token = products.apply_op3(&weights_token, &first_token, op)?;
        let number_of = |number: usize, values: Vec<f32>| {
            let shape = Shape::from((batch, hidden));
            token.apply_op1(ResultOp { number, values: Mutex::new(values), shape, deposits: deposits.clone() })
        };
        let state_of = |(step, values): (usize, Vec<Vec<f32>>)| {
            values.into_iter().enumerate().map(|(part, values)| number_of(part * sizes.steps + step, values)).collect()
        };
        results.into_iter().enumerate().map(state_of).collect()
    }

    /// Runs the steps by candle's ops. Each step is a use of the layer. With `noted`, all of them are noted as one use
    /// and not caught, as a check compares them with the fused op.
    fn run_composed(&self, products: &Tensor, state: &[&Tensor], noted: Option<&Catch>) -> Result<Vec<Vec<Tensor>>> {
        let steps: Vec<Tensor> = match products.rank() {
            3 => (0..products.dim(1)?).map(|t| products.i((.., t, ..))?.contiguous()).collect::<Result<_>>()?,
            _ => vec![products.clone()],
        };
        let mut state: Vec<Tensor> = state.iter().map(|state| (*state).clone()).collect();
        let (mut states, mut before) = (Vec::with_capacity(steps.len()), Vec::new());
        for x in &steps {
            let product = match noted {
                Some(_) => {
                    before.push(state[0].detach());
                    self.state.inner().plain_forward(&state[0])?
                }
                None => self.state.forward(&state[0])?,
            };
            state = self.cell.step(x, &product, &state)?;
            states.push(state.clone());
        }
        if let Some(catch) = noted {
            catch.note_forward(&if products.rank() == 3 { Tensor::stack(&before, 1)? } else { before[0].clone() });
        }
        Ok(states)
    }
}

/// The states after each step, `h` and perhaps `c`, as `[batch, hidden]` each.
fn read_results<C: Cell>(trace: &Trace, sizes: Sizes) -> Vec<Vec<Vec<f32>>> {
    let Sizes { batch, steps, hidden } = sizes;
    let after = |sequence: &[f32], last: &[f32], step: usize| {
        if step + 1 == steps {
            return last.to_vec();
        }
        let mut rows = Vec::with_capacity(batch * hidden);
        for example in sequence.chunks_exact(steps * hidden) {
            rows.extend_from_slice(&example[(step + 1) * hidden..(step + 2) * hidden]);
        }
        rows
    };
    let state = |step: usize| {
        let mut parts = vec![after(&trace.h, &trace.last_h, step)];
        if C::HAS_CELL {
            parts.push(after(&trace.c, &trace.last_c, step));
        }
        parts
    };
    (0..steps).map(state).collect()
}

/// All steps of a layer as one op. Its result carries no value: see [`nodes`].
struct Recurrence<C> {
    cell: C,
    sizes: Sizes,
    trace: Trace,
    /// `h` before each step.
    states: Tensor,
    /// Weight and bias of the product of the state.
    weights: Bundle,
    /// The first state.
    first: Bundle,
    /// The gradients of the states after each step, all `h` and then all `c`.
    deposits: Arc<Deposits>,
    catch: Catch,
}

impl<C: Cell> CustomOp3 for Recurrence<C> {
    fn name(&self) -> &'static str {
        "gradlog-recurrence"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
    }

    fn bwd(
        &self,
        products: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let steps = self.sizes.steps;
        let gradients = self.deposits.take(steps * (1 + usize::from(C::HAS_CELL)), grad)?;
        let (h, c) = gradients.split_at(steps);
        let weight = self.weights.first();
        let deltas = with_slice(weight, |weight| {
            with_slice(&self.states, |states| {
                let trace = (&self.trace, states);
                Ok(unrolled::backward(&self.cell, self.sizes, trace, weight, StateGradients { h, c }))
            })
        })?;
        let dx = Tensor::from_vec(deltas.x, products.shape(), products.device())?;
        let weights = if self.weights.needs_gradient() {
            let ds = match C::HAS_TWO_DELTAS {
                true => Tensor::from_vec(deltas.s, products.shape(), products.device())?,
                false => dx.clone(),
            };
            let bias = self.weights.has_second();
            let (weight, bias) = weight_gradients(&self.catch, &self.states, &ds, weight.dims2()?, bias)?;
            self.weights.lay_aside(std::iter::once(weight).chain(bias).collect())?
        } else {
            None
        };
        let first = self.first.lay_aside(vec![deltas.h, deltas.c])?;
        Ok((Some(dx).filter(|_| needs_gradient(products)), weights, first))
    }
}
