//! TracIn from the log against brute force with candle, and against what training really did to the probes' losses.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{linear, Optimizer, VarBuilder, VarMap, SGD};
use gradlog::{Config, Recorder, SketchConfig, Taps};
use gradlog_analysis::{influence, Question, Score, Window};
use gradlog_format::run::Run;

const EXAMPLES: usize = 24;
const PROBES: usize = 3;

struct Trained {
    /// Brute force: `[example][probe]`.
    scores: Vec<Vec<f64>>,
    self_influence: Vec<f64>,
    /// Each probe's loss before and after.
    losses: (Vec<f32>, Vec<f32>),
}

/// Trains a small MLP, recording with a probe at every step, and sums `η c ⟨∇ℓ_z, ∇ℓ_probe⟩` with candle beside it.
fn train(dir: &std::path::Path, learning_rate: f64, steps: u64, seed: u64) -> Trained {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let fc1 = taps.tap("fc1", linear(6, 8, vb.pp("fc1")).unwrap());
    let fc2 = taps.tap("fc2", linear(8, 3, vb.pp("fc2")).unwrap());
    let model = |x: &Tensor| -> Result<Tensor> { fc2.forward(&fc1.forward(x)?.tanh()?) };
    let label = |seed: u64, n: usize| -> Tensor {
        let y: Vec<u32> = numbers(&noise(seed, &[n])).iter().map(|v| ((v + 1.0) * 1.499) as u32).collect();
        Tensor::from_vec(y, n, &Device::Cpu).unwrap()
    };
    let (x, y) = (noise(1, &[EXAMPLES, 6]), label(2, EXAMPLES));
    let (px, py) = (noise(3, &[PROBES, 6]), label(4, PROBES));
    let vars = variables.all_vars();
    for var in &vars {
        var.set(&(noise(seed + var.elem_count() as u64, var.dims()) * 0.6).unwrap()).unwrap();
    }
    let gradient = |x: &Tensor, y: &Tensor, i: usize| -> Vec<f32> {
        let loss =
            candle_nn::loss::cross_entropy(&model(&row(x, i).unwrap()).unwrap(), &y.narrow(0, i, 1).unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        vars.iter().flat_map(|v| numbers(grads.get(v).unwrap())).collect()
    };
    let probe_losses = || -> Vec<f32> {
        let loss =
            |i| candle_nn::loss::cross_entropy(&model(&row(&px, i).unwrap()).unwrap(), &py.narrow(0, i, 1).unwrap());
        (0..PROBES).map(|i| loss(i).unwrap().to_scalar().unwrap()).collect()
    };
    let mut optimizer = SGD::new(vars.clone(), learning_rate).unwrap();
    let config = Config { sketch: SketchConfig::exact(), ..Config::default() };
    let mut recorder = Recorder::create(dir, &taps, config).unwrap();
    let before = probe_losses();
    let (mut scores, mut own) = (vec![vec![0.0; PROBES]; EXAMPLES], vec![0.0; EXAMPLES]);
    for step in 0..steps {
        // Batches of 5, of a stride that does not divide 24, so that batches differ, an id repeats in some, and the
        // last is short.
        let size = if step + 1 == steps { 2 } else { 5 };
        let mut ids: Vec<u64> = (0..size).map(|i| (step * 5 + i * 7) % EXAMPLES as u64).collect();
        if step % 3 == 0 {
            ids[1] = ids[0];
        }
        recorder.set_epoch((step / 10) as u32);
        let probe_ids: Vec<u64> = (0..PROBES as u64).collect();
        let mut probe = recorder.probe("test", &probe_ids).unwrap();
        probe.cross_entropy(&model(&px).unwrap(), &py).unwrap().backward().unwrap();
        probe.commit().unwrap();
        let index =
            Tensor::from_vec(ids.iter().map(|i| *i as u32).collect::<Vec<_>>(), ids.len(), &Device::Cpu).unwrap();
        let (bx, by) = (x.index_select(&index, 0).unwrap(), y.index_select(&index, 0).unwrap());
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&model(&bx).unwrap(), &by).unwrap();
        let grads = loss.backward().unwrap();
        pass.commit(optimizer.learning_rate()).unwrap();
        let rate = learning_rate / ids.len() as f64;
        let probes: Vec<Vec<f32>> = (0..PROBES).map(|p| gradient(&px, &py, p)).collect();
        for id in &ids {
            let g = gradient(&x, &y, *id as usize);
            own[*id as usize] += rate * dot(&g, &g);
            for (score, probe) in scores[*id as usize].iter_mut().zip(&probes) {
                *score += rate * dot(&g, probe);
            }
        }
        optimizer.step(&grads).unwrap();
    }
    recorder.finish().unwrap();
    Trained { scores, self_influence: own, losses: (before, probe_losses()) }
}

/// TracIn of every example on one probe, from the log.
fn from_log(run: &Run, probe: u64) -> Vec<f64> {
    let result = influence(run, &Question::one("test", probe)).unwrap();
    let mut scores = vec![0.0; EXAMPLES];
    for (number, row) in result.rows.iter().enumerate() {
        scores[row.example as usize] = result.score(number, 0);
    }
    scores
}

#[test]
fn equals_brute_force() {
    let dir = tempfile::tempdir().unwrap();
    let truth = train(&dir.path().join("run"), 0.3, 40, 11);
    let run = Run::open(dir.path().join("run")).unwrap();
    for probe in 0..PROBES {
        let got: Vec<f32> = from_log(&run, probe as u64).iter().map(|s| *s as f32).collect();
        let want: Vec<f32> = truth.scores.iter().map(|s| s[probe] as f32).collect();
        assert!(relative_error(&got, &want) < 1e-3, "probe {probe}: {}", relative_error(&got, &want));
    }
    let table = Score::SelfInfluence.compute(&run, &Window::everything()).unwrap();
    for row in &table.rows {
        let want = truth.self_influence[row.example as usize];
        assert!((row.score - want).abs() < 1e-3 * want, "{row:?} {want}");
    }
}

#[test]
fn equals_brute_force_with_a_convolution_accumulation_weights_and_clipping() {
    use candle_nn::{conv2d, Conv2dConfig};
    use gradlog::StepInfo;
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    // One folded layer, shorter than the folded vector, and one factored: both are exact.
    let conv = taps.tap("conv", conv2d(1, 3, 3, Conv2dConfig::default(), vb.pp("conv")).unwrap());
    let fc = taps.tap("fc", linear(3 * 16, 4, vb.pp("fc")).unwrap());
    let model = |x: &Tensor| -> Result<Tensor> { fc.forward(&conv.forward(x)?.relu()?.flatten_from(1)?) };
    let vars = variables.all_vars();
    for var in &vars {
        var.set(&(noise(5 + var.elem_count() as u64, var.dims()) * 0.5).unwrap()).unwrap();
    }
    let labels =
        |n: usize| Tensor::from_vec((0..n as u32).map(|i| i * 5 % 4).collect::<Vec<_>>(), n, &Device::Cpu).unwrap();
    let (x, y) = (noise(1, &[8, 1, 6, 6]), labels(8));
    let (px, py) = (noise(2, &[2, 1, 6, 6]), labels(2));
    let gradient = |x: &Tensor, y: &Tensor, i: usize| -> Vec<f32> {
        let logits = model(&row(x, i).unwrap()).unwrap();
        let grads = candle_nn::loss::cross_entropy(&logits, &y.narrow(0, i, 1).unwrap()).unwrap().backward().unwrap();
        vars.iter().flat_map(|v| numbers(grads.get(v).unwrap())).collect()
    };
    let weights = [1.0f32, 0.5, 2.0, 0.25];
    let config = Config { sketch: SketchConfig::exact(), ..Config::default() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    let mut truth = [[0.0f64; 2]; 8];
    for step in 0..6 {
        let mut probe = recorder.probe("test", &[0, 1]).unwrap();
        probe.cross_entropy(&model(&px).unwrap(), &py).unwrap().backward().unwrap();
        probe.commit().unwrap();
        let (rate, clip) = (0.2 / f64::from(step + 1), 0.5);
        let probes: Vec<Vec<f32>> = (0..2).map(|p| gradient(&px, &py, p)).collect();
        let mut sums: Vec<Tensor> = vars.iter().map(|v| v.zeros_like().unwrap()).collect();
        for half in 0..2 {
            let ids: Vec<u64> = (half * 4..half * 4 + 4).collect();
            let (bx, by) = (x.narrow(0, half as usize * 4, 4).unwrap(), y.narrow(0, half as usize * 4, 4).unwrap());
            let mut pass = recorder.pass(&ids).unwrap();
            pass.weights(&weights);
            let loss = (pass.cross_entropy(&model(&bx).unwrap(), &by).unwrap() / 2.0).unwrap();
            let grads = loss.backward().unwrap();
            if half == 0 {
                pass.accumulate().unwrap();
            } else {
                pass.commit(StepInfo::new(rate).clip(clip)).unwrap();
            }
            for (sum, var) in sums.iter_mut().zip(&vars) {
                *sum = (&*sum + grads.get(var).unwrap()).unwrap();
            }
            for (place, id) in ids.iter().enumerate() {
                let g = gradient(&x, &y, *id as usize);
                for (score, probe) in truth[*id as usize].iter_mut().zip(&probes) {
                    *score += rate * f64::from(clip) * f64::from(weights[place]) / 8.0 * dot(&g, probe);
                }
            }
        }
        for (sum, var) in sums.iter().zip(&vars) {
            var.set(&(var.as_tensor() - (sum * (rate * f64::from(clip))).unwrap()).unwrap()).unwrap();
        }
    }
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    for probe in 0..2 {
        let result = influence(&run, &Question::one("test", probe as u64)).unwrap();
        let mut got = vec![0f32; 8];
        for (number, row) in result.rows.iter().enumerate() {
            got[row.example as usize] = result.score(number, 0) as f32;
        }
        let want: Vec<f32> = truth.iter().map(|t| t[probe] as f32).collect();
        assert!(relative_error(&got, &want) < 1e-3, "{got:?} {want:?}");
    }
}

#[test]
fn telescopes_to_the_real_fall_of_the_loss() {
    // To first order in the learning rate, Σ_z TracIn(z, z') is what training did to the loss of z'.
    let error = |learning_rate: f64, steps: u64| -> f64 {
        let dir = tempfile::tempdir().unwrap();
        let truth = train(&dir.path().join("run"), learning_rate, steps, 11);
        let run = Run::open(dir.path().join("run")).unwrap();
        let falls: Vec<f64> = (0..PROBES).map(|p| f64::from(truth.losses.0[p] - truth.losses.1[p])).collect();
        let scale = falls.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        assert!(scale > 0.01, "nothing happened: {falls:?}");
        let miss = |p: usize| (from_log(&run, p as u64).iter().sum::<f64>() - falls[p]).abs();
        (0..PROBES).map(miss).fold(0.0, f64::max) / scale
    };
    // The same way in steps a quarter as long: what is left is of second order, so it falls with the step.
    let (coarse, fine) = (error(0.04, 30), error(0.01, 120));
    assert!(fine < 0.05, "{fine}");
    assert!(fine < 0.5 * coarse, "{fine} {coarse}");
}
