//! What an optimizer keeps of a variable from step to step: a velocity, a moment.

use crate::step::SharedNumbers;
use crate::taps::cpu_f32;
use candle_core::{bail, DType, Device, Result, Tensor, Var};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers of the shape of a variable.
#[derive(Debug)]
pub(super) enum Buffer {
    /// For a variable of f32 in main memory. It is updated in place, and the recorder may read it between steps.
    Numbers(SharedNumbers),
    /// For any other variable, on its device. A step makes a new tensor, so the recorder may read an old one at any
    /// time.
    Tensor(Tensor),
}

/// The type of what is kept of a variable, and in which its steps are computed. Half precision does not do: a squared
/// gradient underflows in f16, and in bf16 a share of 0.999 is 1, so that a moment would never fall.
pub(super) fn state_type(variable: &Var) -> DType {
    match variable.dtype() {
        DType::F16 | DType::BF16 => DType::F32,
        dtype => dtype,
    }
}

/// The numbers, to read or to update.
pub(super) fn lock(numbers: &SharedNumbers) -> MutexGuard<'_, Vec<f32>> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buffer {
    /// With `by_ops`, a variable in main memory is treated like one elsewhere.
    pub(super) fn zeros(variable: &Var, by_ops: bool) -> Result<Self> {
        if cpu_f32(&[variable]) && !by_ops {
            return Ok(Self::Numbers(Arc::new(Mutex::new(vec![0.0; variable.elem_count()]))));
        }
        Ok(Self::Tensor(Tensor::zeros(variable.shape(), state_type(variable), variable.device())?))
    }

    /// A copy as a tensor of the variable's shape.
    pub(super) fn to_tensor(&self, variable: &Var) -> Result<Tensor> {
        match self {
            Self::Numbers(numbers) => Tensor::from_slice(&lock(numbers), variable.shape(), &Device::Cpu),
            Self::Tensor(tensor) => Ok(tensor.clone()),
        }
    }

    /// The buffer that [`Buffer::to_tensor`] gave, for the same variable. Earlier versions kept the type of the
    /// variable.
    pub(super) fn from_tensor(tensor: &Tensor, variable: &Var, by_ops: bool) -> Result<Self> {
        let dtype = state_type(variable);
        if tensor.shape() != variable.shape() || ![dtype, variable.dtype()].contains(&tensor.dtype()) {
            bail!(
                "it is {:?} of shape {:?}, and the variable is {:?} of shape {:?}",
                tensor.dtype(),
                tensor.shape(),
                variable.dtype(),
                variable.shape()
            );
        }
        if cpu_f32(&[variable]) && !by_ops {
            return Ok(Self::Numbers(Arc::new(Mutex::new(tensor.flatten_all()?.to_vec1()?))));
        }
        Ok(Self::Tensor(tensor.to_device(variable.device())?.to_dtype(dtype)?.detach()))
    }
}
