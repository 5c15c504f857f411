//! The workloads, each in one text for candle's layers and for those of `gradlog::nn`, on any device.

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor, D};
use candle_nn::{Conv2dConfig, LayerNorm, VarBuilder, VarMap};
use gradlog::Taps;

/// What is trained, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    Mlp,
    Cnn,
    Transformer,
}

/// Sizes of a workload.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    pub length: usize,
    pub width: usize,
    pub heads: usize,
    pub blocks: usize,
    pub symbols: usize,
}

impl Workload {
    pub const ALL: [Self; 3] = [Self::Mlp, Self::Cnn, Self::Transformer];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Cnn => "cnn",
            Self::Transformer => "transformer",
        }
    }

    /// As GPT-2 small, or so small that a CPU trains it in a moment.
    pub fn sizes(self, tiny: bool) -> Sizes {
        let transformer =
            |batch, length, width, heads, blocks, symbols| Sizes { batch, length, width, heads, blocks, symbols };
        match (self, tiny) {
            (Self::Transformer, false) => transformer(8, 1024, 768, 12, 12, 50_257),
            (Self::Transformer, true) => transformer(4, 16, 32, 2, 2, 64),
            (_, false) => transformer(256, 28, 512, 1, 0, 10),
            (_, true) => transformer(8, 28, 32, 1, 0, 10),
        }
    }
}

type Layer = Box<dyn Module>;
type Forward = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>;

/// A model, from inputs to logits.
pub struct Model(Forward);

/// candle_nn's LayerNorm by its differentiable ops: its own kernels have no backward.
struct SlowNorm(LayerNorm);

impl Module for SlowNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self.0.bias() {
            Some(bias) => candle_nn::ops::layer_norm_slow(x, self.0.weight(), bias, self.0.eps() as f32),
            None => candle_core::bail!("this bench's norms have a bias"),
        }
    }
}

/// Builds layers under a path: candle's own in the plain loop, and with taps those of `gradlog::nn`.
struct Builder<'a> {
    vb: VarBuilder<'a>,
    taps: Option<&'a Taps>,
}

macro_rules! build {
    ($builder:expr, $name:expr, $make:ident($($argument:expr),*)) => {{
        let vb = $builder.vb.pp($name);
        candle_core::Result::Ok(match $builder.taps {
            Some(taps) => Box::new(taps.collect_more(|| gradlog::nn::$make($($argument,)* vb))?) as Layer,
            None => Box::new(candle_nn::$make($($argument,)* vb)?),
        })
    }};
}

impl Builder<'_> {
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Layer> {
        Ok(build!(self, name, linear(inputs, outputs))?)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Layer> {
        match self.taps {
            Some(_) => Ok(build!(self, name, layer_norm(width, 1e-5))?),
            None => Ok(Box::new(SlowNorm(candle_nn::layer_norm(width, 1e-5, self.vb.pp(name))?))),
        }
    }
}

impl Model {
    pub fn new(
        workload: Workload,
        sizes: Sizes,
        variables: &VarMap,
        taps: Option<&Taps>,
        (device, dtype): (&Device, DType),
    ) -> Result<Self> {
        let build = Builder { vb: VarBuilder::from_varmap(variables, dtype, device), taps };
        let Sizes { width, .. } = sizes;
        let fc = |name: &str, inputs, outputs| build.linear(name, inputs, outputs);
        Ok(Self(match workload {
            Workload::Mlp => {
                let layers = [fc("fc1", 784, width)?, fc("fc2", width, width / 2)?, fc("fc3", width / 2, 10)?];
                Box::new(move |x| {
                    let x = layers[0].forward(&x.flatten_from(1)?)?.relu()?;
                    layers[2].forward(&layers[1].forward(&x)?.relu()?)
                })
            }
            Workload::Cnn => {
                let config = Conv2dConfig::default();
                let conv1 = build!(build, "conv1", conv2d(1, width / 16, 3, config))?;
                let conv2 = build!(build, "conv2", conv2d(width / 16, width / 8, 3, config))?;
                let (fc1, fc2) = (fc("fc1", width / 8 * 144, 128)?, fc("fc2", 128, 10)?);
                Box::new(move |x| {
                    let x = conv2.forward(&conv1.forward(x)?.relu()?)?.relu()?;
                    // candle's max-pooling has a wrong gradient (docs/candle-faults.md), so the mean.
                    let x = x.avg_pool2d(2)?.flatten_from(1)?;
                    fc2.forward(&fc1.forward(&x)?.relu()?)
                })
            }
            Workload::Transformer => transformer(&build, sizes, (device, dtype))?,
        }))
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok((self.0)(x)?)
    }
}

/// A transformer like GPT-2, with a head of its own.
fn transformer(build: &Builder<'_>, sizes: Sizes, (device, dtype): (&Device, DType)) -> Result<Forward> {
    let Sizes { length, width, heads, symbols, .. } = sizes;
    let fc = |name: &str, inputs, outputs| build.linear(name, inputs, outputs);
    let tokens = build!(build, "tokens", embedding(symbols, width))?;
    let places = build!(build, "places", embedding(length, width))?;
    let mut blocks = Vec::new();
    for number in 0..sizes.blocks {
        let name = |part: &str| format!("block{number}_{part}");
        blocks.push((
            build.norm(&name("norm1"), width)?,
            [fc(&name("q"), width, width)?, fc(&name("k"), width, width)?, fc(&name("v"), width, width)?],
            fc(&name("out"), width, width)?,
            build.norm(&name("norm2"), width)?,
            fc(&name("up"), width, 4 * width)?,
            fc(&name("down"), 4 * width, width)?,
        ));
    }
    let (last_norm, head) = (build.norm("norm", width)?, fc("head", width, symbols)?);
    let mask: Vec<f32> =
        (0..length * length).map(|i| if i % length > i / length { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (length, length), device)?.to_dtype(dtype)?;
    Ok(Box::new(move |ids| {
        let (batch, length) = ids.dims2()?;
        let positions =
            Tensor::arange(0u32, length as u32, ids.device())?.broadcast_as((batch, length))?.contiguous()?;
        let mut x = (tokens.forward(ids)? + places.forward(&positions)?)?;
        let split = |t: Tensor| t.reshape((batch, length, heads, width / heads))?.transpose(1, 2)?.contiguous();
        for (norm1, [q, k, v], out, norm2, up, down) in &blocks {
            let h = norm1.forward(&x)?;
            let (q, k, v) = (split(q.forward(&h)?)?, split(k.forward(&h)?)?, split(v.forward(&h)?)?);
            let scores = (q.matmul(&k.t()?.contiguous()?)? / ((width / heads) as f64).sqrt())?.broadcast_add(&mask)?;
            // `softmax_last_dim` has no backward in candle-nn 0.11.
            let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
            let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape((batch, length, width))?;
            x = (x + out.forward(&mixed)?)?;
            let h = norm2.forward(&x)?;
            x = (x + down.forward(&up.forward(&h)?.gelu()?)?)?;
        }
        head.forward(&last_norm.forward(&x)?)
    }))
}

/// Inputs and labels that are drawn at random, ready on the device.
pub fn draw(workload: Workload, sizes: Sizes, device: &Device, dtype: DType) -> Result<(Tensor, Tensor)> {
    let Sizes { batch, length, symbols, .. } = sizes;
    let tokens = |seed: u64, count: usize| -> Vec<u32> {
        (0..count as u64).map(|i| (gradlog_format::sketch::draw(seed, i) % symbols as u64) as u32).collect()
    };
    Ok(match workload {
        Workload::Transformer => (
            Tensor::from_vec(tokens(1, batch * length), (batch, length), device)?,
            Tensor::from_vec(tokens(2, batch * length), (batch, length), device)?,
        ),
        _ => (
            Tensor::randn(0f32, 1., (batch, 1, 28, 28), device)?.to_dtype(dtype)?,
            Tensor::from_vec(tokens(2, batch), batch, device)?,
        ),
    })
}
