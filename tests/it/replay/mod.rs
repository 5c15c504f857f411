//! Checkpoints, and questions asked afterwards: replays against candle's own backward at the same weights, and what
//! becomes of a run that is replayed into. Here is what these tests share: two small models, their training, and brute
//! force.

mod checkpoint;
mod exact;
mod prediction;
mod run;
mod workers;

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, D};
use candle_nn::{conv2d, linear, Conv2dConfig, Optimizer, VarBuilder, VarMap, SGD};
use gradlog::{Config, Mode, Recorder, Replay, SketchConfig, Taps};
use gradlog_analysis::{influence, Influence, Question, Score, ScoreTable, Window};
use gradlog_format::run::Run;
use std::collections::BTreeMap;
use std::path::Path;

const EXAMPLES: usize = 20;
const PROBES: usize = 3;
const STEPS: u64 = 12;
/// The steps before which checkpoints are taken, the beginning and the end among them.
const SAVED: [u64; 4] = [0, 5, 9, 12];

type Forward = Box<dyn Fn(&Tensor, bool) -> Result<Tensor>>;

/// A model, its taps and its data. Another seed gives other weights and the same data.
struct Setting {
    taps: Taps,
    variables: VarMap,
    /// In training mode half of what enters the last layer is dropped, the same half each time.
    forward: Forward,
    x: Tensor,
    y: Tensor,
    px: Tensor,
    py: Tensor,
}

fn labels(seed: u64, n: usize) -> Tensor {
    let y: Vec<u32> = numbers(&noise(seed, &[n])).iter().map(|v| ((v + 1.0) * 1.499) as u32).collect();
    Tensor::from_vec(y, n, &Device::Cpu).unwrap()
}

fn halved(h: &Tensor, train: bool) -> Result<Tensor> {
    let width = h.dim(D::Minus1)?;
    let kept: Vec<f32> = (0..width).map(|i| if train && i % 2 == 0 { 0.0 } else { 1.0 }).collect();
    h.broadcast_mul(&Tensor::from_vec(kept, width, h.device())?)
}

fn mlp(seed: u64) -> Setting {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let fc1 = taps.tap("fc1", linear(6, 8, vb.pp("fc1")).unwrap());
    let fc2 = taps.tap("fc2", linear(8, 3, vb.pp("fc2")).unwrap());
    let forward = move |x: &Tensor, train: bool| fc2.forward(&halved(&fc1.forward(x)?.tanh()?, train)?);
    setting(seed, taps, variables, Box::new(forward), &[6])
}

fn cnn(seed: u64) -> Setting {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    // One folded layer, shorter than the folded vector, and one factored: both are exact.
    let conv = taps.tap("conv", conv2d(1, 4, 3, Conv2dConfig::default(), vb.pp("conv")).unwrap());
    let fc = taps.tap("fc", linear(4 * 16, 3, vb.pp("fc")).unwrap());
    let forward =
        move |x: &Tensor, train: bool| fc.forward(&halved(&conv.forward(x)?.relu()?.flatten_from(1)?, train)?);
    setting(seed, taps, variables, Box::new(forward), &[1, 6, 6])
}

fn setting(seed: u64, taps: Taps, variables: VarMap, forward: Forward, shape: &[usize]) -> Setting {
    let many = |n: usize| [&[n], shape].concat();
    for var in variables.all_vars() {
        var.set(&(noise(seed + var.elem_count() as u64, var.dims()) * 0.5).unwrap()).unwrap();
    }
    let (x, px) = (noise(1, &many(EXAMPLES)), noise(3, &many(PROBES)));
    Setting { taps, variables, forward, x, y: labels(2, EXAMPLES), px, py: labels(4, PROBES) }
}

fn rate(step: u64) -> f64 {
    0.3 / (1.0 + step as f64)
}

fn config() -> Config {
    Config { sketch: SketchConfig::exact(), ..Config::default() }
}

impl Setting {
    /// One step in training mode.
    fn step(&self, recorder: &mut Recorder, step: u64) {
        let ids: Vec<u64> = (0..4).map(|i| (step * 3 + i * 7) % EXAMPLES as u64).collect();
        let index = Tensor::from_vec(ids.iter().map(|i| *i as u32).collect::<Vec<_>>(), 4, &Device::Cpu).unwrap();
        let (x, y) = (self.x.index_select(&index, 0).unwrap(), self.y.index_select(&index, 0).unwrap());
        let mut optimizer = SGD::new(self.variables.all_vars(), rate(step)).unwrap();
        recorder.set_epoch((step / 5) as u32);
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&(self.forward)(&x, true).unwrap(), &y).unwrap();
        let grads = loss.backward().unwrap();
        pass.commit(optimizer.learning_rate()).unwrap();
        optimizer.step(&grads).unwrap();
    }

    /// Trains and saves checkpoints; returns the weights at each.
    fn train(&self, dir: &Path) -> BTreeMap<u64, Vec<Vec<f32>>> {
        let mut recorder = Recorder::create(dir, &self.taps, config()).unwrap();
        let mut weights = BTreeMap::new();
        for step in 0..=STEPS {
            if SAVED.contains(&step) {
                recorder.set_epoch((step / 5) as u32);
                recorder.checkpoint(&self.variables).unwrap();
                weights.insert(step, self.weights());
            }
            if step < STEPS {
                self.step(&mut recorder, step);
            }
        }
        recorder.finish().unwrap();
        weights
    }

    fn named(&self) -> BTreeMap<String, candle_core::Var> {
        self.variables.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    fn weights(&self) -> Vec<Vec<f32>> {
        self.named().values().map(|var| numbers(var)).collect()
    }

    fn set(&self, weights: &[Vec<f32>]) {
        for (var, values) in self.named().values().zip(weights) {
            var.set(&Tensor::from_vec(values.clone(), var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
    }

    /// The gradient of `f` of one example's logits by all variables, by candle alone and in evaluation mode.
    fn gradient(&self, x: &Tensor, i: usize, f: impl Fn(&Tensor) -> Tensor) -> Vec<f32> {
        let logits = (self.forward)(&row(x, i).unwrap(), false).unwrap();
        let grads = f(&logits).backward().unwrap();
        self.named().values().flat_map(|v| numbers(grads.get(v).unwrap())).collect()
    }

    fn loss_gradient(&self, x: &Tensor, y: &Tensor, i: usize) -> Vec<f32> {
        self.gradient(x, i, |z| candle_nn::loss::cross_entropy(z, &y.narrow(0, i, 1).unwrap()).unwrap())
    }

    /// Probes and a sweep at every checkpoint, in batches that do not divide the training set.
    fn replay(&self, dir: &Path, steps: &[u64]) -> gradlog::ReplaySummary {
        let mut replay = Replay::open(dir, &self.taps, Config::default()).unwrap();
        let checkpoints = replay.checkpoints();
        for step in steps {
            let checkpoint = checkpoints.iter().find(|c| c.step == *step).unwrap();
            replay.load(checkpoint, &self.variables).unwrap();
            self.ask(&mut replay);
            self.sweep(&mut replay);
        }
        replay.finish().unwrap()
    }

    fn ask(&self, replay: &mut Replay) {
        let mut probe = replay.probe("asked later", &[0, 1, 2]).unwrap();
        let loss = probe.cross_entropy(&(self.forward)(&self.px, false).unwrap(), &self.py).unwrap();
        loss.backward().unwrap();
        probe.commit().unwrap();
    }

    fn sweep(&self, replay: &mut Replay) {
        for ids in (0..EXAMPLES as u64).collect::<Vec<_>>().chunks(6) {
            let narrow = |t: &Tensor| t.narrow(0, ids[0] as usize, ids.len()).unwrap();
            let mut pass = replay.sweep(ids).unwrap();
            let loss = pass.cross_entropy(&(self.forward)(&narrow(&self.x), false).unwrap(), &narrow(&self.y)).unwrap();
            loss.backward().unwrap();
            pass.commit().unwrap();
        }
    }
}

fn column(result: &Influence, probe: usize) -> Vec<f32> {
    let mut scores = vec![f32::NAN; EXAMPLES];
    for (number, row) in result.rows.iter().enumerate() {
        scores[row.example as usize] = result.score(number, probe) as f32;
    }
    scores
}

fn by_example(table: &ScoreTable) -> Vec<f32> {
    let mut scores = vec![f32::NAN; EXAMPLES];
    for row in &table.rows {
        scores[row.example as usize] = row.score as f32;
    }
    scores
}

/// TracInCP, self-influence, EL2N and GraNd of a replayed run against candle at the same weights.
fn check(model: &Setting, dir: &Path, weights: &BTreeMap<u64, Vec<Vec<f32>>>) {
    let run = Run::open(dir).unwrap();
    let mut truth = vec![vec![0.0f64; EXAMPLES]; PROBES];
    let mut own = [0.0f64; EXAMPLES];
    for (step, weights) in weights {
        model.set(weights);
        // The rate of the step before the checkpoint, and of the first step at the first.
        let eta = f64::from(rate(step.saturating_sub(1)) as f32);
        let examples: Vec<Vec<f32>> = (0..EXAMPLES).map(|i| model.loss_gradient(&model.x, &model.y, i)).collect();
        for (probe, truth) in truth.iter_mut().enumerate() {
            let g = model.loss_gradient(&model.px, &model.py, probe);
            truth.iter_mut().zip(&examples).for_each(|(sum, z)| *sum += eta * dot(&g, z));
        }
        own.iter_mut().zip(&examples).for_each(|(sum, z)| *sum += eta * dot(z, z));
        let grand: Vec<f32> = examples.iter().map(|z| norm(z) as f32).collect();
        let p = candle_nn::ops::softmax(&(model.forward)(&model.x, false).unwrap(), 1).unwrap();
        let p = p.to_vec2::<f32>().unwrap();
        let y = model.y.to_vec1::<u32>().unwrap();
        let error = |i: usize| (0..3).map(|k| (p[i][k] - f32::from(k as u32 == y[i])).powi(2)).sum::<f32>().sqrt();
        let el2n: Vec<f32> = (0..EXAMPLES).map(error).collect();
        for (score, truth) in [(Score::Grand, &grand), (Score::El2n, &el2n)] {
            let table = score.compute(&run, &Window::sweep_at(*step)).unwrap();
            assert!(relative_error(&by_example(&table), truth) < 1e-3, "{score} at {step}");
            assert_eq!(table.basis.to_string(), format!("sweep at checkpoint step {step}, evaluation mode"));
            assert!(table.rows.iter().all(|row| row.visits == 1) && table.visits == EXAMPLES as u64);
        }
    }
    let result = influence(&run, &Question::all("asked later").at_checkpoints()).unwrap();
    assert_eq!((result.probe_times, result.probe_modes.as_slice()), (SAVED.len() as u64, &[Mode::Evaluation][..]));
    assert!(result
        .variant()
        .contains("sweeps at 4 checkpoints, steps 0 to 12, evaluation mode, probes in evaluation mode"));
    for (probe, truth) in truth.iter().enumerate() {
        let want: Vec<f32> = truth.iter().map(|v| *v as f32).collect();
        let got = column(&result, probe);
        assert!(relative_error(&got, &want) < 1e-3, "probe {probe}: {}", relative_error(&got, &want));
    }
    let table = Score::SelfInfluence.compute(&run, &Window::sweeps()).unwrap();
    let own: Vec<f32> = own.iter().map(|v| *v as f32).collect();
    assert!(relative_error(&by_example(&table), &own) < 1e-3);
    assert!(table.rows.iter().all(|row| row.visits == SAVED.len() as u64));
}
