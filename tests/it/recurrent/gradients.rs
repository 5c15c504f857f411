//! Outputs and gradients of recurrent layers against candle_nn's, and each example's own gradient against candle's
//! backward on that example alone.

use super::models::*;
use crate::common::*;
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use gradlog::nn::rnn::Direction;
use gradlog::{Config, Recorder, SketchConfig};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use gradlog_format::sketch::{rotate, Fold};
use std::collections::BTreeMap;

/// The bar of the per-example gradients: relative error in f32.
const TOLERANCE: f64 = 1e-4;

/// Outputs differ by rounding.
const ROUNDING: f64 = 1e-6;

fn f32_of(tensor: &Tensor) -> Vec<f32> {
    numbers(&tensor.to_dtype(DType::F32).unwrap())
}

/// A loss for each example, `Σ r y²`, so that gradients depend on outputs and differ between examples.
fn losses(y: &Tensor, weights: &Tensor) -> Tensor {
    (y.sqr().unwrap() * weights).unwrap().sum(1).unwrap()
}

/// Records one pass and compares everything with candle.
fn check(settings: Settings, batch: usize, steps: usize) {
    let what = format!("{settings:?}, batch {batch}, {steps} steps");
    let model = Model::new(settings);
    let input = |seed, shape: &[usize]| {
        Var::from_tensor(&noise(seed, shape).to_dtype(settings.dtype).unwrap()).unwrap().into_inner()
    };
    let x = input(1, &[batch, steps, INPUTS]);
    let (h, c) = (input(2, &[batch, HIDDEN]), input(3, &[batch, HIDDEN]));
    let plain = (model.plain)(&x, &h, &c).unwrap();
    let weights = noise(4, plain.dims()).to_dtype(settings.dtype).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let sketch = SketchConfig { folded_min: 4096, folded_max: 4096, ..SketchConfig::exact() };
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config { sketch, ..Config::default() }).unwrap();
    let ids: Vec<u64> = (0..batch as u64).collect();
    let mut pass = recorder.pass(&ids).unwrap();
    let y = (model.ours)(&x, &h, &c).unwrap();
    let grads = pass.losses(&losses(&y, &weights)).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();

    assert_eq!(y.dims(), plain.dims(), "{what}");
    let rounding = if settings.dtype == DType::F32 { ROUNDING } else { 1e-2 };
    assert!(relative_error(&f32_of(&y), &f32_of(&plain)) < rounding, "{what}: outputs");
    let tolerance = if settings.dtype == DType::F16 { 2e-2 } else { TOLERANCE };
    let plain_grads = losses(&plain, &weights).mean_all().unwrap().backward().unwrap();
    let variables: BTreeMap<String, Var> =
        model.variables.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    let same = |name: &str, tensor: &Tensor| {
        let of = |grads: &GradStore| grads.get(tensor).map(f32_of);
        match (of(&grads), of(&plain_grads)) {
            (Some(ours), Some(theirs)) => assert!(relative_error(&ours, &theirs) < tolerance, "{what}: {name}"),
            (ours, theirs) => assert!(ours.is_none() && theirs.is_none(), "{what}: {name} has a gradient once"),
        }
    };
    variables.iter().for_each(|(name, var)| same(name, var));
    [("x", &x), ("h", &h), ("c", &c)].into_iter().for_each(|(name, tensor)| same(name, tensor));

    // Each example by itself. A run keeps the sum of all layers' projections.
    let run = Run::open(dir.path()).unwrap();
    let manifest = run.manifest();
    let places = manifest.fold_places();
    let (rows, norms) = (folded(dir.path()), f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm));
    assert_eq!((rows.len(), manifest.layers.len()), (batch, 2 * settings.layers), "{what}");
    let kept = rows[0].len();
    for i in 0..batch {
        let own = (model.plain)(&row(&x, i).unwrap(), &row(&h, i).unwrap(), &row(&c, i).unwrap()).unwrap();
        let own = losses(&own, &row(&weights, i).unwrap()).sum_all().unwrap().backward().unwrap();
        let mut expected = vec![0f32; kept.next_power_of_two()];
        let mut square = 0.0;
        for (number, record) in manifest.layers.iter().enumerate() {
            let mut gradient: Vec<f32> = Vec::new();
            for part in ["weight", "bias"] {
                // `layer0.ih_l0` is of `layer0.weight_ih_l0` and `layer0.bias_ih_l0`.
                let (path, end) = record.name.rsplit_once('.').unwrap();
                if let Some(variable) = variables.get(&format!("{path}.{part}_{end}")) {
                    gradient.extend(f32_of(own.get(variable).unwrap()));
                }
            }
            assert_eq!(gradient.len() as u64, record.parameters, "{what}: parameters of {}", record.name);
            let (seed, length) = (record.seed_folded, gradient.len());
            let fold = Fold::placed(seed, length, expected.len(), places[number] as usize);
            expected.iter_mut().zip(fold.apply(&gradient)).for_each(|(sum, v)| *sum += v);
            square += dot(&gradient, &gradient);
        }
        rotate(&mut expected, kept);
        assert!(relative_error(&rows[i], &expected[..kept]) < tolerance, "{what}: example {i}");
        assert!((f64::from(norms[i]) - square).abs() < 2.0 * tolerance * square, "{what}: norm {i}");
    }
}

const KINDS: [Kind; 4] = [Kind::Lstm, Kind::Gru, Kind::Tanh, Kind::Relu];
const CALLS: [Call; 4] = [Call::Seq, Call::SeqInit, Call::Steps, Call::Mixed];

#[test]
fn every_call_has_candles_outputs_and_each_examples_own_gradient() {
    for kind in KINDS {
        for call in CALLS {
            for batch in [1, 5] {
                check(Settings::new(kind, call), batch, 7);
            }
        }
    }
}

#[test]
fn one_step_and_many_steps() {
    for kind in KINDS {
        for call in [Call::SeqInit, Call::Steps] {
            check(Settings::new(kind, call), 5, 1);
            check(Settings::new(kind, call), 3, 64);
        }
    }
}

#[test]
fn layers_on_top_of_each_other() {
    for kind in KINDS {
        for call in [Call::SeqInit, Call::Steps] {
            check(Settings { layers: 3, ..Settings::new(kind, call) }, 5, 6);
        }
    }
}

#[test]
fn each_bias_may_be_absent() {
    for kind in [Kind::Lstm, Kind::Gru] {
        for biases in [(false, false), (true, false), (false, true)] {
            check(Settings { biases, ..Settings::new(kind, Call::SeqInit) }, 4, 5);
        }
    }
    check(Settings { biases: (false, false), ..Settings::new(Kind::Tanh, Call::SeqInit) }, 4, 5);
}

#[test]
fn the_backward_direction_is_candles() {
    check(Settings { direction: Direction::Backward, ..Settings::new(Kind::Lstm, Call::Seq) }, 4, 5);
}

#[test]
fn other_types_take_candles_ops_and_are_recorded() {
    for kind in KINDS {
        for call in [Call::SeqInit, Call::Mixed] {
            check(Settings { dtype: DType::F64, ..Settings::new(kind, call) }, 3, 5);
        }
    }
    check(Settings { dtype: DType::F16, ..Settings::new(Kind::Lstm, Call::SeqInit) }, 3, 5);
}
