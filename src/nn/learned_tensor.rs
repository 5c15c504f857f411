//! A trained tensor that is the same for all examples. candle_nn has none: models take it from their `VarBuilder`.

use super::built::built_layer;
use crate::taps;
use candle_core::{Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};

built_layer! {
    /// A class token, learned positions, a scale: `forward(&x)` gives it once for each example of `x`, `[batch, ..]`.
    LearnedTensor(taps::LearnedTensor)
}

impl LearnedTensor {
    /// Holds a tensor.
    pub fn new(tensor: Tensor) -> Self {
        taps::LearnedTensor::new(tensor).into()
    }

    /// The tensor itself.
    pub fn tensor(&self) -> &Tensor {
        self.inner().tensor()
    }
}

/// The variable `name` of `vb`, in the place of `vb.get_with_hints(shape, name, init)` and its broadcast over the
/// batch.
///
/// # Errors
/// candle's error.
pub fn learned_tensor(shape: impl Into<Shape>, name: &str, init: Init, vb: VarBuilder<'_>) -> Result<LearnedTensor> {
    let tensor = vb.get_with_hints(shape, name, init)?;
    Ok(LearnedTensor::at(&vb.pp(name), taps::LearnedTensor::new(tensor)))
}
