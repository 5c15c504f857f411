//! BatchNorm: refused, recorded as shares and labelled, or frozen and tapped.

use crate::common::*;
use candle_core::{Module, Result, Tensor, Var};
use candle_nn::{batch_norm, linear, BatchNorm, Linear, ModuleT, VarMap};
use gradlog::taps::FrozenBatchNorm;
use gradlog::{Config, OnBatchNorm, RecordError, Recorder, Replay, Tapped, Taps};
use gradlog_format::log::{BatchNormHandling, BlockKind, Column, CouplingKind};
use gradlog_format::run::Run;
use std::path::Path;

/// `fc1`, a BatchNorm and `fc2`; the BatchNorm is not tapped.
struct Normed {
    taps: Taps,
    variables: VarMap,
    fc1: Tapped<Linear>,
    bn: BatchNorm,
    fc2: Tapped<Linear>,
}

impl Normed {
    fn new() -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = builder(&variables);
        let fc1 = taps.tap("fc1", linear(4, 5, vb.pp("fc1")).unwrap());
        let bn = batch_norm(5, 1e-5, vb.pp("block.bn")).unwrap();
        let fc2 = taps.tap("fc2", linear(5, 3, vb.pp("fc2")).unwrap());
        taps.declare_model(&variables);
        Self { taps, variables, fc1, bn, fc2 }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.fc2.forward(&self.bn.forward_t(&self.fc1.forward(x)?, train)?.tanh()?)
    }

    fn record(&self, recorder: &mut Recorder, train: bool) -> std::result::Result<(), RecordError> {
        let mut pass = recorder.pass(&[1, 2, 3, 4])?;
        let logits = self.forward(&noise(1, &[4, 4]), train)?;
        pass.cross_entropy(&logits, &noisy_labels(2, 4))?.backward()?;
        pass.commit(0.1).map(drop)
    }

    fn named(&self, name: &str) -> Var {
        self.variables.data().lock().unwrap()[name].clone()
    }
}

fn config(on_batch_norm: OnBatchNorm) -> Config {
    Config { on_batch_norm, ..exact() }
}

#[test]
fn batch_norm_in_the_model_is_refused_with_three_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let model = Normed::new();
    let error = Recorder::create(dir.path().join("run"), &model.taps, exact()).unwrap_err().to_string();
    for words in ["`block.bn`", "GroupNorm", "FrozenBatchNorm", "OnBatchNorm::Frozen", "OnBatchNorm::RecordShare"] {
        assert!(error.contains(words), "{error}");
    }
    assert!(!dir.path().join("run").exists());
    // Nor does a model whose variables were declared one by one record them.
    let taps = Taps::new();
    taps.declare_variables(&model.variables);
    let error = Recorder::create(dir.path().join("run"), &taps, exact()).unwrap_err().to_string();
    assert!(error.contains("`block.bn`"), "{error}");
}

/// The factored gradients of a layer's visits, as `[examples][outputs * inputs]`.
fn weight_gradients(dir: &Path, layer: u16) -> Vec<Vec<f32>> {
    let a = vectors(dir, Column::Input, layer);
    let d = vectors(dir, Column::Delta, layer);
    let outer = |(a, d): (&Vec<f32>, &Vec<f32>)| d.iter().flat_map(|d| a.iter().map(move |a| d * a)).collect();
    a.iter().zip(&d).map(outer).collect()
}

#[test]
fn shares_add_up_to_the_batch_gradient_and_are_labelled() {
    let dir = tempfile::tempdir().unwrap();
    let model = Normed::new();
    let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnBatchNorm::RecordShare)).unwrap();
    assert_eq!(recorder.couplings().len(), 1);
    model.record(&mut recorder, true).unwrap();
    recorder.finish().unwrap();
    // By candle alone: the gradient of the batch.
    let loss = candle_nn::loss::cross_entropy(&model.forward(&noise(1, &[4, 4]), true).unwrap(), &noisy_labels(2, 4));
    let grads = loss.unwrap().backward().unwrap();
    for (number, name) in [(0, "fc1.weight"), (1, "fc2.weight")] {
        let shares = weight_gradients(dir.path(), number);
        let mut sum = vec![0f32; shares[0].len()];
        shares.iter().for_each(|share| sum.iter_mut().zip(share).for_each(|(sum, v)| *sum += v / 4.0));
        let expected = numbers(grads.get(&model.named(name)).unwrap());
        assert!(relative_error(&sum, &expected) < 1e-4, "{name}");
    }
    let run = Run::open(dir.path()).unwrap();
    let record = run.manifest().batch_norm().unwrap();
    assert_eq!((record.handling, &record.layers[..]), (BatchNormHandling::Share, &["block.bn".to_owned()][..]));
    let couplings = run.couplings().unwrap();
    assert_eq!(couplings, run.manifest().couplings());
    assert_eq!(couplings[0].kind, CouplingKind::BatchNorm);
    assert_eq!(
        couplings[0].to_string(),
        "BatchNorm in training mode (`block.bn`) couples the examples of a batch: gradients are shares of the batch \
         gradient"
    );
    // Statistics are no parameters: 4·5 + 5, 5 + 5, and 5·3 + 3.
    assert_eq!(run.manifest().model_parameters, Some(25 + 10 + 18));
    let untapped: Vec<&str> = run.manifest().untapped.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(untapped, ["block.bn.bias", "block.bn.weight"]);
}

#[test]
fn outputs_beside_batch_norm_are_recorded_and_labelled() {
    let dir = tempfile::tempdir().unwrap();
    let model = Normed::new();
    let taps = Taps::new();
    taps.declare_model(&model.variables);
    Recorder::create(dir.path(), &taps, Config::default()).unwrap().finish().unwrap();
    let couplings = Run::open(dir.path()).unwrap().couplings().unwrap();
    assert!(couplings[0].to_string().ends_with("losses and predictions depend on the batch"), "{}", couplings[0]);
}

#[test]
fn statistics_that_are_said_to_be_frozen_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let model = Normed::new();
    let mut recorder = Recorder::create(dir.path().join("a"), &model.taps, config(OnBatchNorm::Frozen)).unwrap();
    for _ in 0..3 {
        model.record(&mut recorder, false).unwrap();
    }
    // The fourth pass is looked at. The later ones are refused as well.
    for _ in 0..2 {
        let error = model.record(&mut recorder, true).unwrap_err().to_string();
        assert!(error.contains("`block.bn`") && error.contains("forward_t(x, false)"), "{error}");
    }
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped), (12, 8));
    let run = Run::open(dir.path().join("a")).unwrap();
    assert_eq!(run.manifest().batch_norm().unwrap().handling, BatchNormHandling::Frozen);
    assert!(run.couplings().unwrap().is_empty());
    // A resumption may not change what the label says.
    let error = Recorder::resume(dir.path().join("a"), &model.taps, config(OnBatchNorm::RecordShare)).unwrap_err();
    assert!(matches!(&error, RecordError::Differs { what } if what[0].contains("frozen BatchNorm")), "{error}");
    Recorder::resume(dir.path().join("a"), &model.taps, config(OnBatchNorm::Frozen)).unwrap().finish().unwrap();
}

#[test]
fn a_replay_of_a_model_with_batch_norm_needs_no_setting() {
    let dir = tempfile::tempdir().unwrap();
    let model = Normed::new();
    let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnBatchNorm::RecordShare)).unwrap();
    model.record(&mut recorder, true).unwrap();
    recorder.checkpoint(&model.variables).unwrap();
    recorder.finish().unwrap();
    let mut replay = Replay::open(dir.path(), &model.taps, Config::default()).unwrap();
    for checkpoint in replay.checkpoints() {
        replay.load(&checkpoint, &model.variables).unwrap();
        let mut pass = replay.sweep(&[1, 2, 3, 4]).unwrap();
        let logits = model.forward(&noise(1, &[4, 4]), false).unwrap();
        pass.cross_entropy(&logits, &noisy_labels(2, 4)).unwrap().backward().unwrap();
        pass.commit().unwrap();
    }
    replay.finish().unwrap();
    assert_eq!(blocks(dir.path(), BlockKind::Sweeps).len(), 1);
}

/// With frozen statistics a BatchNorm is an affine layer: its per-example gradients are candle's on one example.
#[test]
fn a_frozen_batch_norm_is_tapped() {
    for shape in [vec![6, 5], vec![6, 5, 3], vec![6, 5, 2, 3]] {
        let dir = tempfile::tempdir().unwrap();
        let (taps, variables) = (Taps::new(), VarMap::new());
        let layer = batch_norm(5, 1e-3, builder(&variables).pp("bn")).unwrap();
        let named = |name: &str| variables.data().lock().unwrap()[name].clone();
        for (number, name) in ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"].into_iter().enumerate() {
            let values = noise(70 + number as u64, &[5]);
            named(name).set(&if number == 3 { values.abs().unwrap() } else { values }).unwrap();
        }
        let statistics = numbers(named("bn.running_mean").as_tensor());
        let tapped = taps.tap("bn", FrozenBatchNorm::new(layer.clone()));
        taps.declare_model(&variables);
        // It is tapped with frozen statistics, so nothing is refused.
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let (x, weights) = (noise(1, &shape), noise(2, &shape));
        let losses = |y: &Tensor, w: &Tensor| (y.sqr()? * w)?.flatten_from(1)?.sum(1);
        let mut pass = recorder.pass(&[0, 1, 2, 3, 4, 5]).unwrap();
        // In training mode too, it computes the evaluation mode.
        let y = tapped.forward_t(&x, true).unwrap();
        assert_eq!(numbers(&y), numbers(&layer.forward_t(&x, false).unwrap()));
        pass.losses(&losses(&y, &weights).unwrap()).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        assert_eq!(statistics, numbers(named("bn.running_mean").as_tensor()));
        let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
        for (i, found) in norms.iter().enumerate() {
            let own = layer.forward_t(&row(&x, i).unwrap(), false).unwrap();
            let grads = losses(&own, &row(&weights, i).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
            let gradient: Vec<f32> =
                ["bn.weight", "bn.bias"].iter().flat_map(|name| numbers(grads.get(&named(name)).unwrap())).collect();
            let expected = dot(&gradient, &gradient);
            assert!((f64::from(*found) - expected).abs() < 2e-4 * expected, "{shape:?}: {found} {expected}");
        }
        let manifest = Run::open(dir.path()).unwrap().manifest().clone();
        assert_eq!((manifest.coverage(), manifest.couplings().len()), (Some(1.0), 0));
        assert!(manifest.untapped.is_empty() && manifest.batch_norm().is_none());
    }
}
