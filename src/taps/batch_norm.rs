//! `BatchNorm`: refused in training mode, where its statistics couple the examples of a batch, and tapped with frozen
//! statistics, where it is an affine layer.

use super::gradient::read_f32;
use super::per_example::PerExample;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{bail, DType, Device, Result, Tensor};
use candle_nn::{BatchNorm, ModuleT};

/// The kind of a tapped BatchNorm.
pub(crate) const KIND: &str = "batch_norm";

const REFUSAL: &str =
    "BatchNorm in training mode has no per-example gradient, because each output depends on the whole batch: use \
     GroupNorm, LayerNorm or RmsNorm. If its statistics are frozen (evaluation mode), tap \
     `gradlog::taps::FrozenBatchNorm::new(layer)`. To keep it in training mode, leave it untapped and set \
     `Config::on_batch_norm`";

impl Tap for BatchNorm {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        Err(TapError::new(REFUSAL))
    }

    fn plain_forward(&self, _x: &Tensor) -> Result<Tensor> {
        bail!("{REFUSAL}")
    }

    fn per_example(&self, _x: &Tensor, _delta: &Tensor) -> Result<PerExample> {
        bail!("{REFUSAL}")
    }
}

/// A `BatchNorm` with frozen statistics: `y = γ (x − μ) / √(σ² + ε) + β`, with the running mean `μ` and variance `σ²`.
///
/// It always computes candle's evaluation mode and never changes the statistics, whatever mode the rest of the model
/// runs in. So each output depends on its own example only, and `γ` and `β` have per-example gradients.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::{batch_norm, VarBuilder, VarMap};
/// use gradlog::taps::{FrozenBatchNorm, Taps};
///
/// let variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let taps = Taps::new();
/// let bn = taps.tap("bn", FrozenBatchNorm::new(batch_norm(8, 1e-5, vb.pp("bn"))?));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FrozenBatchNorm {
    layer: BatchNorm,
}

impl FrozenBatchNorm {
    /// Freezes the statistics of `layer`.
    pub fn new(layer: BatchNorm) -> Self {
        Self { layer }
    }

    /// The layer.
    pub fn inner(&self) -> &BatchNorm {
        &self.layer
    }
}

impl Tap for FrozenBatchNorm {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        let Some((weight, bias)) = self.layer.weight_and_bias() else {
            return Err(TapError::new(
                "this BatchNorm has no weight and no bias, so nothing is trained: leave it untapped",
            ));
        };
        let parameters = vec![Parameter::new("weight", weight), Parameter::new("bias", bias)];
        Ok(LayerSpec { kind: KIND, parameters, factors: None, bias: true })
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layer.forward_t(x, false)
    }

    /// `Σ_t δ_ct (x_ct − μ_c) / √(σ²_c + ε)` for each channel c, then `Σ_t δ_ct`.
    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        let (batch, channels) = match *x.dims() {
            [batch, channels, ..] => (batch, channels),
            _ => bail!("a BatchNorm takes an input of two dimensions or more, not the shape {:?}", x.shape()),
        };
        if !x.device().is_cpu() {
            return self.per_example_by_ops(x, delta);
        }
        let (mean, variance) = (read_f32(self.layer.running_mean())?, read_f32(self.layer.running_var())?);
        if mean.len() != channels || variance.len() != channels {
            bail!("a BatchNorm of {} channels does not take an input of shape {:?}", mean.len(), x.shape());
        }
        let (xs, g) = (read_f32(x)?, read_f32(delta)?);
        let positions = (xs.len() / (batch * channels).max(1)).max(1);
        let mut out = vec![0f32; batch * 2 * channels];
        let rows = xs.chunks_exact(channels * positions).zip(g.chunks_exact(channels * positions));
        for (out, (x, g)) in out.chunks_exact_mut((2 * channels).max(1)).zip(rows) {
            let (weights, biases) = out.split_at_mut(channels);
            for (channel, (x, g)) in x.chunks_exact(positions).zip(g.chunks_exact(positions)).enumerate() {
                let scale = 1.0 / (f64::from(variance[channel]) + self.layer.eps()).sqrt();
                let mean = f64::from(mean[channel]);
                weights[channel] =
                    x.iter().zip(g).map(|(x, g)| (f64::from(*x) - mean) * scale * f64::from(*g)).sum::<f64>() as f32;
                biases[channel] = g.iter().sum();
            }
        }
        Ok(PerExample::Dense(Tensor::from_vec(out, (batch, 2 * channels), &Device::Cpu)?))
    }
}

impl FrozenBatchNorm {
    /// As [`Tap::per_example`], on the device of the tensors.
    fn per_example_by_ops(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        let (batch, channels) = (x.dim(0)?, x.dim(1)?);
        let rows = |t: &Tensor| t.to_dtype(DType::F32)?.contiguous()?.reshape((batch, channels, ()));
        let of_channel = |t: &Tensor| t.to_dtype(DType::F32)?.reshape((1, channels, 1));
        let deviation = (of_channel(self.layer.running_var())? + self.layer.eps())?.sqrt()?;
        let normed = rows(x)?.broadcast_sub(&of_channel(self.layer.running_mean())?)?.broadcast_div(&deviation)?;
        let delta = rows(delta)?;
        Ok(PerExample::Dense(Tensor::cat(&[(normed * &delta)?.sum(2)?, delta.sum(2)?], 1)?))
    }
}
