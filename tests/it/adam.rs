//! TracIn under Adam from the log, against brute force with candle's gradients and moments that are kept beside it.

use crate::common::*;
use candle_nn::Optimizer;
use gradlog::optim::{AdamConfig, AdamW};
use gradlog::{Config, Recorder, Replay};
use gradlog_analysis::{InfluenceQuestion, OptimizerChoice, ProbeTime, Score, ScoreQuestion};
use gradlog_format::log::BlockKind;
use gradlog_format::run::{Block, Run};
use std::collections::BTreeMap;
use std::path::Path;

const EXAMPLES: usize = 12;
const PROBES: usize = 2;
const BETAS: (f64, f64) = (0.8, 0.95);
const EPSILON: f64 = 1e-8;
/// Steps between two probes.
const EVERY: u64 = 4;

type Gradient = BTreeMap<String, Vec<f32>>;

struct Trained {
    /// `[example][probe]`, under AdamW and under plain SGD.
    adam: Vec<Vec<f64>>,
    sgd: Vec<Vec<f64>>,
}

fn model() -> Network {
    Network::cnn(3, 4, EXAMPLES, PROBES, false).fill(5, 0.5)
}

/// The gradient of one example's loss by each variable.
fn gradient(model: &Network, data: &Data, i: usize) -> Gradient {
    let flat = model.loss_gradient(data, i);
    let mut at = 0;
    let named = model.named();
    named
        .iter()
        .map(|(name, var)| {
            at += var.elem_count();
            (name.clone(), flat[at - var.elem_count()..at].to_vec())
        })
        .collect()
}

/// `1/(√v̂ + ε)`: element by element for the convolution, and by row and column means for the linear layer, whose bias
/// is its last column.
fn preconditioner(second: &BTreeMap<String, Vec<f64>>, steps: u64) -> BTreeMap<String, Vec<f64>> {
    let correction = 1.0 - BETAS.1.powi(steps as i32);
    let root = |v: f64| if v > 0.0 { 1.0 / (v.sqrt() + EPSILON) } else { 0.0 };
    let mut all: BTreeMap<String, Vec<f64>> =
        second.iter().map(|(name, v)| (name.clone(), v.iter().map(|v| root(v / correction)).collect())).collect();
    let (weight, bias) = (&second["fc.weight"], &second["fc.bias"]);
    let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
    let at = |i: usize, j: usize| (if j < inputs { weight[i * inputs + j] } else { bias[i] }) / correction;
    let row = |i: usize| (0..=inputs).map(|j| at(i, j)).sum::<f64>();
    let column = |j: usize| (0..outputs).map(|i| at(i, j)).sum::<f64>();
    let total: f64 = (0..outputs).map(row).sum();
    let rank_one = |i: usize, j: usize| root(row(i) * column(j) / total);
    all.insert("fc.weight".into(), (0..outputs * inputs).map(|k| rank_one(k / inputs, k % inputs)).collect());
    all.insert("fc.bias".into(), (0..outputs).map(|i| rank_one(i, inputs)).collect());
    all
}

fn product(a: &Gradient, d: Option<&BTreeMap<String, Vec<f64>>>, b: &Gradient) -> f64 {
    a.iter()
        .map(|(name, a)| {
            let terms = a.iter().zip(&b[name]).enumerate();
            terms.map(|(k, (a, b))| f64::from(*a) * f64::from(*b) * d.map_or(1.0, |d| d[name][k])).sum::<f64>()
        })
        .sum()
}

/// Trains with AdamW and probes now and then, and sums both forms of TracIn beside it.
fn train(dir: &Path, by_hand: bool) -> Trained {
    let model = model();
    let named = model.named();
    let config = AdamConfig::new(0.01).betas(BETAS.0, BETAS.1).epsilon(EPSILON);
    let mut optimizer = AdamW::new(model.variables.all_vars(), config).unwrap();
    let mut recorder = Recorder::create(dir, &model.taps, exact()).unwrap();
    let mut second: BTreeMap<String, Vec<f64>> =
        named.iter().map(|(name, var)| (name.clone(), vec![0.0; var.elem_count()])).collect();
    let steps = 18u64;
    let rate = |step: u64| 0.01 / (1.0 + step as f64 / 10.0);
    let effective = |step: u64| -> f64 {
        (step..steps)
            .map(|s| {
                let kept = BETAS.0.powi((s - step) as i32);
                rate(s) * (1.0 - BETAS.0) * kept / (1.0 - BETAS.0.powi(s as i32 + 1))
            })
            .sum()
    };
    // Visits before the first moments wait for them.
    let mut waiting: Vec<(u64, Vec<(usize, Gradient)>)> = Vec::new();
    let mut trained = Trained { adam: vec![vec![0.0; PROBES]; EXAMPLES], sgd: vec![vec![0.0; PROBES]; EXAMPLES] };
    let mut probes: Vec<Gradient> = Vec::new();
    let mut metric = None;
    for step in 0..steps {
        if step % EVERY == 0 {
            model.record_probes(&mut recorder, "test", &[0, 1]);
            probes = (0..PROBES).map(|i| gradient(&model, &model.probes, i)).collect();
            metric = (step > 0).then(|| preconditioner(&second, step));
        }
        let ids: Vec<u64> = (0..3).map(|i| (step * 3 + i * 5) % EXAMPLES as u64).collect();
        let own: Vec<(usize, Gradient)> =
            ids.iter().map(|id| (*id as usize, gradient(&model, &model.examples, *id as usize))).collect();
        for (id, g) in &own {
            for (score, probe) in trained.sgd[*id].iter_mut().zip(&probes) {
                *score += rate(step) / 3.0 * product(g, None, probe);
            }
        }
        for (name, second) in &mut second {
            for (k, v) in second.iter_mut().enumerate() {
                let g = own.iter().map(|(_, g)| f64::from(g[name][k])).sum::<f64>() / 3.0;
                *v = BETAS.1 * *v + (1.0 - BETAS.1) * g * g;
            }
        }
        waiting.push((step, own));
        if let Some(metric) = &metric {
            for (step, own) in waiting.drain(..) {
                for (id, g) in own {
                    for (score, probe) in trained.adam[id].iter_mut().zip(&probes) {
                        *score += effective(step) / 3.0 * product(&g, Some(metric), probe);
                    }
                }
            }
        }
        optimizer.set_learning_rate(rate(step));
        let data = model.examples.select(&ids);
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap();
        if by_hand {
            let grads = loss.backward().unwrap();
            pass.commit(gradlog::StepReport::step_info(&optimizer)).unwrap();
            optimizer.step(&grads).unwrap();
            recorder.read_moments(&optimizer);
        } else {
            pass.backward_step(&mut optimizer, &loss).unwrap();
        }
    }
    recorder.finish().unwrap();
    trained
}

fn check(run: &Run, choice: OptimizerChoice, truth: &[Vec<f64>], said: &str) {
    let answer = InfluenceQuestion::new("test").optimizer(choice).sketch_errors().compute(run).unwrap();
    assert!(answer.variant().contains(said), "{}", answer.variant());
    assert!(answer.basis.to_string().contains(said), "{}", answer.basis);
    for probe in 0..PROBES {
        let got = influence_by_example(&answer, probe, EXAMPLES);
        let want: Vec<f32> = truth.iter().map(|scores| scores[probe] as f32).collect();
        assert!(relative_error(&got, &want) < 1e-3, "{choice} {probe}: {}", relative_error(&got, &want));
    }
}

#[test]
fn tracin_under_adamw_equals_brute_force() {
    for by_hand in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let truth = train(dir.path(), by_hand);
        let run = Run::open(dir.path()).unwrap();
        check(&run, OptimizerChoice::Recorded, &truth.adam, "AdamW, second moments of the probe's time");
        check(&run, OptimizerChoice::PlainSgd, &truth.sgd, "plain SGD");
        let flat = |scores: &[Vec<f64>]| scores.iter().flatten().map(|s| *s as f32).collect::<Vec<_>>();
        assert!(relative_error(&flat(&truth.sgd), &flat(&truth.adam)) > 0.5, "the two forms differ");
        // The probes of the first time are in no record with moments, and the plain ones are all there.
        let nearest = InfluenceQuestion::new("test").probe_time(ProbeTime::Nearest).compute(&run).unwrap();
        assert_eq!(nearest.probes[0].times, 4);
        let plain = InfluenceQuestion::new("test").optimizer(OptimizerChoice::PlainSgd).compute(&run).unwrap();
        assert_eq!(plain.probes[0].times, 5);
    }
}

#[test]
fn a_run_of_adamw_says_so_in_the_command() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), false);
    let run = dir.path().to_str().unwrap();
    let influence = |more: &[&str]| gradlog(&[&["influence", run, "--probe", "test", "--id", "0"], more].concat());
    let told = influence(&[]);
    assert!(told.out.contains("AdamW, second moments of the probe's time"), "{} {}", told.out, told.err);
    let plain = influence(&["--optimizer", "sgd"]);
    assert!(plain.out.contains("plain SGD: AdamW not modeled"), "{} {}", plain.out, plain.err);
    let adjoint = influence(&["--method", "adjoint"]);
    let said = "AdamW with weight decay up to 0.01, moments of the recorded visits";
    assert!(adjoint.out.contains(said), "{} {}", adjoint.out, adjoint.err);
    let plain = influence(&["--method", "adjoint", "--optimizer", "sgd"]);
    assert!(plain.out.contains("plain SGD: AdamW not modeled"), "{} {}", plain.out, plain.err);
    let info = gradlog(&["info", run]);
    assert!(info.out.contains("AdamW"), "{}", info.out);
    let verified = gradlog(&["verify", run]);
    assert!(verified.out.contains("probe visits  10"), "{}", verified.out);
}

/// Rows of curvature are no probes, and have no second record.
#[test]
fn curvature_is_not_recorded_in_the_metric_of_adam() {
    let dir = tempfile::tempdir().unwrap();
    let model = model();
    let mut optimizer = AdamW::new_lr(model.variables.all_vars(), 0.01).unwrap();
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    let data = model.examples.select(&[0, 1]);
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let loss = pass.cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap();
    pass.backward_step(&mut optimizer, &loss).unwrap();
    model.record_probes(&mut recorder, "test", &[0, 1]);
    let curvature = recorder.curvature("fisher", &[3, 4]).unwrap();
    curvature.cross_entropy(|_, ids| model.logits(&model.examples.select(ids).x)).unwrap();
    recorder.finish().unwrap();
    let probes = blocks(dir.path(), BlockKind::Probes);
    let rows = |want: fn(&Block) -> bool| probes.iter().filter(|block| want(block)).map(Block::rows).sum::<usize>();
    assert_eq!(rows(|block| block.is_preconditioned() && !block.is_curvature()), 2);
    assert_eq!(rows(|block| block.is_preconditioned() && block.is_curvature()), 0);
    assert!(rows(|block| block.is_curvature()) >= 2);
}

/// Without the moments there is no metric: the answer says that it takes the steps as plain SGD.
#[test]
fn probes_without_moments_are_taken_as_plain_sgd() {
    let dir = tempfile::tempdir().unwrap();
    let model = model();
    let mut optimizer = candle_nn::AdamW::new_lr(model.variables.all_vars(), 0.01).unwrap();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    for step in 0..3 {
        model.record_probes(&mut recorder, "test", &[0, 1]);
        let data = model.examples.select(&[step, step + 1]);
        let mut pass = recorder.pass(&[step, step + 1]).unwrap();
        let loss = pass.cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.finish().unwrap();
    let answer = InfluenceQuestion::new("test").compute(&Run::open(dir.path()).unwrap()).unwrap();
    assert!(answer.basis.to_string().contains("plain SGD: AdamW not modeled"), "{}", answer.basis);
}

/// TracInCP after the fact: the optimizer's state is saved beside each checkpoint.
#[test]
fn sweeps_at_checkpoints_use_the_moments_that_were_saved_beside_them() {
    let (dir, states) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = |step: u64| states.path().join(format!("{step}.safetensors"));
    let model = model();
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    let mut optimizer = AdamW::new_lr(model.variables.all_vars(), 0.01).unwrap();
    let (rate, saved) = (|step: u64| 0.01 / (1.0 + step as f64), [3u64, 6]);
    for step in 0..6 {
        if saved.contains(&step) {
            recorder.checkpoint(&model.variables).unwrap();
            optimizer.save_state(&model.variables, state(step)).unwrap();
        }
        optimizer.set_learning_rate(rate(step));
        let ids = [step, step + 3, step + 6];
        let data = model.examples.select(&ids);
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.checkpoint(&model.variables).unwrap();
    optimizer.save_state(&model.variables, state(6)).unwrap();
    recorder.finish().unwrap();

    let ids: Vec<u64> = (0..EXAMPLES as u64).collect();
    let mut truth = vec![vec![0.0; PROBES]; EXAMPLES];
    let mut own_influence = [0.0; EXAMPLES];
    let mut replay = Replay::open(dir.path(), &model.taps, exact()).unwrap();
    for (checkpoint, step) in replay.checkpoints().iter().zip(saved) {
        replay.load(checkpoint, &model.variables).unwrap();
        let mut optimizer = AdamW::new_lr(model.variables.all_vars(), 0.01).unwrap();
        optimizer.load_state(&model.variables, state(step)).unwrap();
        replay.read_moments(&optimizer);
        let mut pass = replay.probe("test", &[0, 1]).unwrap();
        pass.cross_entropy(&model.logits(&model.probes.x).unwrap(), &model.probes.y).unwrap().backward().unwrap();
        pass.commit().unwrap();
        let mut pass = replay.sweep(&ids).unwrap();
        pass.cross_entropy(&model.logits(&model.examples.x).unwrap(), &model.examples.y).unwrap().backward().unwrap();
        pass.commit().unwrap();
        let tensors = candle_core::safetensors::load(state(step), &candle_core::Device::Cpu).unwrap();
        let names: Vec<String> = model.named().into_keys().collect();
        let second = names.iter().map(|name| {
            let v = numbers(&tensors[&format!("second_moment/{name}")]);
            // The correction of β₂ = 0.999 in the place of the other test's.
            let correction = (1.0 - BETAS.1.powi(step as i32)) / (1.0 - 0.999f64.powi(step as i32));
            (name.clone(), v.into_iter().map(|v| f64::from(v) * correction).collect())
        });
        let metric = preconditioner(&second.collect(), step);
        for (id, sum) in own_influence.iter_mut().enumerate() {
            let own = gradient(&model, &model.examples, id);
            *sum += rate(step - 1) * product(&own, Some(&metric), &own);
        }
        for probe in 0..PROBES {
            let own = gradient(&model, &model.probes, probe);
            for (id, scores) in truth.iter_mut().enumerate() {
                scores[probe] += rate(step - 1) * product(&gradient(&model, &model.examples, id), Some(&metric), &own);
            }
        }
    }
    replay.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let table = ScoreQuestion::new(Score::SelfInfluence).sweeps().compute(&run).unwrap();
    assert!(table.basis.to_string().contains("AdamW, second moments of at most 64 steps before"), "{}", table.basis);
    let right: Vec<f32> = own_influence.iter().map(|own| *own as f32).collect();
    let error = relative_error(&score_by_example(&table, EXAMPLES), &right);
    assert!(error < 4e-3, "{error}");
    let answer = InfluenceQuestion::new("test").sweeps().compute(&run).unwrap();
    assert!(answer.variant().contains("AdamW, second moments of the probe's time"), "{}", answer.variant());
    for probe in 0..PROBES {
        let got = influence_by_example(&answer, probe, EXAMPLES);
        let want: Vec<f32> = truth.iter().map(|scores| scores[probe] as f32).collect();
        assert!(relative_error(&got, &want) < 1e-3, "{probe}: {}", relative_error(&got, &want));
    }
}
