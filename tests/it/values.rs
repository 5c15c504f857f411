//! The numbers of a pass are recorded as they were, and disturb no others.

use crate::common::*;
use candle_core::{Device, Module, Tensor, Var};
use gradlog::{Config, Recorder};
use gradlog_analysis::{Score, ScoreQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;

#[test]
fn numbers_that_are_not_finite_are_flagged_and_keep_to_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let mut x = numbers(&noise(1, &[3, 4]));
    x[5] = f32::NAN;
    let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
    let x = Tensor::from_vec(x, (3, 4), &Device::Cpu).unwrap();
    let loss = pass.cross_entropy(&model.layer.forward(&x).unwrap(), &labels(3)).unwrap();
    loss.backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let flags = u8s(dir.path(), BlockKind::Visits, Column::Flags);
    assert_eq!(flags, [0, Column::FLAG_NOT_FINITE, 0]);
    let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
    assert!(norms[0].is_finite() && norms[0] > 0.0 && norms[2].is_finite() && !norms[1].is_finite());
}

#[test]
fn a_disabled_recorder_leaves_the_loop_as_it_is() {
    let model = one_layer(3);
    let mut recorder = Recorder::disabled();
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    let x = noise(1, &[3, 4]);
    let logits = model.layer.forward(&x).unwrap();
    let loss = pass.cross_entropy(&logits, &labels(3)).unwrap();
    let theirs = candle_nn::loss::cross_entropy(&logits, &labels(3)).unwrap();
    assert!((loss.to_scalar::<f32>().unwrap() - theirs.to_scalar::<f32>().unwrap()).abs() < 1e-6);
    pass.commit(0.1).unwrap();
    recorder.probe("test", &[1]).unwrap().commit().unwrap();
    recorder.flush().unwrap();
    assert_eq!(recorder.finish().unwrap(), Default::default());
    assert!(!model.variables.all_vars().is_empty());
}

#[test]
fn what_an_abandoned_pass_caught_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path().join("a"), &model.taps, Config::default()).unwrap();
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    let wild = (noise(1, &[2, 4]) * 1e6).unwrap();
    pass.cross_entropy(&model.layer.forward(&wild).unwrap(), &labels(2)).unwrap().backward().unwrap();
    drop(pass);
    recorder.finish().unwrap();
    let mut recorder = Recorder::create(dir.path().join("b"), &model.taps, Config::default()).unwrap();
    record_noise(&mut recorder, &model.layer, &[1, 2]).unwrap();
    record_noise(&mut recorder, &model.layer, &[1, 2]).unwrap();
    recorder.finish().unwrap();
    let norms = f32s(&dir.path().join("b"), BlockKind::Visits, Column::SquaredNorm);
    assert_eq!(norms[..2], norms[2..], "the same batch at the same weights");
}

#[test]
fn the_input_is_recorded_as_it_was_even_if_it_is_a_view_of_a_variable() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let model = one_layer(3);
    let table = Var::from_tensor(&noise(4, &[6, 4])).unwrap();
    let mut recorder = Recorder::create(&run, &model.taps, exact()).unwrap();
    let mut inputs = Vec::new();
    for _ in 0..50 {
        let mut pass = recorder.pass(&[1, 2]).unwrap();
        let x = table.narrow(0, 2, 2).unwrap();
        inputs.extend(x.to_vec2::<f32>().unwrap());
        pass.cross_entropy(&model.layer.forward(&x).unwrap(), &labels(2)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        table.set(&(table.as_tensor() * 1.01).unwrap()).unwrap();
    }
    recorder.finish().unwrap();
    assert_eq!(vectors(&run, Column::Input, 0), inputs);
}

#[test]
fn an_example_with_nothing_to_predict_is_not_a_suspect() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let targets = Tensor::new(&[0i64, -100, 2], &Device::Cpu).unwrap();
    for _ in 0..2 {
        let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
        let loss =
            pass.ignore_index(-100).cross_entropy(&model.layer.forward(&noise(1, &[3, 4])).unwrap(), &targets).unwrap();
        loss.backward().unwrap();
        pass.commit(0.1).unwrap();
    }
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    for score in [Score::Confidence, Score::Aum, Score::Loss, Score::Correctness, Score::Grand] {
        let table = ScoreQuestion::new(score).compute(&run).unwrap();
        let last = table.rows.last().unwrap();
        assert!(last.example == 1 && last.score.is_nan(), "{score}: {last:?}");
    }
}
