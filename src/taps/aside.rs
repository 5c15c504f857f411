//! The gradients of variables, without candle's zeros.
//!
//! candle's backward begins the gradient of each tensor with zeros and adds to them: for a weight that is four times as
//! much memory traffic as its gradient. Within [`backward`], fused layers put the gradients of their variables aside,
//! and those are handed over as they are.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

thread_local! {
    /// What the [`backward`] that runs on this thread puts aside, if one does.
    static ASIDE: RefCell<Option<Aside>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Aside {
    /// The nodes of the loss. An op's own backward may run another backward, whose gradients are not of this one.
    nodes: HashSet<TensorId>,
    /// Variables and the sums of their gradients.
    sums: HashMap<TensorId, (Tensor, Tensor)>,
}

/// As `loss.backward()`, with the same gradients, but that a gradient of -0 is not 0, and that gradients of a variable
/// with uses in fused layers and elsewhere are added in another order.
pub(crate) fn backward(loss: &Tensor) -> Result<GradStore> {
    let nodes = loss.sorted_nodes().into_iter().map(Tensor::id).collect();
    let running = Running { outer: ASIDE.replace(Some(Aside { nodes, sums: HashMap::new() })) };
    let mut grads = loss.backward()?;
    for (variable, gradient) in ASIDE.take().unwrap_or_default().sums.into_values() {
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
    outer: Option<Aside>,
}

impl Drop for Running {
    fn drop(&mut self) {
        ASIDE.set(self.outer.take());
    }
}

/// Puts the gradient of `tensor` by `node` aside if that is a variable and a [`backward`] of `node` waits for it.
/// Returns it otherwise, and where candle should refuse its shape.
pub(super) fn put_aside(node: &Tensor, tensor: &Tensor, gradient: Option<Tensor>) -> Result<Option<Tensor>> {
    let gradient = match gradient {
        Some(gradient) if tensor.is_variable() && gradient.shape() == tensor.shape() => gradient,
        other => return Ok(other),
    };
    ASIDE.with_borrow_mut(|aside| {
        let Some(aside) = aside.as_mut().filter(|aside| aside.nodes.contains(&node.id())) else {
            return Ok(Some(gradient));
        };
        let sum = match aside.sums.remove(&tensor.id()) {
            Some((_, before)) => (before + gradient)?,
            None => gradient,
        };
        aside.sums.insert(tensor.id(), (tensor.clone(), sum));
        Ok(None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Taps;
    use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Module, Shape, Var};
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

    /// A block with a residual that is computed again in its own backward, as gradient checkpointing does.
    struct Checkpointed(crate::Tapped<candle_nn::Linear>);

    impl Checkpointed {
        fn block(&self, x: &Tensor) -> Result<Tensor> {
            x + self.0.forward(x)?
        }
    }

    impl CustomOp1 for Checkpointed {
        fn name(&self) -> &'static str {
            "checkpointed"
        }

        fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            let x = Tensor::from_vec(storage.as_slice::<f32>()?.to_vec(), layout.shape(), &Device::Cpu)?;
            Ok((CpuStorage::F32(self.block(&x)?.flatten_all()?.to_vec1()?), layout.shape().clone()))
        }

        fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
            let x = Var::from_tensor(&x.detach())?;
            let mut grads = (self.block(&x)? * gradient)?.sum_all()?.backward()?;
            assert!(grads.get(self.0.inner().weight()).is_some(), "the inner backward's own gradient");
            Ok(grads.remove(&x))
        }
    }

    #[test]
    fn a_backward_inside_keeps_its_gradients() {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let first = taps.tap("first", linear(4, 4, vb.pp("first")).unwrap());
        let inside = taps.tap("inside", linear(4, 4, vb.pp("inside")).unwrap());
        let x = Tensor::randn(0f32, 1.0, (3, 4), &Device::Cpu).unwrap();
        let plain = inside.clone();
        let loss = |block: &dyn Fn(Tensor) -> Result<Tensor>| block(first.forward(&x)?)?.sqr()?.sum_all();
        let made = loss(&|x| x.apply_op1(Checkpointed(inside.clone()))).unwrap();
        let wanted = loss(&|x| &x + plain.forward(&x)?).unwrap().backward().unwrap();
        let made = backward(&made).unwrap();
        let weight = |grads: &GradStore| grads.get(first.inner().weight()).unwrap().to_vec2::<f32>().unwrap();
        let (made, wanted) = (weight(&made).concat(), weight(&wanted).concat());
        assert!(made.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{made:?} {wanted:?}");
    }

    #[test]
    fn a_bias_of_another_shape_is_refused_by_backward() {
        let bias = Var::zeros((1, 2), DType::F32, &Device::Cpu).unwrap();
        let weight = Var::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
        let layer = candle_nn::Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
        let layer = Taps::new().tap("layer", layer);
        let loss = layer.forward(&Tensor::ones((4, 3), DType::F32, &Device::Cpu).unwrap()).unwrap().sum_all().unwrap();
        assert!(loss.backward().is_err() && backward(&loss).is_err());
    }
}
