//! `LearnedTensor`: a trained tensor that is the same for all examples, such as a class token.

use super::per_example::PerExample;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{Module, Result, Tensor};

/// A trained tensor that every example gets: a class token, learned positions, a scale. A [`Module`] whose output is
/// the tensor `[batch, ..]`, once for each example of its input; it looks at nothing else of the input.
///
/// [`nn::learned_tensor`](crate::nn::learned_tensor()) makes one from a `VarBuilder`.
///
/// ```
/// use candle_core::{Device, Module, Tensor, Var};
/// use gradlog::taps::LearnedTensor;
///
/// let token = LearnedTensor::new(Var::new(&[[1f32, 2.]], &Device::Cpu)?.into_inner());
/// let x = Tensor::zeros((3, 5), candle_core::DType::F32, &Device::Cpu)?;
/// assert_eq!(token.forward(&x)?.dims(), [3, 1, 2]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LearnedTensor {
    tensor: Tensor,
}

impl LearnedTensor {
    /// Holds a tensor.
    pub fn new(tensor: Tensor) -> Self {
        Self { tensor }
    }

    /// The tensor itself.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

impl Module for LearnedTensor {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dims = [&[x.dim(0)?], self.tensor.dims()].concat();
        self.tensor.unsqueeze(0)?.expand(dims)?.contiguous()
    }
}

impl Tap for LearnedTensor {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        Ok(LayerSpec::new("tensor", vec![Parameter::new("tensor", &self.tensor)]))
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }

    /// The gradient of the example's own copy.
    fn per_example(&self, _: &Tensor, delta: &Tensor) -> Result<PerExample> {
        Ok(PerExample::Dense(delta.contiguous()?.flatten_from(1)?))
    }
}
