//! `GroupNorm` with candle's own ops, which are differentiable. Wu and He 2018.

use super::gradient::read_f32;
use super::per_example::PerExample;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{bail, DType, Device, Module, Result, Tensor};
use candle_nn::GroupNorm;

/// The settings that a per-example gradient needs.
struct Settings {
    eps: f64,
    channels: usize,
    groups: usize,
}

/// candle_nn 0.11 gives no access to a `GroupNorm`'s settings, but its `Debug` prints them. They are read from there
/// once, when the layer is tapped. If the text ever changes, tapping fails, and no wrong number follows.
fn read_settings(layer: &GroupNorm) -> std::result::Result<Settings, String> {
    let text = format!("{layer:?}");
    let field = |name: &str| {
        let start = text.rfind(&format!("{name}: "))? + name.len() + 2;
        text[start..].split([',', ' ', '}']).next()
    };
    let read = || {
        Some(Settings {
            eps: field("eps")?.parse().ok()?,
            channels: field("num_channels")?.parse().ok()?,
            groups: field("num_groups")?.parse().ok().filter(|groups| *groups > 0)?,
        })
    };
    read().ok_or_else(|| {
        "the settings of a GroupNorm cannot be read in this version of candle_nn: leave the layer untapped, or implement \
         gradlog's `Tap` for a wrapper that has them"
            .into()
    })
}

impl Tap for GroupNorm {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        let channels = read_settings(self).map_err(TapError::new)?.channels;
        let parameter = |name: &str| Parameter::hidden(name, channels);
        Ok(LayerSpec {
            kind: "group_norm",
            parameters: vec![parameter("weight"), parameter("bias")],
            factors: None,
            bias: true,
        })
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        Module::forward(self, x)
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        per_example(&read_settings(self).map_err(candle_core::Error::msg)?, x, delta)
    }
}

/// `Σ_t δ_ct x̂_ct` for each channel c, then `Σ_t δ_ct`.
fn per_example(settings: &Settings, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
    let &Settings { eps, channels, groups } = settings;
    let Some(&batch) = x.dims().first() else {
        bail!("a GroupNorm takes an input of three dimensions or more, not the shape {:?}", x.shape());
    };
    if !x.device().is_cpu() {
        return per_example_by_ops(settings, batch, x, delta);
    }
    let (xs, g) = (read_f32(x)?, read_f32(delta)?);
    let positions = xs.len() / (batch * channels).max(1);
    let group = channels / groups * positions;
    let mut out = vec![0f32; batch * 2 * channels];
    for (example, out) in out.chunks_exact_mut(2 * channels).enumerate() {
        let (weights, biases) = out.split_at_mut(channels);
        for number in 0..groups {
            let start = (example * groups + number) * group;
            let x = &xs[start..start + group];
            let mean = x.iter().sum::<f32>() / group as f32;
            let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / group as f32;
            let rstd = 1.0 / (variance + eps as f32).sqrt();
            let rows = x.chunks_exact(positions).zip(g[start..start + group].chunks_exact(positions));
            for (offset, (x, g)) in rows.enumerate() {
                let channel = number * (channels / groups) + offset;
                weights[channel] = x.iter().zip(g).map(|(x, g)| (x - mean) * rstd * g).sum();
                biases[channel] = g.iter().sum();
            }
        }
    }
    Ok(PerExample::Dense(Tensor::from_vec(out, (batch, 2 * channels), &Device::Cpu)?))
}

/// As [`per_example`], on the device of the tensors.
fn per_example_by_ops(settings: &Settings, batch: usize, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
    let &Settings { eps, channels, groups } = settings;
    let numbers = |t: &Tensor| t.to_dtype(DType::F32)?.contiguous();
    let x = numbers(x)?.reshape((batch, groups, ()))?;
    let x = x.broadcast_sub(&x.mean_keepdim(2)?)?;
    let deviation = (x.sqr()?.mean_keepdim(2)? + eps)?.sqrt()?;
    let normed = x.broadcast_div(&deviation)?.reshape((batch, channels, ()))?;
    let delta = numbers(delta)?.reshape((batch, channels, ()))?;
    Ok(PerExample::Dense(Tensor::cat(&[(normed * &delta)?.sum(2)?, delta.sum(2)?], 1)?))
}

/// A `GroupNorm` whose weight, bias and settings are known, as `gradlog::nn` builds it.
#[derive(Debug, Clone)]
pub struct KnownGroupNorm {
    layer: GroupNorm,
    weight: Tensor,
    bias: Tensor,
    channels: usize,
    groups: usize,
    eps: f64,
}

impl KnownGroupNorm {
    /// Makes a layer of weight and bias, `[channels]` each.
    pub(crate) fn new(weight: Tensor, bias: Tensor, channels: usize, groups: usize, eps: f64) -> Result<Self> {
        if groups == 0 {
            bail!("a GroupNorm needs at least one group");
        }
        let layer = GroupNorm::new(weight.clone(), bias.clone(), channels, groups, eps)?;
        Ok(Self { layer, weight, bias, channels, groups, eps })
    }

    /// The layer as candle_nn has it.
    pub(crate) fn layer(&self) -> &GroupNorm {
        &self.layer
    }
}

impl Tap for KnownGroupNorm {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        let parameters = vec![Parameter::new("weight", &self.weight), Parameter::new("bias", &self.bias)];
        Ok(LayerSpec { kind: "group_norm", parameters, factors: None, bias: true })
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        Module::forward(&self.layer, x)
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        let settings = Settings { eps: self.eps, channels: self.channels, groups: self.groups };
        per_example(&settings, x, delta)
    }
}
