//! The gradients of variables, without candle's zeros.
//!
//! candle's backward begins the gradient of each tensor with zeros and adds to them: for a weight that is four times as
//! much memory traffic as its gradient. Within [`backward`], fused layers put the gradients of their variables aside,
//! and those are handed over as they are.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};
use std::cell::RefCell;

thread_local! {
    /// Variables and gradients of the [`backward`] that runs on this thread, if one does.
    static ASIDE: RefCell<Option<Vec<(Tensor, Tensor)>>> = const { RefCell::new(None) };
}

/// As `loss.backward()`, with the same gradients, but that a gradient of -0 is not 0.
///
/// If an op's own backward runs another `Tensor::backward` inside of this one, the gradients of fused layers in there
/// come out here.
pub(crate) fn backward(loss: &Tensor) -> Result<GradStore> {
    let running = Running { outer: ASIDE.replace(Some(Vec::new())) };
    let mut grads = loss.backward()?;
    for (variable, gradient) in ASIDE.take().unwrap_or_default() {
        // A variable may have other uses, of other kinds.
        let sum = match grads.remove(&variable) {
            Some(others) => (others + gradient)?,
            None => gradient,
        };
        grads.insert(&variable, sum);
    }
    drop(running);
    Ok(grads)
}

/// Ends with the call of [`backward`], also if that panics.
struct Running {
    outer: Option<Vec<(Tensor, Tensor)>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        ASIDE.set(self.outer.take());
    }
}

/// Puts the gradient of a variable aside if a [`backward`] waits for it. Returns it otherwise.
pub(super) fn put_aside(tensor: &Tensor, gradient: Option<Tensor>) -> Option<Tensor> {
    if !tensor.is_variable() {
        return gradient;
    }
    ASIDE.with_borrow_mut(|aside| match (aside, gradient) {
        (Some(aside), Some(gradient)) => {
            aside.push((tensor.clone(), gradient));
            None
        }
        (_, gradient) => gradient,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Taps;
    use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Module, Shape};
    use candle_nn::{linear, linear_no_bias, VarBuilder, VarMap};

    #[test]
    fn gradients_are_those_of_candle() {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let first = taps.tap("first", linear(6, 5, vb.pp("first")).unwrap());
        let twice = taps.tap("twice", linear_no_bias(5, 5, vb.pp("twice")).unwrap());
        let x = Tensor::randn(0f32, 1.0, (4, 6), &Device::Cpu).unwrap();
        let loss = || {
            let hidden = twice.forward(&twice.forward(&first.forward(&x)?)?.tanh()?)?;
            // A weight that the loss also uses by itself.
            let decay = variables.data().lock().unwrap()["first.weight"].as_tensor().sqr()?.sum_all()?;
            hidden.sqr()?.sum_all()? + decay
        };
        let (made, wanted) = (backward(&loss().unwrap()).unwrap(), loss().unwrap().backward().unwrap());
        for var in variables.all_vars() {
            let read = |grads: &GradStore| grads.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (made, wanted) = (read(&made), read(&wanted));
            let differ = made.iter().zip(&wanted).any(|(a, b)| (a - b).abs() > 1e-6 * b.abs().max(1.0));
            assert!(!differ && made.iter().any(|v| *v != 0.0), "{:?}: {made:?} {wanted:?}", var.shape());
        }
        assert!(ASIDE.with_borrow(Option::is_none), "the next backward of candle gets its gradients");
    }

    struct WithoutBackward;

    impl CustomOp1 for WithoutBackward {
        fn name(&self) -> &'static str {
            "without-backward"
        }

        fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            Ok((storage.clone(), layout.shape().clone()))
        }
    }

    #[test]
    fn a_backward_that_fails_leaves_nothing_behind() {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let layer = taps.tap("layer", linear(3, 3, vb).unwrap());
        let x = Tensor::ones((1, 3), DType::F32, &Device::Cpu).unwrap();
        // The second use has put its gradients aside when the op between the two fails.
        let between = layer.forward(&x).unwrap().apply_op1(WithoutBackward).unwrap();
        let broken = layer.forward(&between).unwrap().sum_all().unwrap();
        assert!(backward(&broken).is_err());
        assert!(ASIDE.with_borrow(Option::is_none));
        let grads = layer.forward(&x).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(variables.all_vars().iter().all(|var| grads.get(var).is_some()));
    }
}
