//! The three models, tapped for the recorder and watched for the exact gradients.

use super::data::LENGTH;
use candle_core::{DType, Device, Module, Result, Tensor, Var, D};
use candle_nn::{conv2d, embedding, layer_norm, linear, ops, Conv2d, Embedding, LayerNorm, Linear, VarBuilder, VarMap};
use gradlog::ops::max_pool2d;
use gradlog::{Tap, Tapped, Taps};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;

/// What a layer is, for the gradient of one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// One position per example.
    Factored,
    /// A linear layer over a sequence.
    Sequence,
    /// A convolution with a square kernel of this side, stride 1 and no padding.
    Conv(usize),
    /// A table of this many rows.
    Embedding(usize),
    Norm,
}

/// A tapped layer. They are numbered as the taps are, so a layer's seeds are the recorder's.
#[derive(Debug, Clone)]
pub struct Site {
    pub kind: Kind,
    pub inputs: usize,
    pub outputs: usize,
}

/// Sees each layer's input and the gradient of its output: by adding a variable that is zero to the output, whose
/// gradient candle then gives. Slow, and independent of the crate's own taps.
#[derive(Default)]
pub struct Watch {
    seen: Option<RefCell<Vec<Seen>>>,
}

pub struct Seen {
    pub site: usize,
    pub input: Tensor,
    pub delta: Var,
}

impl Watch {
    pub fn on() -> Self {
        Self { seen: Some(RefCell::default()) }
    }

    pub fn into_seen(self) -> Vec<Seen> {
        self.seen.map(RefCell::into_inner).unwrap_or_default()
    }

    fn see(&self, site: usize, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let Some(seen) = &self.seen else {
            return Ok(y);
        };
        let delta = Var::from_tensor(&y.zeros_like()?)?;
        let watched = (&y + delta.as_tensor())?;
        seen.borrow_mut().push(Seen { site, input: x.detach(), delta });
        Ok(watched)
    }
}

/// A layer with its number.
struct Layer<L> {
    site: usize,
    layer: Tapped<L>,
}

impl<L: Tap> Layer<L> {
    fn forward(&self, x: &Tensor, watch: &Watch) -> Result<Tensor> {
        watch.see(self.site, x, self.layer.forward(x)?)
    }
}

/// Makes layers, taps them and numbers them.
struct Builder<'a> {
    taps: Taps,
    vb: VarBuilder<'a>,
    sites: Vec<Site>,
}

impl Builder<'_> {
    fn add<L: Tap>(&mut self, name: &str, layer: L, kind: Kind, inputs: usize, outputs: usize) -> Layer<L> {
        self.sites.push(Site { kind, inputs, outputs });
        Layer { site: self.sites.len() - 1, layer: self.taps.tap(name, layer) }
    }

    fn linear(&mut self, name: &str, kind: Kind, inputs: usize, outputs: usize) -> Result<Layer<Linear>> {
        let layer = linear(inputs, outputs, self.vb.pp(name))?;
        Ok(self.add(name, layer, kind, inputs, outputs))
    }

    fn conv(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Layer<Conv2d>> {
        let layer = conv2d(inputs, outputs, 3, Default::default(), self.vb.pp(name))?;
        Ok(self.add(name, layer, Kind::Conv(3), inputs * 9, outputs))
    }

    fn embedding(&mut self, name: &str, rows: usize, width: usize) -> Result<Layer<Embedding>> {
        let layer = embedding(rows, width, self.vb.pp(name))?;
        Ok(self.add(name, layer, Kind::Embedding(rows), rows, width))
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Layer<LayerNorm>> {
        let layer = layer_norm(width, EPS, self.vb.pp(name))?;
        Ok(self.add(name, layer, Kind::Norm, width, width))
    }
}

/// What a layer norm adds to the variance.
pub const EPS: f64 = 1e-5;
const WIDTH: usize = 128;
const HEADS: usize = 4;
const BLOCKS: usize = 4;
const SYMBOLS: usize = 256;

enum Net {
    Mlp([Layer<Linear>; 3]),
    Cnn(Layer<Conv2d>, Layer<Conv2d>, Layer<Linear>, Layer<Linear>),
    Transformer {
        symbols: Layer<Embedding>,
        places: Layer<Embedding>,
        blocks: Vec<Block>,
        norm: Layer<LayerNorm>,
        head: Layer<Linear>,
    },
}

pub struct Model {
    net: Net,
    pub sites: Vec<Site>,
    pub taps: Taps,
    pub variables: VarMap,
}

impl Model {
    /// `mlp` (784-512-256-10), `cnn` (that of examples/mnist) or `transformer` (decoder only, 4 layers, width 128, 4
    /// heads).
    pub fn new(name: &str, seed: u64) -> Result<Self> {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let mut make = Builder { taps: taps.clone(), vb, sites: Vec::new() };
        let net = match name {
            "mlp" => Net::Mlp([
                make.linear("fc1", Kind::Factored, 784, 512)?,
                make.linear("fc2", Kind::Factored, 512, 256)?,
                make.linear("fc3", Kind::Factored, 256, 10)?,
            ]),
            "cnn" => Net::Cnn(
                make.conv("conv1", 1, 32)?,
                make.conv("conv2", 32, 64)?,
                make.linear("fc1", Kind::Factored, 64 * 12 * 12, 128)?,
                make.linear("fc2", Kind::Factored, 128, 10)?,
            ),
            _ => Net::Transformer {
                symbols: make.embedding("symbols", SYMBOLS, WIDTH)?,
                places: make.embedding("places", LENGTH, WIDTH)?,
                blocks: (0..BLOCKS).map(|n| Block::new(&mut make, n)).collect::<Result<_>>()?,
                norm: make.norm("norm", WIDTH)?,
                head: make.linear("head", Kind::Sequence, WIDTH, SYMBOLS)?,
            },
        };
        let sites = make.sites;
        seed_weights(&variables, seed)?;
        taps.declare_model(&variables);
        Ok(Self { net, sites, taps, variables })
    }

    /// Inputs to logits, `[batch, 10]` or `[batch, LENGTH, 256]`.
    pub fn forward(&self, x: &Tensor, watch: &Watch) -> Result<Tensor> {
        match &self.net {
            Net::Mlp([fc1, fc2, fc3]) => {
                let x = fc1.forward(&x.flatten_from(1)?, watch)?.relu()?;
                fc3.forward(&fc2.forward(&x, watch)?.relu()?, watch)
            }
            Net::Cnn(conv1, conv2, fc1, fc2) => {
                let x = conv1.forward(x, watch)?.relu()?;
                // Not candle's own, whose gradient is too small.
                let x = max_pool2d(&conv2.forward(&x, watch)?.relu()?, 2)?;
                fc2.forward(&fc1.forward(&x.flatten_from(1)?, watch)?.relu()?, watch)
            }
            Net::Transformer { symbols, places, blocks, norm, head } => {
                let (batch, length) = x.dims2()?;
                let place = Tensor::arange(0, length as u32, x.device())?.expand((batch, length))?;
                let mut h = (symbols.forward(x, watch)? + places.forward(&place, watch)?)?;
                let past = |at: usize| if at % length > at / length { f32::NEG_INFINITY } else { 0.0 };
                let mask = Tensor::from_vec((0..length * length).map(past).collect(), (length, length), x.device())?;
                for block in blocks {
                    h = block.forward(&h, &mask, watch)?;
                }
                head.forward(&norm.forward(&h, watch)?, watch)
            }
        }
    }

    /// The mean over the batch of each example's loss, itself a mean over positions.
    pub fn mean_loss(&self, x: &Tensor, y: &Tensor, watch: &Watch) -> Result<Tensor> {
        let logits = self.forward(x, watch)?;
        let classes = logits.dim(D::Minus1)?;
        candle_nn::loss::cross_entropy(&logits.reshape(((), classes))?, &y.flatten_all()?)
    }
}

struct Block {
    norm1: Layer<LayerNorm>,
    query: Layer<Linear>,
    key: Layer<Linear>,
    value: Layer<Linear>,
    mix: Layer<Linear>,
    norm2: Layer<LayerNorm>,
    up: Layer<Linear>,
    down: Layer<Linear>,
}

impl Block {
    fn new(make: &mut Builder<'_>, number: usize) -> Result<Self> {
        let name = |part: &str| format!("block{number}.{part}");
        let square = |make: &mut Builder<'_>, part| make.linear(&name(part), Kind::Sequence, WIDTH, WIDTH);
        Ok(Self {
            norm1: make.norm(&name("norm1"), WIDTH)?,
            query: square(make, "query")?,
            key: square(make, "key")?,
            value: square(make, "value")?,
            mix: square(make, "mix")?,
            norm2: make.norm(&name("norm2"), WIDTH)?,
            up: make.linear(&name("up"), Kind::Sequence, WIDTH, 4 * WIDTH)?,
            down: make.linear(&name("down"), Kind::Sequence, 4 * WIDTH, WIDTH)?,
        })
    }

    fn forward(&self, h: &Tensor, mask: &Tensor, watch: &Watch) -> Result<Tensor> {
        let (batch, length, _) = h.dims3()?;
        let x = self.norm1.forward(h, watch)?;
        let by_head = |y: Tensor| y.reshape((batch, length, HEADS, WIDTH / HEADS))?.transpose(1, 2)?.contiguous();
        let query = by_head(self.query.forward(&x, watch)?)?;
        let key = by_head(self.key.forward(&x, watch)?)?;
        let value = by_head(self.value.forward(&x, watch)?)?;
        let scale = 1.0 / ((WIDTH / HEADS) as f64).sqrt();
        let scores = (query.matmul(&key.t()?)? * scale)?.broadcast_add(mask)?;
        // Not `softmax_last_dim`, which has no backward.
        let mixed = ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape((batch, length, WIDTH))?;
        let h = (h + self.mix.forward(&mixed, watch)?)?;
        let inner = self.up.forward(&self.norm2.forward(&h, watch)?, watch)?.relu()?;
        &h + self.down.forward(&inner, watch)?
    }
}

/// He-normal matrices and zero biases from `seed`: candle's own generator on the CPU cannot be seeded.
fn seed_weights(variables: &VarMap, seed: u64) -> Result<()> {
    let data = variables.data().lock().unwrap(); // nobody panics holding it
    let mut named: Vec<_> = data.iter().collect();
    named.sort_by_key(|(name, _)| name.as_str());
    let mut rng = StdRng::seed_from_u64(seed);
    for (name, variable) in named {
        let dims = variable.dims();
        if dims.len() > 1 {
            let scale = (2.0 / dims[1..].iter().product::<usize>() as f64).sqrt();
            let values = (0..variable.elem_count()).map(|_| (normal(&mut rng) * scale) as f32).collect();
            variable.set(&Tensor::from_vec(values, dims, variable.device())?)?;
        } else if name.ends_with("bias") {
            variable.set(&variable.zeros_like()?)?;
        }
    }
    Ok(())
}

/// A standard normal number (Box and Muller 1958).
pub fn normal(rng: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
