//! Gradients that are sketched by candle's ops, as on a device: on the CPU by a switch, against what fused layers and
//! the background thread make there, and against candle's own backward on one example.

mod fixture;
mod losses;
mod tied;
mod two_sided;

use crate::common::*;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{
    conv2d, embedding, group_norm, layer_norm, linear, linear_no_bias, Conv2dConfig, ConvTranspose1d,
    ConvTranspose1dConfig, Linear, VarMap,
};
use gradlog::taps::Taps;
use gradlog::{BatchRows, Config, Encoding, Folding, Pass, Recorder, SketchConfig, Sketching};
use gradlog_analysis::InfluenceQuestion;
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;

/// Nothing is rounded, and folded layers share a few buckets.
pub(super) fn hashed(sketching: Sketching) -> Config {
    let sketch = SketchConfig {
        folded_min: 300,
        folded_max: 300,
        encoding: Encoding::F32,
        projected_encoding: Encoding::F32,
        ..SketchConfig::default()
    };
    Config { sketch, sketching, ..Config::default() }
}

type Forward = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>;

/// A model with a layer of each kind. Its input is tokens, `[batch, 6]`.
pub(super) struct Zoo {
    pub taps: Taps,
    pub variables: VarMap,
    forward: Forward,
}

impl Zoo {
    pub fn new() -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        // A GroupNorm hides its variables, and moments are read from variables.
        taps.declare_model(&variables);
        let vb = builder(&variables);
        let grouped = Conv2dConfig { groups: 2, padding: 1, ..Default::default() };
        // candle's own backward fails or is wrong for strided convolutions and those of one dimension
        // (docs/candle-faults.md).
        let padded = Conv2dConfig { padding: 1, ..Default::default() };
        let table = taps.tap("table", embedding(11, 8, vb.pp("table")).unwrap());
        let inner = taps.tap("inner", linear(8, 12, vb.pp("inner")).unwrap());
        let norm = taps.tap("norm", layer_norm(12, 1e-5, vb.pp("norm")).unwrap());
        let twice = taps.tap("twice", linear_no_bias(12, 12, vb.pp("twice")).unwrap());
        let tied = vb.pp("tied").get((12, 12), "weight").unwrap();
        let first = taps.tap("first", Linear::new(tied.clone(), None));
        let second = taps.tap("second", Linear::new(tied, None));
        let conv = taps.tap("conv", conv2d(12, 8, 3, grouped, vb.pp("conv")).unwrap());
        let back = vb.pp("back").get((8, 3, 2), "weight").unwrap();
        let bias = vb.pp("back").get(3, "bias").unwrap();
        let back = ConvTranspose1d::new(back, Some(bias), ConvTranspose1dConfig { stride: 2, ..Default::default() });
        let back = taps.tap("back", back);
        let image = taps.tap("image", conv2d(1, 4, 3, padded, vb.pp("image")).unwrap());
        let groups = taps.tap("groups", group_norm(2, 4, 1e-5, vb.pp("groups")).unwrap());
        let last = taps.tap("last norm", layer_norm(144, 1e-5, vb.pp("last norm")).unwrap());
        let head = taps.tap("head", linear(144, 5, vb.pp("head")).unwrap());
        for (name, variable) in variables.data().lock().unwrap().iter() {
            let seed = name.bytes().map(u64::from).sum();
            variable.set(&(noise(seed, variable.dims()) * 0.6).unwrap()).unwrap();
        }
        let forward = move |tokens: &Tensor| {
            let x = inner.forward(&table.forward(tokens)?)?;
            let x = norm.forward(&x)?;
            let x = twice.forward(&twice.forward(&x)?.tanh()?)?;
            let x = second.forward(&first.forward(&x)?.tanh()?)?;
            let x = conv.forward(&x.transpose(1, 2)?.contiguous()?.unsqueeze(3)?)?.squeeze(3)?.tanh()?;
            let x = back.forward(&x)?;
            let x = groups.forward(&image.forward(&x.unsqueeze(1)?)?)?;
            let x = x.flatten_from(1)?;
            head.forward(&last.forward(&x)?.tanh()?)
        };
        Self { taps, variables, forward: Box::new(forward) }
    }

    pub fn logits(&self, x: &Tensor) -> Tensor {
        (self.forward)(x).unwrap()
    }

    /// Records probes and two passes.
    pub fn record(&self, dir: &Path, config: Config) {
        let mut recorder = Recorder::create(dir, &self.taps, config).unwrap();
        for step in 0..2 {
            let ids = [3 * step, 3 * step + 1, 3 * step + 2];
            let (x, y) = (tokens(&ids), labels(3));
            let mut pass = recorder.probe("test", &ids).unwrap();
            pass.cross_entropy(&self.logits(&x), &y).unwrap().backward().unwrap();
            pass.commit().unwrap();
            let mut pass = recorder.pass(&ids).unwrap();
            pass.cross_entropy(&self.logits(&x), &y).unwrap().backward().unwrap();
            pass.commit(0.1).unwrap();
        }
        recorder.finish().unwrap();
    }

    /// The gradient of example `id` alone, by candle.
    pub fn gradient(&self, id: u64, label: usize) -> Vec<Vec<f32>> {
        let y = labels(3).narrow(0, label, 1).unwrap();
        let loss = candle_nn::loss::cross_entropy(&self.logits(&tokens(&[id])), &y).unwrap();
        let grads = loss.backward().unwrap();
        self.variables.all_vars().iter().map(|variable| numbers(grads.get(variable).unwrap())).collect()
    }
}

pub(super) fn tokens(ids: &[u64]) -> Tensor {
    let of = |id: &u64| (0..6).map(|place| ((id * 7 + place * place * 3 + place) % 11) as u32).collect::<Vec<u32>>();
    Tensor::from_vec(ids.iter().flat_map(of).collect::<Vec<u32>>(), (ids.len(), 6), &Device::Cpu).unwrap()
}

fn squared_norms(dir: &Path) -> Vec<f32> {
    f32s(dir, BlockKind::Visits, Column::SquaredNorm)
}

#[test]
fn every_kind_of_layer_has_the_same_sketch_wherever_it_is_made() {
    let zoo = Zoo::new();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    zoo.record(here.path(), hashed(Sketching::Auto));
    zoo.record(there.path(), hashed(Sketching::OnDevice));
    let (right, made) = (folded(here.path()), folded(there.path()));
    assert_eq!((right.len(), made.len()), (6, 6));
    for (right, made) in right.iter().zip(&made) {
        assert!(norm(right) > 0.1 && relative_error(made, right) < 1e-5, "{}", relative_error(made, right));
    }
    assert!(relative_error(&squared_norms(there.path()), &squared_norms(here.path())) < 1e-5);
    let flags = |dir: &Path| u8s(dir, BlockKind::Visits, Column::Flags);
    assert_eq!(flags(here.path()), flags(there.path()));
    for column in [Column::Input, Column::Delta] {
        let of = |dir: &Path| vectors(dir, column, 11).concat();
        assert!(relative_error(&of(there.path()), &of(here.path())) < 1e-5);
    }
    let ask = |dir: &Path| InfluenceQuestion::new("test").compute(&Run::open(dir).unwrap()).unwrap();
    let (right, made) = (ask(here.path()), ask(there.path()));
    // A visit is judged by the probes of its own step.
    let places = || (0..6).flat_map(|visit| (0..3).map(move |probe| (visit, visit / 3 * 3 + probe)));
    let largest = places().map(|(visit, probe)| right.score(visit, probe).abs()).fold(0.0, f64::max);
    for (visit, probe) in places() {
        let (made, right) = (made.score(visit, probe), right.score(visit, probe));
        assert!((made - right).abs() < 1e-4 * largest, "{visit} {probe}: {made} {right}");
    }
}

#[test]
fn norms_are_those_of_candles_gradients() {
    let zoo = Zoo::new();
    let dir = tempfile::tempdir().unwrap();
    zoo.record(dir.path(), Config { sketching: Sketching::OnDevice, ..exact() });
    for (id, recorded) in squared_norms(dir.path()).into_iter().enumerate() {
        let exact: f64 = zoo.gradient(id as u64, id % 3).iter().map(|own| dot(own, own)).sum();
        assert!((f64::from(recorded) / exact - 1.0).abs() < 1e-4, "{id}: {recorded} {exact}");
    }
}

#[test]
fn the_check_compares_what_is_made_on_the_device() {
    let zoo = Zoo::new();
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &zoo.taps, hashed(Sketching::OnDevice)).unwrap();
    let (x, y) = (tokens(&[0, 1, 2]), labels(3));
    let run = |pass: &mut Pass<'_>, rows: &BatchRows| pass.cross_entropy(&zoo.logits(&rows.of(&x)?), &rows.of(&y)?);
    let check = recorder.check_gradients(&zoo.variables, &[0, 1, 2], run).unwrap();
    assert!(check.agrees(), "{check}");
}

/// The gradients of examples add up to that of the batch, which linear layers take from there.
#[test]
fn a_recorded_step_has_candles_gradients() {
    let zoo = Zoo::new();
    let ids = [0, 1, 2];
    let plain = candle_nn::loss::cross_entropy(&zoo.logits(&tokens(&ids)), &labels(3)).unwrap().backward().unwrap();
    for folding in [Folding::Whole, Folding::TwoSided { side: 2 }] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { folding, ..hashed(Sketching::OnDevice) };
        let mut recorder = Recorder::create(dir.path(), &zoo.taps, config).unwrap();
        let mut pass = recorder.pass(&ids).unwrap();
        let grads = pass.cross_entropy(&zoo.logits(&tokens(&ids)), &labels(3)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        for (name, variable) in zoo.variables.data().lock().unwrap().iter() {
            let (made, right) = (numbers(grads.get(variable).unwrap()), numbers(plain.get(variable).unwrap()));
            assert!(relative_error(&made, &right) < 1e-5, "{name}: {}", relative_error(&made, &right));
        }
    }
}

/// Small gradients, whose squares are 0 in f32, as a loss scale leaves them.
#[test]
fn norms_do_not_underflow() {
    let zoo = Zoo::new();
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &zoo.taps, hashed(Sketching::OnDevice)).unwrap();
    let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
    let loss = pass.cross_entropy(&zoo.logits(&tokens(&[0, 1, 2])), &labels(3)).unwrap();
    (loss * 1e-25).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    for (id, recorded) in squared_norms(dir.path()).into_iter().enumerate() {
        let exact: f64 = zoo.gradient(id as u64, id % 3).iter().map(|own| dot(own, own)).sum();
        assert!((f64::from(recorded) / exact - 1.0).abs() < 1e-3, "{id}: {recorded} {exact}");
    }
}

/// bf16 on the CPU takes candle's ops: the layers' tensors are halves.
#[test]
fn halves_are_sketched_as_their_numbers_say() {
    for dtype in [DType::BF16, DType::F16] {
        let dir = tempfile::tempdir().unwrap();
        let taps = Taps::new();
        let weight = candle_core::Var::from_tensor(&noise(1, &[4, 8]).to_dtype(dtype).unwrap()).unwrap();
        let layer = taps.tap("fc", Linear::new(weight.as_tensor().clone(), None));
        let mut recorder = Recorder::create(dir.path(), &taps, hashed(Sketching::OnDevice)).unwrap();
        let (x, delta) = (noise(2, &[2, 3, 8]).to_dtype(dtype).unwrap(), noise(3, &[2, 3, 4]).to_dtype(dtype).unwrap());
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let losses = (layer.forward(&x).unwrap() * &delta).unwrap().flatten_from(1).unwrap().sum(1).unwrap();
        pass.reduction(gradlog::Reduction::Sum);
        pass.losses(&losses).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        let f32 = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
        let gradients = f32(&delta).transpose(1, 2).unwrap().matmul(&f32(&x)).unwrap();
        for (example, recorded) in squared_norms(dir.path()).into_iter().enumerate() {
            let own = numbers(&gradients.get(example).unwrap());
            // Products are halves.
            assert!((f64::from(recorded) / dot(&own, &own) - 1.0).abs() < 4e-3, "{dtype:?}");
        }
    }
}
