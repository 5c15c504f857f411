//! What an optimizer keeps of a variable from step to step: a velocity, a moment.

use crate::step::SharedNumbers;
use crate::taps::cpu_f32;
use candle_core::{bail, Device, Result, Tensor, Var};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers of the shape of a variable.
#[derive(Debug)]
pub(super) enum Buffer {
    /// For a variable of f32 in main memory. It is updated in place, and the recorder may read it between steps.
    Numbers(SharedNumbers),
    /// For any other variable.
    Tensor(Tensor),
}

/// The numbers, to read or to update.
pub(super) fn lock(numbers: &SharedNumbers) -> MutexGuard<'_, Vec<f32>> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buffer {
    pub(super) fn zeros(variable: &Var) -> Result<Self> {
        if cpu_f32(&[variable]) {
            return Ok(Self::Numbers(Arc::new(Mutex::new(vec![0.0; variable.elem_count()]))));
        }
        Ok(Self::Tensor(variable.as_detached_tensor().zeros_like()?))
    }

    /// A copy as a tensor of the variable's shape.
    pub(super) fn to_tensor(&self, variable: &Var) -> Result<Tensor> {
        match self {
            Self::Numbers(numbers) => Tensor::from_slice(&lock(numbers), variable.shape(), &Device::Cpu),
            Self::Tensor(tensor) => Ok(tensor.clone()),
        }
    }

    /// The buffer that [`Buffer::to_tensor`] gave, for the same variable.
    pub(super) fn from_tensor(tensor: &Tensor, variable: &Var) -> Result<Self> {
        if tensor.shape() != variable.shape() || tensor.dtype() != variable.dtype() {
            bail!(
                "it is {:?} of shape {:?}, and the variable is {:?} of shape {:?}",
                tensor.dtype(),
                tensor.shape(),
                variable.dtype(),
                variable.shape()
            );
        }
        if cpu_f32(&[variable]) {
            return Ok(Self::Numbers(Arc::new(Mutex::new(tensor.flatten_all()?.to_vec1()?))));
        }
        Ok(Self::Tensor(tensor.to_device(variable.device())?.detach()))
    }
}
