//! What is recorded of a step: its passes, its learning rate, its optimizer.

use super::*;
use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use gradlog::optim::{Sgd, SgdConfig};
use gradlog::{Recorder, StepInfo, StepReport};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;

#[test]
fn accumulated_passes_are_one_step_with_its_learning_rate() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let run = dir.path().join("run");
    let mut recorder = Recorder::create(&run, &taps, exact()).unwrap();
    let (x, y) = (noise(1, &[6, 6]), labels(6));
    for step in 0..3u64 {
        for half in 0..2u64 {
            let ids: Vec<u64> = (0..3).map(|i| half * 3 + i).collect();
            let mut pass = recorder.pass(&ids).unwrap();
            let (x, y) = (x.narrow(0, half as usize * 3, 3).unwrap(), y.narrow(0, half as usize * 3, 3).unwrap());
            let loss = (pass.cross_entropy(&model.forward(&x).unwrap(), &y).unwrap() / 2.0).unwrap();
            loss.backward().unwrap();
            if half == 0 {
                pass.accumulate().unwrap();
            } else {
                pass.commit(StepInfo::new(0.1 * (step + 1) as f64).momentum(0.9).clip(0.5)).unwrap();
            }
        }
    }
    recorder.finish().unwrap();
    let steps = u64s(&run, BlockKind::Visits, Column::Step);
    assert_eq!(steps, [[0u64; 6], [1; 6], [2; 6]].concat());
    let rates = f32s(&run, BlockKind::Visits, Column::LearningRate);
    assert_eq!(rates, [[0.1f32; 6], [0.2; 6], [0.3; 6]].concat());
    assert_eq!(f32s(&run, BlockKind::Visits, Column::Clip), [0.5; 18]);
    // Each half is divided by its own three examples and by two halves: a sixth, as the whole batch would have it.
    assert!(f32s(&run, BlockKind::Visits, Column::Coefficient).iter().all(|c| (c - 1.0 / 6.0).abs() < 1e-7));
    let sizes = u32s(&run, BlockKind::Steps, Column::BatchSize);
    assert_eq!(sizes, [6, 6, 6]);
    assert_eq!(f32s(&run, BlockKind::Steps, Column::Momentum), [0.9; 3]);
}

/// What gradlog's own optimizer does is recorded by whichever way takes its step.
#[test]
fn momentum_and_weight_decay_are_recorded() {
    let descent = SgdConfig::new(0.1).momentum(0.5).weight_decay(0.25);
    let mut weights = Vec::new();
    for by_hand in [false, true] {
        let (dir, taps, variables) = (tempfile::tempdir().unwrap(), Taps::new(), VarMap::new());
        let model = Mlp::new(&taps, &variables);
        for (number, variable) in all_by_name(&variables).into_iter().enumerate() {
            variable.set(&noise(number as u64, variable.dims())).unwrap();
        }
        let mut optimizer = Sgd::new(variables.all_vars(), descent).unwrap();
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        for step in 0..3 {
            let mut pass = recorder.pass(&[0, 1]).unwrap();
            let loss = pass.cross_entropy(&model.forward(&noise(10 + step, &[2, 6])).unwrap(), &labels(2)).unwrap();
            if by_hand {
                let grads = loss.backward().unwrap();
                pass.commit(optimizer.step_info()).unwrap();
                optimizer.step(&grads).unwrap();
            } else {
                pass.backward_step(&mut optimizer, &loss).unwrap();
            }
        }
        recorder.finish().unwrap();
        for (column, expected) in [(Column::LearningRate, 0.1), (Column::Momentum, 0.5), (Column::WeightDecay, 0.25)] {
            assert_eq!(f32s(dir.path(), BlockKind::Steps, column), [expected; 3], "{column:?}");
        }
        weights.push(all_by_name(&variables).iter().flat_map(|v| numbers(v)).collect::<Vec<_>>());
    }
    assert_eq!(weights[0], weights[1]);
}

/// Records a micro-batch of a step. `ignored` gives it another set of columns.
fn record_micro_batch(recorder: &mut Recorder, model: &Mlp, id: u64, ignored: bool) {
    let mut pass = recorder.pass(&[id, id + 1]).unwrap();
    let logits = model.forward(&noise(id, &[2, 6])).unwrap();
    let targets = Tensor::new(&[0i64, if ignored { -100 } else { 1 }], &Device::Cpu).unwrap();
    pass.ignore_index(-100).cross_entropy(&logits, &targets).unwrap().backward().unwrap();
    pass.accumulate().unwrap();
}

/// Records the last pass of a step.
fn record_last(recorder: &mut Recorder, model: &Mlp, id: u64, rate: f64) {
    let mut pass = recorder.pass(&[id]).unwrap();
    pass.cross_entropy(&model.forward(&noise(id, &[1, 6])).unwrap(), &labels(1)).unwrap().backward().unwrap();
    pass.commit(rate).unwrap();
}

/// The visits of a run with the learning rate of each.
fn rates(dir: &Path) -> Vec<(u64, f32)> {
    let rates = f32s(dir, BlockKind::Visits, Column::LearningRate);
    visited(dir).into_iter().zip(rates).collect()
}

fn pairs(ids: &[u64], rate: f32) -> Vec<(u64, f32)> {
    ids.iter().map(|id| (*id, rate)).collect()
}

#[test]
fn every_visit_of_a_step_has_its_learning_rate_whatever_columns_its_passes_have() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    record_micro_batch(&mut recorder, &model, 0, true);
    record_micro_batch(&mut recorder, &model, 10, false);
    record_last(&mut recorder, &model, 20, 0.1);
    assert_eq!(recorder.finish().unwrap().visits, 5);
    assert_eq!(rates(dir.path()), pairs(&[0, 1, 10, 11, 20], 0.1));
    assert_eq!(u32s(dir.path(), BlockKind::Steps, Column::BatchSize), [5]);
}

#[test]
fn every_visit_of_a_step_has_its_learning_rate_across_a_flush_and_a_probe() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    record_last(&mut recorder, &model, 20, 0.1);
    record_micro_batch(&mut recorder, &model, 30, false);
    recorder.flush().unwrap();
    let mut probe = recorder.probe("test", &[1]).unwrap();
    probe.cross_entropy(&model.forward(&noise(9, &[1, 6])).unwrap(), &labels(1)).unwrap().backward().unwrap();
    probe.commit().unwrap();
    record_last(&mut recorder, &model, 40, 0.2);
    assert_eq!(recorder.finish().unwrap().visits, 4);
    assert_eq!(rates(dir.path()), [pairs(&[20], 0.1), pairs(&[30, 31, 40], 0.2)].concat());
    assert_eq!(u32s(dir.path(), BlockKind::Steps, Column::BatchSize), [1, 3]);
}

/// The step took place although its last pass was refused, and the missing visits are counted.
#[test]
fn a_step_whose_last_pass_is_refused_is_a_step_with_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    record_micro_batch(&mut recorder, &model, 50, false);
    recorder.pass(&[60, 61, 62]).unwrap().commit(0.3).unwrap_err();
    record_last(&mut recorder, &model, 70, 0.4);
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped), (3, 3));
    assert_eq!(rates(dir.path()), [pairs(&[50, 51], 0.3), pairs(&[70], 0.4)].concat());
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.steps, report.dropped), (2, 3));
    assert_eq!(u32s(dir.path(), BlockKind::Steps, Column::BatchSize), [5, 1]);
}
