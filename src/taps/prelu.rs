//! `PReLU`: a slope below 0 that is trained. He et al. 2015.

use super::gradient::read_f32;
use super::per_example::PerExample;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{bail, DType, Device, Module, Result, Tensor};
use candle_nn::PReLU;

impl Tap for PReLU {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        Ok(LayerSpec::new("prelu", vec![Parameter::new("weight", self.weight())]))
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        Module::forward(self, x)
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }

    /// `Σ_t δ_ct min(x_ct, 0)` for each channel c, over all numbers if there is one weight.
    ///
    /// At 0 the term is 0 whatever candle's slope there, because `x` is 0.
    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        let weights = self.weight().elem_count();
        let (batch, positions) = match *x.dims() {
            [batch, ..] if self.is_scalar() || weights == 1 => (batch, x.elem_count() / batch.max(1)),
            [batch, channels, ..] if channels == weights => (batch, x.elem_count() / (batch * channels).max(1)),
            _ => bail!("a PReLU of {weights} channels does not take an input of shape {:?}", x.shape()),
        };
        if !x.device().is_cpu() {
            let numbers = |t: &Tensor| t.to_dtype(DType::F32)?.contiguous()?.reshape((batch, weights, ()));
            let below = numbers(x)?.minimum(0.0)?;
            return Ok(PerExample::Dense((below * numbers(delta)?)?.sum(2)?));
        }
        let (xs, g) = (read_f32(x)?, read_f32(delta)?);
        let positions = positions.max(1);
        let rows = xs.chunks_exact(positions).zip(g.chunks_exact(positions));
        let sums = rows.map(|(x, g)| x.iter().zip(g).map(|(x, g)| x.min(0.0) * g).sum::<f32>());
        Ok(PerExample::Dense(Tensor::from_vec(sums.collect(), (batch, weights), &Device::Cpu)?))
    }
}
