//! Checkpoints, and questions asked afterwards: replays against candle's own backward at the same weights, and what
//! becomes of a run that is replayed into. Here is what these tests share: two small models, their training, and brute
//! force.

mod checkpoint;
mod command;
mod elsewhere;
mod exact;
mod prediction;
mod proof;
mod run;
mod workers;

use crate::common::*;
use candle_core::{DType, Device, Tensor};
use candle_nn::{linear, Optimizer, VarBuilder, SGD};
use gradlog::{Config, Recorder, Replay, ReplaySummary};
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion, Window};
use gradlog_format::log::Mode;
use gradlog_format::run::Run;
use std::collections::BTreeMap;
use std::path::Path;

const EXAMPLES: usize = 20;
const PROBES: usize = 3;
const STEPS: u64 = 12;
/// The steps before which checkpoints are taken, the beginning and the end among them.
const SAVED: [u64; 4] = [0, 5, 9, 12];

/// The weights at each checkpoint.
type Weights = BTreeMap<u64, Vec<Vec<f32>>>;

/// An MLP that drops half of its hidden numbers in training. Another seed gives other weights and the same data.
fn mlp(seed: u64) -> Network {
    Network::mlp(EXAMPLES, PROBES, true).fill(seed, 0.5)
}

/// As [`mlp`], with a folded layer.
fn cnn(seed: u64) -> Network {
    Network::cnn(4, 3, EXAMPLES, PROBES, true).fill(seed, 0.5)
}

fn rate(step: u64) -> f64 {
    0.3 / (1.0 + step as f64)
}

fn step(number: u64) -> Step {
    let ids = (0..4).map(|i| (number * 3 + i * 7) % EXAMPLES as u64).collect();
    Step { number, epoch: (number / 5) as u32, ids, rate: rate(number) }
}

/// Trains and saves checkpoints; returns the weights at each.
fn train(model: &Network, dir: &Path) -> Weights {
    let mut recorder = Recorder::create(dir, &model.taps, exact()).unwrap();
    let mut weights = BTreeMap::new();
    let mut save = |recorder: &mut Recorder, number: u64| {
        if SAVED.contains(&number) {
            recorder.set_epoch((number / 5) as u32);
            recorder.checkpoint(&model.variables).unwrap();
            weights.insert(number, model.weights());
        }
    };
    model.train(&mut recorder, (0..STEPS).map(step), |recorder, step| save(recorder, step.number));
    save(&mut recorder, STEPS);
    recorder.finish().unwrap();
    weights
}

/// Probes and a sweep at every checkpoint, in batches that do not divide the training set.
fn replay(model: &Network, dir: &Path, steps: &[u64]) -> ReplaySummary {
    let mut replay = Replay::open(dir, &model.taps, Config::default()).unwrap();
    let checkpoints = replay.checkpoints();
    for step in steps {
        let checkpoint = checkpoints.iter().find(|c| c.step == *step).unwrap();
        replay.load(checkpoint, &model.variables).unwrap();
        ask(model, &mut replay);
        sweep(model, &mut replay);
    }
    replay.finish().unwrap()
}

fn ask(model: &Network, replay: &mut Replay) {
    let mut probe = replay.probe("asked later", &[0, 1, 2]).unwrap();
    let loss = probe.cross_entropy(&model.logits(&model.probes.x).unwrap(), &model.probes.y).unwrap();
    loss.backward().unwrap();
    probe.commit().unwrap();
}

fn sweep(model: &Network, replay: &mut Replay) {
    for ids in (0..EXAMPLES as u64).collect::<Vec<_>>().chunks(6) {
        let data = model.examples.select(ids);
        let mut pass = replay.sweep(ids).unwrap();
        pass.cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap().backward().unwrap();
        pass.commit().unwrap();
    }
}

/// TracInCP, self-influence, EL2N and GraNd of a replayed run against candle at the same weights.
fn check(model: &Network, dir: &Path, weights: &Weights) {
    let run = Run::open(dir).unwrap();
    let mut truth = vec![vec![0.0f64; EXAMPLES]; PROBES];
    let mut own = [0.0f64; EXAMPLES];
    for (step, weights) in weights {
        model.set_weights(weights);
        // The rate of the step before the checkpoint, and of the first step at the first.
        let eta = f64::from(rate(step.saturating_sub(1)) as f32);
        let examples: Vec<Vec<f32>> = (0..EXAMPLES).map(|i| model.loss_gradient(&model.examples, i)).collect();
        for (probe, truth) in truth.iter_mut().enumerate() {
            let g = model.loss_gradient(&model.probes, probe);
            truth.iter_mut().zip(&examples).for_each(|(sum, z)| *sum += eta * dot(&g, z));
        }
        own.iter_mut().zip(&examples).for_each(|(sum, z)| *sum += eta * dot(z, z));
        let grand: Vec<f32> = examples.iter().map(|z| norm(z) as f32).collect();
        let p = candle_nn::ops::softmax(&model.logits(&model.examples.x).unwrap(), 1).unwrap();
        let p = p.to_vec2::<f32>().unwrap();
        let y = model.examples.y.to_vec1::<u32>().unwrap();
        let error = |i: usize| (0..3).map(|k| (p[i][k] - f32::from(k as u32 == y[i])).powi(2)).sum::<f32>().sqrt();
        let el2n: Vec<f32> = (0..EXAMPLES).map(error).collect();
        for (score, truth) in [(Score::Grand, &grand), (Score::El2n, &el2n)] {
            let table = ScoreQuestion::new(score).window(Window::sweep_at(*step)).compute(&run).unwrap();
            assert!(relative_error(&score_by_example(&table, EXAMPLES), truth) < 1e-3, "{score} at {step}");
            assert_eq!(table.basis.rows.to_string(), format!("sweep at checkpoint step {step}, evaluation mode"));
            assert!(table.rows.iter().all(|row| row.visits == 1) && table.visits == EXAMPLES as u64);
        }
    }
    let trained = InfluenceQuestion::new("asked later").sweeps().compute(&run).unwrap();
    assert_eq!((trained.left_out.untrained, trained.basis.left_out.untrained), (EXAMPLES as u64, EXAMPLES as u64));
    let result = InfluenceQuestion::new("asked later").sweeps().steps(0..).compute(&run).unwrap();
    assert_eq!((result.probe_times, result.probe_modes.as_slice()), (SAVED.len() as u64, &[Mode::Evaluation][..]));
    assert!(result
        .variant()
        .contains("sweeps at 4 checkpoints, steps 0 to 12, evaluation mode, probes in evaluation mode"));
    for (probe, truth) in truth.iter().enumerate() {
        let want: Vec<f32> = truth.iter().map(|v| *v as f32).collect();
        let got = influence_by_example(&result, probe, EXAMPLES);
        assert!(relative_error(&got, &want) < 1e-3, "probe {probe}: {}", relative_error(&got, &want));
    }
    let everything = Window::sweeps().with_steps(0..);
    let table = ScoreQuestion::new(Score::SelfInfluence).window(everything).compute(&run).unwrap();
    let own: Vec<f32> = own.iter().map(|v| *v as f32).collect();
    assert!(relative_error(&score_by_example(&table, EXAMPLES), &own) < 1e-3);
    assert!(table.rows.iter().all(|row| row.visits == SAVED.len() as u64));
}
