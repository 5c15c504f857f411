//! Losses by candle's ops, as on other devices, against those of main memory: what is logged, when it is judged, and
//! what the training sees.

use crate::common::*;
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{Linear, Optimizer, SGD};
use gradlog::taps::LastLayer;
use gradlog::{
    Config, EventAction, EventKind, Guard, OnEvent, OnNonFinite, Pass, PredictionScore, RecordError, Recorder,
    Sketching, Tapped, Taps,
};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;

const BATCH: usize = 6;
const IDS: [u64; BATCH] = [10, 11, 12, 13, 14, 15];

fn on_device() -> Config {
    Config { sketching: Sketching::OnDevice, ..exact() }
}

struct Model {
    taps: Taps,
    layer: Tapped<Linear>,
    weight: Var,
}

fn model() -> Model {
    let (taps, weight) = (Taps::new(), Var::from_tensor(&noise(1, &[4, 5])).unwrap());
    let layer = taps.tap("fc", Linear::new(weight.as_tensor().clone(), None));
    Model { taps, layer, weight }
}

impl Model {
    fn logits(&self, step: u64) -> Tensor {
        self.layer.forward(&noise(100 + step, &[BATCH, 5])).unwrap()
    }
}

/// Trains three steps on `loss`, which is multiplied by a quarter. Returns the weights.
fn train(dir: &Path, config: Config, loss: impl Fn(&mut Pass<'_>, &Tensor) -> Tensor) -> Vec<f32> {
    let model = model();
    let mut recorder = Recorder::create(dir, &model.taps, config).unwrap();
    let mut optimizer = SGD::new(vec![model.weight.clone()], 0.5).unwrap();
    for step in 0..3 {
        let mut pass = recorder.pass(&IDS).unwrap();
        let loss = (loss(&mut pass, &model.logits(step)) * 0.25).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.finish().unwrap();
    numbers(&model.weight)
}

fn all_close(made: &[f32], right: &[f32]) -> bool {
    let near = |(a, b): (&f32, &f32)| a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-5 * b.abs() + 1e-6;
    made.len() == right.len() && made.iter().zip(right).all(near)
}

/// A column, or nothing if the run has none.
fn column(dir: &Path, column: Column) -> Vec<f32> {
    let blocks = blocks(dir, BlockKind::Visits);
    blocks.iter().flat_map(|block| block.f32s(column).unwrap_or_default()).collect()
}

fn whole(dir: &Path, column: Column) -> Vec<u32> {
    let blocks = blocks(dir, BlockKind::Visits);
    blocks.iter().flat_map(|block| block.u32s(column).unwrap_or_default()).collect()
}

/// Every loss: what is logged, and where the training goes.
#[test]
fn a_run_is_that_of_main_memory() {
    type Loss = fn(&mut Pass<'_>, &Tensor) -> Tensor;
    fn classes() -> Tensor {
        noisy_labels(3, BATCH)
    }
    let losses: [(&str, Loss); 8] = [
        ("classes", |pass, z| pass.cross_entropy(z, &classes()).unwrap()),
        ("ignored", |pass, z| pass.ignore_index(2).cross_entropy(z, &classes()).unwrap()),
        ("weights", |pass, z| pass.weights(&[1.0, 0.0, 2.0, 1.0, 0.5, 1.0]).cross_entropy(z, &classes()).unwrap()),
        ("positions", |pass, z| {
            let mask = Tensor::new(&[[1u8, 0], [1, 1], [1, 1], [0, 0], [1, 1], [1, 1]], &Device::Cpu).unwrap();
            let z = z.reshape((BATCH, 2, 2)).unwrap();
            let y = Tensor::zeros((BATCH, 2), DType::U32, &Device::Cpu).unwrap();
            pass.mask(&mask).cross_entropy(&z, &y).unwrap()
        }),
        ("shares", |pass, z| {
            pass.cross_entropy(z, &candle_nn::ops::softmax(&noise(7, &[BATCH, 4]), 1).unwrap()).unwrap()
        }),
        ("squares", |pass, z| pass.mse(z, &noise(7, &[BATCH, 4])).unwrap()),
        ("binary", |pass, z| {
            let t = noise(7, &[BATCH, 4]).ge(0.0).unwrap().to_dtype(DType::F32).unwrap();
            pass.binary_cross_entropy_with_logits(z, &t).unwrap()
        }),
        ("own", |pass, z| {
            pass.logits(z, &classes()).unwrap();
            pass.losses(&z.sqr().unwrap().sum(1).unwrap()).unwrap()
        }),
    ];
    for (name, loss) in losses {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        let right = train(&here, exact(), loss);
        let made = train(&there, on_device(), loss);
        assert!(all_close(&made, &right), "{name}: {made:?} {right:?}");
        let mut seen = 0;
        use Column::*;
        for of in [Loss, El2n, Margin, Confidence, Correct, Coefficient, SquaredNorm] {
            let (made, right) = (column(&there, of), column(&here, of));
            assert!(all_close(&made, &right), "{name} {of:?}: {made:?} {right:?}");
            seen += right.len();
        }
        assert!(seen >= 3 * 3 * BATCH, "{name}");
        for of in [Label, Prediction, Positions] {
            assert_eq!(whole(&there, of), whole(&here, of), "{name} {of:?}");
        }
    }
}

/// The background thread reads the losses, and tells what is wrong with them.
#[test]
fn numbers_that_are_not_finite_are_told_later() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let mut recorder = Recorder::create(dir.path(), &model.taps, on_device()).unwrap();
    let factors = Tensor::new(&[[1f32], [f32::NAN], [1.0], [1.0], [1.0], [1.0]], &Device::Cpu).unwrap();
    let mut pass = recorder.pass(&IDS).unwrap();
    let logits = model.logits(0).broadcast_mul(&factors).unwrap();
    pass.cross_entropy(&logits, &labels(BATCH)).unwrap().backward().unwrap();
    assert!(pass.commit(0.1).unwrap().events.is_empty());
    recorder.flush().unwrap();
    let mut pass = recorder.pass(&IDS).unwrap();
    pass.cross_entropy(&model.logits(1), &labels(BATCH)).unwrap().backward().unwrap();
    let said = pass.commit(0.1).unwrap().events;
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((said[0].kind, said[0].step, &said[0].examples[..]), (EventKind::NonFiniteLoss, 0, &[11][..]));
    recorder.finish().unwrap();
    let flags = u8s(dir.path(), BlockKind::Visits, Column::Flags);
    let wrong: Vec<bool> = flags[..BATCH].iter().map(|flag| flag & Column::FLAG_NOT_FINITE != 0).collect();
    assert_eq!(wrong, [false, true, false, false, false, false]);
    assert_eq!(whole(dir.path(), Column::Prediction)[1], Column::NO_CLASS);
}

/// A policy that judges before the step reads the numbers before the step.
#[test]
fn a_step_that_is_not_finite_is_skipped() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let config = Config { on_nonfinite: OnNonFinite::Skip, ..on_device() };
    let mut recorder = Recorder::create(dir.path(), &model.taps, config).unwrap();
    let mut optimizer = SGD::new(vec![model.weight.clone()], 0.5).unwrap();
    for (step, factor) in [(0, f64::NAN), (1, 1.0)] {
        let before = numbers(&model.weight);
        let mut pass = recorder.pass(&IDS).unwrap();
        let loss = pass.cross_entropy(&(model.logits(step) * factor).unwrap(), &labels(BATCH)).unwrap();
        let said = pass.backward_step(&mut optimizer, &loss).unwrap().events;
        assert_eq!(numbers(&model.weight) == before, factor.is_nan());
        let told: Vec<_> = said.iter().map(|event| (event.kind, event.action, event.examples.len())).collect();
        let expected = [(EventKind::NonFiniteLoss, EventAction::Skipped, BATCH)];
        assert_eq!(told, expected[..usize::from(factor.is_nan())]);
    }
    assert_eq!(recorder.abandoned_steps(), 1);
    recorder.finish().unwrap();
}

/// The events about a training whose learning rate becomes absurd at step 100, and the error that ended it.
fn diverge(on_event: OnEvent) -> (Vec<(u64, EventAction)>, Option<RecordError>) {
    let (dir, model) = (tempfile::tempdir().unwrap(), model());
    let config = Config { guard: Guard::default().large_gradient(None).on_event(on_event), ..on_device() };
    let mut recorder = Recorder::create(dir.path(), &model.taps, config).unwrap();
    let mut optimizer = SGD::new(vec![model.weight.clone()], 0.1).unwrap();
    let mut error = None;
    for step in 0..250 {
        if step == 100 {
            optimizer.set_learning_rate(500.0);
        }
        // No weights fit these labels.
        let mut pass = recorder.pass(0..32u64).unwrap();
        let logits = model.layer.forward(&noise(9, &[32, 5])).unwrap();
        let loss = pass.cross_entropy(&logits, &noisy_labels(3, 32)).unwrap();
        if let Err(failed) = pass.backward_step(&mut optimizer, &loss) {
            error = Some(failed);
            break;
        }
    }
    recorder.finish().unwrap();
    let events = Run::open(dir.path()).unwrap().events().unwrap();
    let diverging = events.iter().filter(|event| event.kind == EventKind::Divergence);
    (diverging.map(|event| (event.step, event.action)).collect(), error)
}

#[test]
fn the_guard_sees_a_diverging_loss() {
    let (told, error) = diverge(OnEvent::GoOn);
    assert!(error.is_none() && told.len() == 1 && (101..150).contains(&told[0].0), "{told:?}");
    assert_eq!(told[0].1, EventAction::WentOn);
    let (stopped, error) = diverge(OnEvent::Stop);
    assert_eq!(stopped, [(told[0].0, EventAction::Stopped)], "at the same step, before it is taken");
    assert!(matches!(error, Some(RecordError::Guarded { .. })));
}

/// Wrong labels make the loss NaN, and every later call says what is wrong. A policy says it at once.
#[test]
fn wrong_labels_are_refused_later_or_at_once() {
    let y = Tensor::new(&[0u32, 1, 2, 3, 4, 0], &Device::Cpu).unwrap();
    let (dir, own) = (tempfile::tempdir().unwrap(), model());
    let mut recorder = Recorder::create(dir.path().join("later"), &own.taps, on_device()).unwrap();
    let mut pass = recorder.pass(&IDS).unwrap();
    let loss = pass.cross_entropy(&own.logits(0), &y).unwrap();
    assert!(loss.to_scalar::<f32>().unwrap().is_nan());
    loss.backward().unwrap();
    let _ = pass.commit(0.1);
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains("label 4 with 4 classes"), "{error}");
    let config = Config { on_nonfinite: OnNonFinite::Stop, ..on_device() };
    let own = model();
    let mut recorder = Recorder::create(dir.path().join("once"), &own.taps, config).unwrap();
    let error = recorder.pass(&IDS).unwrap().cross_entropy(&own.logits(0), &y).unwrap_err().to_string();
    assert!(error.contains("label 4 with 4 classes"), "{error}");
    // Nobody reads the numbers of a recorder that is off.
    let mut recorder = Recorder::disabled();
    assert!(recorder.pass(&IDS).unwrap().cross_entropy(&own.logits(0), &y).is_err(), "main memory");
}

/// Probes of scores, and the last layer in closed form, whose output gradient stays where it is.
#[test]
fn probes_and_last_layers_are_those_of_main_memory() {
    let dir = tempfile::tempdir().unwrap();
    let record = |name: &str, config: Config| {
        let (dir, taps) = (dir.path().join(name), Taps::new());
        taps.declare_last_layer("fc", LastLayer::new(5, 4).without_bias());
        let layer = noise_linear(1, 4, 5);
        let mut recorder = Recorder::create(&dir, &taps, config).unwrap();
        let x = noise(2, &[BATCH, 5]);
        let mut pass = recorder.pass(&IDS).unwrap();
        pass.features(&x);
        pass.cross_entropy(&layer.forward(&x).unwrap(), &labels(BATCH)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        for score in [PredictionScore::Margin, PredictionScore::LogOdds] {
            let mut probe = recorder.probe("all", &IDS).unwrap();
            probe.features(&x);
            probe.prediction_score(&layer.forward(&x).unwrap(), score, None).unwrap().backward().unwrap();
            probe.commit().unwrap();
        }
        recorder.finish().unwrap();
        dir
    };
    let (here, there) = (record("here", exact()), record("there", on_device()));
    for (kind, column) in [
        (BlockKind::Visits, Column::Loss),
        (BlockKind::Visits, Column::SquaredNorm),
        (BlockKind::Probes, Column::Loss),
        (BlockKind::Probes, Column::SquaredNorm),
        (BlockKind::Probes, Column::Coefficient),
    ] {
        let (made, right) = (f32s(&there, kind, column), f32s(&here, kind, column));
        assert!(!right.is_empty() && all_close(&made, &right), "{kind:?} {column:?}: {made:?} {right:?}");
    }
    for column in [Column::Prediction, Column::ScoredClass] {
        assert_eq!(u32s(&there, BlockKind::Probes, column), u32s(&here, BlockKind::Probes, column));
    }
    let deltas = |dir: &Path| vectors(dir, Column::Delta, 0).concat();
    assert!(all_close(&deltas(&there), &deltas(&here)));
}

/// Losses of `per_example` are compared with those of the pass, which are read for it.
#[test]
fn per_example_compares_losses() {
    let dir = tempfile::tempdir().unwrap();
    let (weight, taps) = (Var::from_tensor(&noise(1, &[4, 5])).unwrap(), Taps::new());
    let variables = candle_nn::VarMap::new();
    variables.data().lock().unwrap().insert("fc.weight".into(), weight.clone());
    taps.declare_variables(&variables);
    let mut recorder = Recorder::create(dir.path(), &taps, on_device()).unwrap();
    let (x, y) = (noise(2, &[BATCH, 5]), labels(BATCH));
    let logits = |x: &Tensor| x.matmul(&weight.t()?);
    for factor in [1.0, 3.0] {
        let mut pass = recorder.pass(&IDS).unwrap();
        let loss = pass.cross_entropy(&logits(&x).unwrap(), &y).unwrap();
        loss.backward().unwrap();
        let own = |i: usize| candle_nn::loss::cross_entropy(&logits(&row(&x, i)?)?, &y.narrow(0, i, 1)?)? * factor;
        let compared = pass.per_example(own);
        assert_eq!(compared.is_ok(), factor == 1.0, "{compared:?}");
        if compared.is_ok() {
            pass.commit(0.1).unwrap();
        }
    }
    recorder.finish().unwrap();
    assert_eq!(f32s(dir.path(), BlockKind::Visits, Column::Loss).len(), BATCH);
}
