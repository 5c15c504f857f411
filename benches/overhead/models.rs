//! The workloads, each in one text for candle's layers and for those of `gradlog::nn`.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Conv2dConfig, LSTMConfig, LayerNorm, VarBuilder, VarMap, RNN};
use gradlog::Taps;
use std::path::Path;

#[path = "../../examples/mnist/data.rs"]
#[allow(dead_code)]
mod digits;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    Mlp64,
    Mlp256,
    Cnn,
    Transformer,
    Lstm,
}

const LENGTH: usize = 64;
const WIDTH: usize = 128;
const HEADS: usize = 4;
const BLOCKS: usize = 4;
const SYMBOLS: usize = 256;

impl Workload {
    pub const ALL: [Self; 5] = [Self::Mlp64, Self::Mlp256, Self::Cnn, Self::Transformer, Self::Lstm];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp64 => "mlp64",
            Self::Mlp256 => "mlp256",
            Self::Cnn => "cnn",
            Self::Transformer => "transformer",
            Self::Lstm => "lstm",
        }
    }

    pub fn family(self) -> &'static str {
        match self {
            Self::Mlp64 | Self::Mlp256 => "mlp",
            other => other.name(),
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|workload| workload.name() == name)
    }

    pub fn batch(self) -> usize {
        match self {
            Self::Mlp64 | Self::Cnn => 64,
            Self::Mlp256 => 256,
            Self::Transformer => 16,
            Self::Lstm => 32,
        }
    }

    /// A block lasts long enough to be timed and short enough that neighbors see the same machine.
    pub fn steps_in_block(self) -> u64 {
        match self {
            Self::Mlp64 => 100,
            Self::Mlp256 => 40,
            Self::Cnn | Self::Transformer | Self::Lstm => 4,
        }
    }

    /// Inputs and outputs of the last layer.
    pub fn head(self) -> (usize, usize) {
        match self {
            Self::Mlp64 | Self::Mlp256 => (256, 10),
            Self::Cnn => (128, 10),
            Self::Transformer | Self::Lstm => (WIDTH, SYMBOLS),
        }
    }
}

type Layer = Box<dyn Module>;
type Forward = Box<dyn Fn(&Tensor) -> candle_core::Result<(Tensor, Tensor)>>;

/// A model: from inputs to what enters the last layer, and logits.
pub struct Model(Forward);

/// candle_nn's LayerNorm by its differentiable ops: its own kernel has no backward, and a plain loop that used it would
/// do less work.
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
    vb: &'a VarBuilder<'a>,
    taps: Option<&'a Taps>,
}

macro_rules! build {
    ($builder:expr, $name:expr, $make:ident($($argument:expr),*)) => {{
        let vb = $builder.vb.pp($name);
        Ok(match $builder.taps {
            Some(taps) => Box::new(taps.collect_more(|| gradlog::nn::$make($($argument,)* vb))?) as Layer,
            None => Box::new(candle_nn::$make($($argument,)* vb)?),
        })
    }};
}

impl Builder<'_> {
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Layer> {
        build!(self, name, linear(inputs, outputs))
    }

    fn conv2d(&self, name: &str, inputs: usize, outputs: usize) -> Result<Layer> {
        build!(self, name, conv2d(inputs, outputs, 3, Conv2dConfig::default()))
    }

    fn embedding(&self, name: &str, rows: usize) -> Result<Layer> {
        build!(self, name, embedding(rows, WIDTH))
    }

    fn norm(&self, name: &str) -> Result<Layer> {
        match self.taps {
            Some(_) => build!(self, name, layer_norm(WIDTH, 1e-5)),
            None => Ok(Box::new(SlowNorm(candle_nn::layer_norm(WIDTH, 1e-5, self.vb.pp(name))?))),
        }
    }
}

type Op = fn(&Tensor) -> candle_core::Result<Tensor>;

/// What is between layers.
struct Between {
    relu: Op,
    pool: Op,
    attend: Attend,
}

/// Causal attention of queries, keys and values; the mask is added to its scores where it takes one.
type Attend = fn([&Tensor; 3], &Tensor) -> candle_core::Result<Tensor>;

/// candle's own ops in the plain loop, and with taps those that compute the same in one pass each way.
fn between(taps: Option<&Taps>) -> Between {
    match taps {
        Some(_) => Between {
            relu: gradlog::ops::relu,
            pool: |x| gradlog::ops::max_pool2d_as_candle(x, 2),
            attend: |[q, k, v], _| gradlog::ops::attention(q, k, v, HEADS, true),
        },
        None => Between { relu: Tensor::relu, pool: |x| x.max_pool2d(2), attend: attend_by_candle },
    }
}

fn attend_by_candle(of: [&Tensor; 3], mask: &Tensor) -> candle_core::Result<Tensor> {
    let (batch, length, width) = of[0].dims3()?;
    let heads = |x: &Tensor| x.reshape((batch, length, HEADS, width / HEADS))?.transpose(1, 2)?.contiguous();
    let [q, k, v] = [heads(of[0])?, heads(of[1])?, heads(of[2])?];
    let scores = (q.matmul(&k.t()?)? / ((width / HEADS) as f64).sqrt())?.broadcast_add(mask)?;
    // `softmax_last_dim` has no backward in candle-nn 0.11.
    let mixed = candle_nn::ops::softmax(&scores, candle_core::D::Minus1)?.matmul(&v)?;
    mixed.transpose(1, 2)?.contiguous()?.reshape((batch, length, width))
}

impl Model {
    pub fn new(workload: Workload, variables: &VarMap, taps: Option<&Taps>) -> Result<Self> {
        let vb = VarBuilder::from_varmap(variables, DType::F32, &Device::Cpu);
        let build = Builder { vb: &vb, taps };
        let fc = |name: &str, inputs, outputs| build.linear(name, inputs, outputs);
        let Between { relu, pool, .. } = between(taps);
        let forward: Forward = match workload {
            Workload::Mlp64 | Workload::Mlp256 => {
                let (fc1, fc2, fc3) = (fc("fc1", 784, 512)?, fc("fc2", 512, 256)?, fc("fc3", 256, 10)?);
                Box::new(move |x| {
                    let features = relu(&fc2.forward(&relu(&fc1.forward(x)?)?)?)?;
                    let logits = fc3.forward(&features)?;
                    Ok((features, logits))
                })
            }
            Workload::Cnn => {
                let (conv1, conv2) = (build.conv2d("conv1", 1, 32)?, build.conv2d("conv2", 32, 64)?);
                let (fc1, fc2) = (fc("fc1", 9216, 128)?, fc("fc2", 128, 10)?);
                Box::new(move |x| {
                    let x = relu(&conv1.forward(x)?)?;
                    let x = pool(&relu(&conv2.forward(&x)?)?)?;
                    let features = relu(&fc1.forward(&x.flatten_from(1)?)?)?;
                    let logits = fc2.forward(&features)?;
                    Ok((features, logits))
                })
            }
            Workload::Transformer => transformer(&build)?,
            Workload::Lstm => lstm(&build)?,
        };
        Ok(Self(forward))
    }

    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.0)(x)?)
    }
}

fn transformer(build: &Builder<'_>) -> Result<Forward> {
    let fc = |name: &str, inputs, outputs| build.linear(name, inputs, outputs);
    let norm = |name: &str| build.norm(name);
    let (tokens, places) = (build.embedding("tokens", SYMBOLS)?, build.embedding("places", LENGTH)?);
    let mut blocks = Vec::new();
    for n in 0..BLOCKS {
        let name = |part: &str| format!("block{n}_{part}");
        blocks.push((
            norm(&name("norm1"))?,
            [fc(&name("q"), WIDTH, WIDTH)?, fc(&name("k"), WIDTH, WIDTH)?, fc(&name("v"), WIDTH, WIDTH)?],
            fc(&name("out"), WIDTH, WIDTH)?,
            norm(&name("norm2"))?,
            fc(&name("up"), WIDTH, 4 * WIDTH)?,
            fc(&name("down"), 4 * WIDTH, WIDTH)?,
        ));
    }
    let Between { relu, attend, .. } = between(build.taps);
    let (last_norm, head) = (norm("norm")?, fc("head", WIDTH, SYMBOLS)?);
    let mask: Vec<f32> =
        (0..LENGTH * LENGTH).map(|i| if i % LENGTH > i / LENGTH { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (LENGTH, LENGTH), &Device::Cpu)?;
    Ok(Box::new(move |ids| {
        let (batch, length) = ids.dims2()?;
        // The batch comes first for every tap, so the position ids are spread over it.
        let positions =
            Tensor::arange(0u32, length as u32, ids.device())?.broadcast_as((batch, length))?.contiguous()?;
        let mut x = (tokens.forward(ids)? + places.forward(&positions)?)?;
        for (norm1, [q, k, v], out, norm2, up, down) in &blocks {
            let h = norm1.forward(&x)?;
            let (q, k, v) = (q.forward(&h)?, k.forward(&h)?, v.forward(&h)?);
            let mixed = attend([&q, &k, &v], &mask)?;
            x = (x + out.forward(&mixed)?)?;
            let h = norm2.forward(&x)?;
            x = (x + down.forward(&relu(&up.forward(&h)?)?)?)?;
        }
        let features = last_norm.forward(&x)?;
        let logits = head.forward(&features)?;
        Ok((features, logits))
    }))
}

/// A model of characters: an embedding, two LSTM layers and a classifier at each position.
fn lstm(build: &Builder<'_>) -> Result<Forward> {
    let (tokens, head) = (build.embedding("tokens", SYMBOLS)?, build.linear("head", WIDTH, SYMBOLS)?);
    let (vb, config) = (build.vb, LSTMConfig::default());
    Ok(match build.taps {
        Some(taps) => {
            let layer = |name: &str| gradlog::nn::lstm(WIDTH, WIDTH, config, vb.pp(name));
            unroll(tokens, taps.collect_more(|| candle_core::Result::Ok([layer("lstm1")?, layer("lstm2")?]))?, head)
        }
        None => {
            let layer = |name: &str| candle_nn::lstm(WIDTH, WIDTH, config, vb.pp(name));
            unroll(tokens, [layer("lstm1")?, layer("lstm2")?], head)
        }
    })
}

fn unroll<R: RNN + 'static>(tokens: Layer, layers: [R; 2], head: Layer) -> Forward {
    Box::new(move |ids| {
        let mut x = tokens.forward(ids)?;
        for layer in &layers {
            x = layer.states_to_tensor(&layer.seq(&x)?)?;
        }
        let logits = head.forward(&x)?;
        Ok((x, logits))
    })
}

/// candle_nn's loss, over all positions of a sequence.
pub fn plain_loss(logits: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::loss::cross_entropy(&logits.flatten_to(logits.rank() - 2)?, &y.flatten_all()?)?)
}

/// Batches that are ready before the clock runs.
pub struct Data(Vec<(Vec<u64>, Tensor, Tensor)>);

impl Data {
    pub fn load(workload: Workload) -> Result<Self> {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
        let batch = workload.batch();
        let mut batches = Vec::new();
        if matches!(workload, Workload::Transformer | Workload::Lstm) {
            let text =
                std::fs::read(data.join("text/paradise-lost.txt")).context("the text that ships with gradlog")?;
            let windows: Vec<&[u8]> = text.windows(LENGTH + 1).step_by(LENGTH).take(64 * batch).collect();
            for (number, windows) in windows.chunks_exact(batch).enumerate() {
                let ids = (0..batch).map(|i| (number * batch + i) as u64).collect();
                let part = |from: usize| -> Result<Tensor> {
                    let symbols =
                        windows.iter().flat_map(|w| w[from..from + LENGTH].iter().map(|b| u32::from(*b))).collect();
                    Ok(Tensor::from_vec::<_, u32>(symbols, (batch, LENGTH), &Device::Cpu)?)
                };
                batches.push((ids, part(0)?, part(1)?));
            }
        } else {
            let digits = digits::Digits::load(&data.join("mnist"), "train")?;
            let ids: Vec<u64> = (0..digits.len() as u64).collect();
            for ids in ids.chunks_exact(batch) {
                let (x, y) = digits.batch(ids, &Device::Cpu)?;
                let x = if workload == Workload::Cnn { x } else { x.flatten_from(1)? };
                batches.push((ids.to_vec(), x, y));
            }
        }
        Ok(Self(batches))
    }

    pub fn batch(&self, step: u64) -> Result<(&[u64], Tensor, Tensor)> {
        let (ids, x, y) = &self.0[step as usize % self.0.len()];
        Ok((ids, x.clone(), y.clone()))
    }
}
