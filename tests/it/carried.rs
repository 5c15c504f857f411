//! State that is carried from one pass to the next: its gradient is recorded in full, or refused.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{linear, Linear, VarBuilder, VarMap};
use gradlog::taps::{Tapped, Taps};
use gradlog::Recorder;
use gradlog_format::log::{BlockKind, Column};

/// `h' = tanh(A x + B h)`, with a head on the last state.
struct Cell {
    input: Tapped<Linear>,
    state: Tapped<Linear>,
    head: Tapped<Linear>,
    taps: Taps,
    variables: VarMap,
    dtype: DType,
}

impl Cell {
    fn new(dtype: DType) -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, dtype, &Device::Cpu);
        let tap = |name: &str, inputs, outputs| taps.tap(name, linear(inputs, outputs, vb.pp(name)).unwrap());
        let (input, state, head) = (tap("input", 4, 5), tap("state", 5, 5), tap("head", 5, 3));
        for (seed, variable) in (10..).zip(variables.all_vars()) {
            variable.set(&noise(seed, variable.dims()).to_dtype(dtype).unwrap()).unwrap();
        }
        Self { input, state, head, taps, variables, dtype }
    }

    fn step(&self, x: &Tensor, h: &Tensor) -> Result<Tensor> {
        (self.input.forward(x)? + self.state.forward(h)?)?.tanh()
    }

    fn x(&self, seed: u64) -> Tensor {
        noise(seed, &[2, 4]).to_dtype(self.dtype).unwrap()
    }

    fn zeros(&self) -> Tensor {
        Tensor::zeros((2, 5), self.dtype, &Device::Cpu).unwrap()
    }

    /// By candle alone: the squared norm of the gradient of the second loss of example `i`, from the state `h`.
    fn squared_norm(&self, h: impl Fn() -> Tensor, i: usize) -> f64 {
        let h = row(&self.step(&self.x(2), &h()).unwrap(), i).unwrap();
        let logits = self.head.forward(&h).unwrap().to_dtype(DType::F64).unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits, &labels(2).narrow(0, i, 1).unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        let squares = |variable: &candle_core::Var| {
            let grad = grads.get(variable).unwrap().to_dtype(DType::F64).unwrap();
            grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        self.variables.all_vars().iter().map(squares).sum()
    }
}

/// A pass over two examples with one more step from the state `h`. Returns the new state.
fn pass(cell: &Cell, recorder: &mut Recorder, seed: u64, h: &Tensor) -> (Tensor, std::result::Result<(), String>) {
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let h = cell.step(&cell.x(seed), h).unwrap();
    let loss = pass.cross_entropy(&cell.head.forward(&h).unwrap(), &labels(2)).unwrap();
    loss.backward().unwrap();
    (h, pass.commit(0.0).map(drop).map_err(|error| error.to_string()))
}

#[test]
fn a_gradient_that_goes_on_into_an_earlier_pass_is_an_error_that_says_what_to_do() {
    for dtype in [DType::F32, DType::F64] {
        let dir = tempfile::tempdir().unwrap();
        let cell = Cell::new(dtype);
        let mut recorder = Recorder::create(dir.path(), &cell.taps, exact()).unwrap();
        let (h, first) = pass(&cell, &mut recorder, 1, &cell.zeros());
        first.unwrap();
        let error = pass(&cell, &mut recorder, 2, &h).1.unwrap_err();
        assert!(error.contains("`input`, `state` into a forward pass that was made before"), "{error}");
        assert!(!error.contains("`head`") && error.contains("`detach`"), "{error}");
        // The next pass has nothing to do with it.
        pass(&cell, &mut recorder, 2, &h.detach()).1.unwrap();
        let summary = recorder.finish().unwrap();
        assert_eq!((summary.visits, summary.dropped), (4, 2));
        let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
        for i in 0..2 {
            let truth = cell.squared_norm(|| h.detach(), i);
            assert!((f64::from(norms[2 + i]) - truth).abs() < 1e-4 * truth, "{dtype:?} {i}: {} {truth}", norms[2 + i]);
        }
    }
}

/// What the error advises: all steps of one backward in one pass have the whole gradient.
#[test]
fn steps_of_one_backward_in_one_pass_have_the_whole_gradient() {
    for dtype in [DType::F32, DType::F64] {
        let dir = tempfile::tempdir().unwrap();
        let cell = Cell::new(dtype);
        let mut recorder = Recorder::create(dir.path(), &cell.taps, exact()).unwrap();
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let first = || cell.step(&cell.x(1), &cell.zeros()).unwrap();
        let h = cell.step(&cell.x(2), &first()).unwrap();
        let loss = pass.cross_entropy(&cell.head.forward(&h).unwrap(), &labels(2)).unwrap();
        loss.backward().unwrap();
        pass.commit(0.0).unwrap();
        recorder.finish().unwrap();
        let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
        for (i, norm) in norms.iter().enumerate() {
            let truth = cell.squared_norm(first, i);
            assert!((f64::from(*norm) - truth).abs() < 1e-4 * truth, "{dtype:?} {i}: {norm} {truth}");
        }
    }
}

/// A fused layer sees this as well, although nothing was armed when forward ran.
#[test]
fn a_gradient_that_goes_on_into_a_forward_pass_outside_any_pass_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let cell = Cell::new(DType::F32);
    let mut recorder = Recorder::create(dir.path(), &cell.taps, exact()).unwrap();
    let before = cell.step(&cell.x(1), &cell.zeros()).unwrap();
    let error = pass(&cell, &mut recorder, 2, &before).1.unwrap_err();
    assert!(error.contains("`input`, `state` into a forward pass that was made before"), "{error}");
    // A backward pass outside of passes is nobody's.
    let loss = cell.head.forward(&cell.step(&cell.x(1), &before).unwrap()).unwrap().sum_all().unwrap();
    loss.backward().unwrap();
    pass(&cell, &mut recorder, 2, &before.detach()).1.unwrap();
    assert_eq!(recorder.finish().unwrap().visits, 2);
}
