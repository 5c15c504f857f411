//! How a recurrence lies in candle's graph.
//!
//! A custom op of candle takes at most three tensors and gives one. A recurrence takes more (products, weight, bias,
//! state) and gives a state for each step. Views of one large result would be simple, but candle's backward makes a
//! tensor as large as the whole result for each view: a cost that grows with the square of the length.
//!
//! So the ops here pass single numbers along the graph, and lay the gradients aside in [`Deposits`]. The number that
//! arrives as gradient counts the deposits of this backward pass.

use super::super::fused::{needs_gradient, with_slice};
use candle_core::{bail, CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

/// Gradients that ops lay aside for the op before them. candle runs a backward pass on one thread, so each thread has
/// its own.
#[derive(Debug, Default)]
pub(super) struct Deposits(Mutex<Vec<(ThreadId, Gradients)>>);

/// By number of the op. `None` where none was laid aside.
type Gradients = Vec<Option<Vec<f32>>>;

impl Deposits {
    fn all(&self) -> MutexGuard<'_, Vec<(ThreadId, Gradients)>> {
        // Each change is one assignment, so a poisoned list is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays `gradient` aside as the one of `number`.
    pub(super) fn put(&self, number: usize, gradient: Vec<f32>) {
        let (thread, mut all) = (std::thread::current().id(), self.all());
        let place = all.iter().position(|(other, _)| *other == thread).unwrap_or_else(|| {
            all.push((thread, Vec::new()));
            all.len() - 1
        });
        let own = &mut all[place].1;
        own.resize_with(own.len().max(number + 1), || None);
        own[number] = Some(gradient);
    }

    /// Takes the gradients of `numbers` ops, of which `grad` counts those that laid one aside.
    pub(super) fn take(&self, numbers: usize, grad: &Tensor) -> Result<Gradients> {
        let counted = with_slice(grad, |values| Ok(values.iter().sum::<f32>()))?;
        let (thread, mut all) = (std::thread::current().id(), self.all());
        let place = all.iter().position(|(other, _)| *other == thread);
        let mut own = place.map(|place| all.swap_remove(place).1).unwrap_or_default();
        own.resize_with(numbers, || None);
        let found = own.iter().flatten().count();
        if found as f32 != counted {
            bail!(
                "{found} gradients of a recurrent layer's states were left by a backward pass that counts {counted}: an \
                 earlier backward pass over the same graph failed, so run the forward pass again"
            );
        }
        Ok(own)
    }
}

/// The gradient of one number of a graph: the count of deposits.
pub(super) fn count(deposits: usize) -> Result<Tensor> {
    Tensor::from_vec(vec![deposits as f32], 1, &Device::Cpu)
}

/// One number, which carries no value.
fn token() -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
}

/// One or two tensors as one argument of an op. That op lays their gradients aside under 0 and 1.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    pub token: Tensor,
    tensors: Vec<Tensor>,
    deposits: Arc<Deposits>,
}

impl Bundle {
    pub(super) fn new(first: &Tensor, second: Option<&Tensor>) -> Result<Self> {
        let deposits = Arc::new(Deposits::default());
        let op = BundleOp(deposits.clone());
        let token = match second {
            Some(second) => first.apply_op2(second, op)?,
            None => first.apply_op1(op)?,
        };
        let tensors = [Some(first), second].into_iter().flatten().cloned().collect();
        Ok(Self { token, tensors, deposits })
    }

    pub(super) fn first(&self) -> &Tensor {
        &self.tensors[0]
    }

    /// Lays aside the gradients that are needed. Returns the gradient of the token, if it has one.
    pub(super) fn lay_aside(&self, gradients: Vec<Vec<f32>>) -> Result<Option<Tensor>> {
        let mut laid = 0;
        for (number, (tensor, gradient)) in self.tensors.iter().zip(gradients).enumerate() {
            if needs_gradient(tensor) {
                self.deposits.put(number, gradient);
                laid += 1;
            }
        }
        if laid == 0 {
            return Ok(None);
        }
        count(laid).map(Some)
    }

    pub(super) fn has_second(&self) -> bool {
        self.tensors.len() > 1
    }

    pub(super) fn needs_gradient(&self) -> bool {
        self.tensors.iter().any(needs_gradient)
    }
}

#[derive(Debug)]
struct BundleOp(Arc<Deposits>);

impl BundleOp {
    fn gradients(&self, tensors: &[&Tensor], grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let own = self.0.take(tensors.len(), grad)?;
        let shaped = |(tensor, own): (&&Tensor, Option<Vec<f32>>)| {
            own.map(|own| Tensor::from_vec(own, tensor.shape(), &Device::Cpu)).transpose()
        };
        tensors.iter().zip(own).map(shaped).collect()
    }
}

impl CustomOp1 for BundleOp {
    fn name(&self) -> &'static str {
        "gradlog-bundle"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        token()
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.gradients(&[a], grad)?.pop().flatten())
    }
}

impl CustomOp2 for BundleOp {
    fn name(&self) -> &'static str {
        "gradlog-bundle"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        token()
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut both = self.gradients(&[a, b], grad)?.into_iter();
        Ok((both.next().flatten(), both.next().flatten()))
    }
}

/// A tensor among the results of a recurrence. Its argument is the recurrence's token.
#[derive(Debug)]
pub(super) struct ResultOp {
    pub number: usize,
    /// Taken by forward.
    pub values: Mutex<Vec<f32>>,
    pub shape: Shape,
    pub deposits: Arc<Deposits>,
}

impl CustomOp1 for ResultOp {
    fn name(&self) -> &'static str {
        "gradlog-recurrent-state"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = std::mem::take(&mut *self.values.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((CpuStorage::F32(values), self.shape.clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.deposits.put(self.number, with_slice(grad, |grad| Ok(grad.to_vec()))?);
        count(1).map(Some)
    }
}
