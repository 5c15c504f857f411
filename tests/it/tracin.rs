//! TracIn from the log against brute force with candle, and against what training really did to the probes' losses.

use crate::common::*;
use candle_core::Tensor;
use gradlog::{Recorder, StepInfo};
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion};
use gradlog_format::run::Run;
use std::path::Path;

const EXAMPLES: usize = 24;
const PROBES: usize = 3;

struct Trained {
    /// Brute force: `[example][probe]`.
    scores: Vec<Vec<f64>>,
    self_influence: Vec<f64>,
    /// Each probe's loss before and after.
    losses: (Vec<f32>, Vec<f32>),
}

/// Batches of 5, of a stride that does not divide 24. So batches differ, an id repeats in some, and the last is short.
fn batch(step: u64, steps: u64) -> Vec<u64> {
    let size = if step + 1 == steps { 2 } else { 5 };
    let mut ids: Vec<u64> = (0..size).map(|i| (step * 5 + i * 7) % EXAMPLES as u64).collect();
    if step.is_multiple_of(3) {
        ids[1] = ids[0];
    }
    ids
}

/// Trains a small MLP with a probe before every step, and sums `η c ⟨∇ℓ_z, ∇ℓ_probe⟩` with candle beside it.
fn train(dir: &Path, rate: f64, steps: u64) -> Trained {
    let model = Network::mlp(EXAMPLES, PROBES, false).fill(11, 0.6);
    let probe_ids: Vec<u64> = (0..PROBES as u64).collect();
    let probe_losses = || (0..PROBES).map(|i| model.loss(&model.probes, i)).collect();
    let before = probe_losses();
    let (mut scores, mut own) = (vec![vec![0.0; PROBES]; EXAMPLES], vec![0.0; EXAMPLES]);
    let mut recorder = Recorder::create(dir, &model.taps, exact()).unwrap();
    let schedule = (0..steps).map(|n| Step { number: n, epoch: (n / 10) as u32, ids: batch(n, steps), rate });
    model.train(&mut recorder, schedule, |recorder, step| {
        model.record_probes(recorder, "test", &probe_ids);
        let probes: Vec<Vec<f32>> = (0..PROBES).map(|i| model.loss_gradient(&model.probes, i)).collect();
        let weight = rate / step.ids.len() as f64;
        for id in &step.ids {
            let g = model.loss_gradient(&model.examples, *id as usize);
            own[*id as usize] += weight * dot(&g, &g);
            for (score, probe) in scores[*id as usize].iter_mut().zip(&probes) {
                *score += weight * dot(&g, probe);
            }
        }
    });
    recorder.finish().unwrap();
    Trained { scores, self_influence: own, losses: (before, probe_losses()) }
}

/// TracIn of every example on one probe, from the log.
fn from_log(run: &Run, probe: u64) -> Vec<f32> {
    influence_by_example(&InfluenceQuestion::new("test").id(probe).compute(run).unwrap(), 0, EXAMPLES)
}

#[test]
fn equals_brute_force() {
    let dir = tempfile::tempdir().unwrap();
    let truth = train(&dir.path().join("run"), 0.3, 40);
    let run = Run::open(dir.path().join("run")).unwrap();
    for probe in 0..PROBES {
        let got = from_log(&run, probe as u64);
        let want: Vec<f32> = truth.scores.iter().map(|s| s[probe] as f32).collect();
        assert!(relative_error(&got, &want) < 1e-3, "probe {probe}: {}", relative_error(&got, &want));
    }
    let table = ScoreQuestion::new(Score::SelfInfluence).compute(&run).unwrap();
    for row in &table.rows {
        let want = truth.self_influence[row.example as usize];
        assert!((row.score - want).abs() < 1e-3 * want, "{row:?} {want}");
    }
}

#[test]
fn equals_brute_force_with_a_convolution_accumulation_weights_and_clipping() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::cnn(3, 4, 8, 2, false).fill(5, 0.5);
    let weights = [1.0f32, 0.5, 2.0, 0.25];
    let variables = model.named();
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    let mut truth = [[0.0f64; 2]; 8];
    for step in 0..6 {
        model.record_probes(&mut recorder, "test", &[0, 1]);
        let (rate, clip) = (0.2 / f64::from(step + 1), 0.5);
        let probes: Vec<Vec<f32>> = (0..2).map(|i| model.loss_gradient(&model.probes, i)).collect();
        let mut sums: Vec<Tensor> = variables.values().map(|var| var.zeros_like().unwrap()).collect();
        for half in 0..2 {
            let ids: Vec<u64> = (half * 4..half * 4 + 4).collect();
            let data = model.examples.select(&ids);
            let mut pass = recorder.pass(&ids).unwrap();
            pass.weights(&weights);
            let loss = (pass.cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap() / 2.0).unwrap();
            let grads = loss.backward().unwrap();
            if half == 0 {
                pass.accumulate().unwrap();
            } else {
                pass.commit(StepInfo::new(rate).clip(clip)).unwrap();
            }
            for (sum, var) in sums.iter_mut().zip(variables.values()) {
                *sum = (&*sum + grads.get(var).unwrap()).unwrap();
            }
            for (place, id) in ids.iter().enumerate() {
                let g = model.loss_gradient(&model.examples, *id as usize);
                for (score, probe) in truth[*id as usize].iter_mut().zip(&probes) {
                    *score += rate * clip * f64::from(weights[place]) / 8.0 * dot(&g, probe);
                }
            }
        }
        for (sum, var) in sums.iter().zip(variables.values()) {
            var.set(&(var.as_tensor() - (sum * (rate * clip)).unwrap()).unwrap()).unwrap();
        }
    }
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    for probe in 0..2 {
        let result = InfluenceQuestion::new("test").id(probe as u64).compute(&run).unwrap();
        let got = influence_by_example(&result, 0, 8);
        let want: Vec<f32> = truth.iter().map(|t| t[probe] as f32).collect();
        assert!(relative_error(&got, &want) < 1e-3, "{got:?} {want:?}");
    }
}

#[test]
fn telescopes_to_the_real_fall_of_the_loss() {
    // To first order in the learning rate, Σ_z TracIn(z, z') is what training did to the loss of z'.
    let error = |learning_rate: f64, steps: u64| -> f64 {
        let dir = tempfile::tempdir().unwrap();
        let truth = train(&dir.path().join("run"), learning_rate, steps);
        let run = Run::open(dir.path().join("run")).unwrap();
        let falls: Vec<f64> = (0..PROBES).map(|p| f64::from(truth.losses.0[p] - truth.losses.1[p])).collect();
        let scale = falls.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        assert!(scale > 0.01, "nothing happened: {falls:?}");
        let miss = |p: usize| (from_log(&run, p as u64).iter().map(|s| f64::from(*s)).sum::<f64>() - falls[p]).abs();
        (0..PROBES).map(miss).fold(0.0, f64::max) / scale
    };
    // The same way in steps a quarter as long: what is left is of second order, so it falls with the step.
    let (coarse, fine) = (error(0.04, 30), error(0.01, 120));
    assert!(fine < 0.05, "{fine}");
    assert!(fine < 0.5 * coarse, "{fine} {coarse}");
}
