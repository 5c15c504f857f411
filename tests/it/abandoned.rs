//! Steps that did not happen: abandoned by the loop, not finite, or without a learning rate. Log and loop agree.

use crate::common::*;
use candle_core::{Device, Module, Tensor, Var};
use candle_nn::{Optimizer, SGD};
use gradlog::{Config, OnFailure, OnNonFinite, Overflow, RecordError, Recorder, StepInfo, Taps};
use gradlog_analysis::{Score, ScoreQuestion, SummaryQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;
use std::time::Duration;

/// One pass over noise, whose seed is the first id, as the first part of a step.
fn accumulate<M: Module>(recorder: &mut Recorder, model: &M, ids: &[u64]) -> Result<(), RecordError> {
    let mut pass = recorder.pass(ids)?;
    let x = noise(ids[0], &[ids.len(), 4]);
    pass.cross_entropy(&model.forward(&x).unwrap(), &labels(ids.len()))?.backward().unwrap();
    pass.accumulate().map(drop)
}

/// Abandoned visits of a run, by the step in the log.
fn abandoned(dir: &Path) -> Vec<(u64, u64)> {
    let gaps = blocks(dir, BlockKind::Gaps);
    let rows = gaps.iter().filter(|block| block.has(Column::Abandoned)).flat_map(|block| {
        assert!(block.u64s(Column::Dropped).unwrap().iter().all(|dropped| *dropped == 0));
        block.u64s(Column::Step).unwrap().into_iter().zip(block.u64s(Column::Abandoned).unwrap())
    });
    rows.collect()
}

#[test]
fn the_first_half_of_an_abandoned_step_is_credited_to_no_step() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let run = |name: &str, with_abandoned: bool| {
        let dir = dir.path().join(name);
        let mut recorder = Recorder::create(&dir, &model.taps, exact()).unwrap();
        record_noise(&mut recorder, &model.layer, &[7, 8]).unwrap();
        if with_abandoned {
            accumulate(&mut recorder, &model.layer, &[1, 2]).unwrap();
            let mut second = recorder.pass(&[3, 4]).unwrap();
            second.cross_entropy(&model.layer.forward(&noise(3, &[2, 4])).unwrap(), &labels(2)).unwrap();
            second.abandon();
            recorder.abandon_step().unwrap();
            recorder.abandon_step().unwrap();
            assert_eq!(recorder.abandoned_steps(), 1, "nothing was open the second time");
        }
        record_noise(&mut recorder, &model.layer, &[5, 6]).unwrap();
        let summary = recorder.finish().unwrap();
        (dir, summary)
    };
    let (with, summary) = run("with", true);
    let (without, plain) = run("without", false);
    assert_eq!((summary.visits, summary.dropped, summary.abandoned, summary.abandoned_steps), (4, 0, 2, 1));
    assert_eq!((plain.visits, plain.dropped, plain.abandoned, plain.abandoned_steps), (4, 0, 0, 0));
    assert!(summary.to_string().contains("1 steps of 2 visits abandoned"), "{summary}");
    for column in [Column::Example, Column::Step] {
        assert_eq!(u64s(&with, BlockKind::Visits, column), u64s(&without, BlockKind::Visits, column));
    }
    assert_eq!(u64s(&with, BlockKind::Steps, Column::Step), [0, 1]);
    assert_eq!(u32s(&with, BlockKind::Steps, Column::BatchSize), [2, 2]);
    let influence =
        |dir: &Path| ScoreQuestion::new(Score::SelfInfluence).compute(&Run::open(dir).unwrap()).unwrap().rows;
    assert_eq!(influence(&with), influence(&without));
    assert_eq!(abandoned(&with), [(1, 2)]);
    let report = Run::open(&with).unwrap().verify().unwrap();
    assert_eq!((report.visits, report.abandoned, report.dropped, report.steps), (4, 2, 0, 2));
    assert!(report.finished && report.damage.is_none());
    let said = SummaryQuestion::new().compute(&Run::open(&with).unwrap()).unwrap();
    assert_eq!((said.abandoned, said.dropped, said.first_gap), (2, 0, None));
    let path = with.to_str().unwrap();
    let said = gradlog(&["info", path]);
    assert!(said.out.contains("2 visits of steps that were not taken"), "{}", said.out);
    assert_eq!(gradlog(&["info", path, "--format", "json"]).json()["abandoned"], 2);
    assert!(gradlog(&["verify", path]).out.contains("abandoned"));
}

/// A full queue does not take the news at once. Until it does, nothing of a later step goes before it.
#[test]
fn an_abandoned_step_that_finds_the_queue_full_is_still_credited_to_no_step() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, gate) = (Taps::new(), Gate::default());
    let layer = taps.tap("fc", Gated { layer: noise_linear(5, 3, 4), gate: gate.clone() });
    let config = Config { overflow: Overflow::DropNewest, queue_passes: 2, ..Config::default() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    // The thread takes one or none and hangs; the others fill the queue.
    for id in 0..4 {
        accumulate(&mut recorder, &layer, &[2 * id, 2 * id + 1]).unwrap();
    }
    recorder.abandon_step().unwrap();
    record_noise(&mut recorder, &layer, &[20, 21]).unwrap();
    gate.open();
    recorder.flush().unwrap();
    record_noise(&mut recorder, &layer, &[30, 31]).unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!(u64s(dir.path(), BlockKind::Visits, Column::Example), [30, 31]);
    assert_eq!(u64s(dir.path(), BlockKind::Visits, Column::Step), [1, 1]);
    assert_eq!((summary.visits, summary.abandoned_steps), (2, 1), "{summary}");
    // What the full queue dropped of the abandoned step counts as dropped.
    assert_eq!(summary.dropped + summary.abandoned, 10, "{summary}");
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.dropped, report.abandoned), (summary.dropped, summary.abandoned));
    assert!(report.abandoned >= 4, "{report:?}");
}

/// Inputs of a step, with a NaN for the second example of step 2.
fn inputs(step: u64) -> Tensor {
    let mut x = numbers(&noise(step, &[3, 4]));
    if step == 2 {
        x[5] = f32::NAN;
    }
    Tensor::from_vec(x, (3, 4), &Device::Cpu).unwrap()
}

fn ids(step: u64) -> [u64; 3] {
    [10 * step, 10 * step + 1, 10 * step + 2]
}

/// Weights after a loop over `steps` by candle alone.
fn trained_by_candle(steps: &[u64]) -> Vec<f32> {
    let weight = Var::from_tensor(&noise(5, &[3, 4])).unwrap();
    let mut optimizer = SGD::new(vec![weight.clone()], 0.1).unwrap();
    for step in steps {
        let logits = inputs(*step).matmul(&weight.t().unwrap()).unwrap();
        optimizer.backward_step(&candle_nn::loss::cross_entropy(&logits, &labels(3)).unwrap()).unwrap();
    }
    numbers(&weight)
}

/// A layer of known weights, with its variable.
fn known_layer(taps: &Taps) -> (gradlog::Tapped<candle_nn::Linear>, Var) {
    let weight = Var::from_tensor(&noise(5, &[3, 4])).unwrap();
    (taps.tap("fc", candle_nn::Linear::new(weight.as_tensor().clone(), None)), weight)
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
}

/// A loop of four steps, the third of which is NaN. Returns its error, the weights, and the recorder.
fn train(dir: &Path, config: Config, fails_before: bool) -> (Option<RecordError>, Vec<f32>, Recorder) {
    let taps = Taps::new();
    let (layer, weight) = known_layer(&taps);
    let mut optimizer = SGD::new(vec![weight.clone()], 0.1).unwrap();
    let mut recorder = Recorder::create(dir, &taps, config).unwrap();
    let mut error = None;
    for step in 0..4 {
        if fails_before && step == 1 {
            std::fs::remove_dir_all(dir).unwrap();
            let _ = recorder.flush();
            assert!(recorder.failure().is_some());
        }
        let mut pass = recorder.pass(&ids(step)).unwrap();
        let loss = pass.cross_entropy(&layer.forward(&inputs(step)).unwrap(), &labels(3)).unwrap();
        error = pass.backward_step(&mut optimizer, &loss).err();
        if error.is_some() {
            break;
        }
    }
    (error, numbers(&weight), recorder)
}

#[test]
fn a_step_that_is_not_finite_is_recorded_and_taken_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let (error, weights, recorder) = train(dir.path(), exact(), false);
    assert!(error.is_none() && weights.iter().all(|w| w.is_nan()));
    assert_eq!(recorder.finish().unwrap().visits, 12);
    let flags = u8s(dir.path(), BlockKind::Visits, Column::Flags);
    assert_eq!(flags[6..9], [0, Column::FLAG_NOT_FINITE, 0]);
    assert_eq!(u64s(dir.path(), BlockKind::Steps, Column::Step), [0, 1, 2, 3]);
}

#[test]
fn a_step_that_is_not_finite_is_skipped_in_log_and_loop() {
    let dir = tempfile::tempdir().unwrap();
    let (error, weights, recorder) = train(dir.path(), Config { on_nonfinite: OnNonFinite::Skip, ..exact() }, false);
    assert!(error.is_none() && recorder.abandoned_steps() == 1);
    assert!(close(&weights, &trained_by_candle(&[0, 1, 3])), "as if that batch had not been there");
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped, summary.abandoned), (9, 0, 3));
    let examples = u64s(dir.path(), BlockKind::Visits, Column::Example);
    assert_eq!(examples, [ids(0), ids(1), ids(3)].concat());
    assert_eq!(u64s(dir.path(), BlockKind::Steps, Column::Step), [0, 1, 2]);
    assert_eq!(abandoned(dir.path()), [(2, 3)]);
}

#[test]
fn a_step_that_is_not_finite_stops_the_loop_with_the_example() {
    let dir = tempfile::tempdir().unwrap();
    let (error, weights, recorder) = train(dir.path(), Config { on_nonfinite: OnNonFinite::Stop, ..exact() }, false);
    let error = error.unwrap();
    assert!(matches!(error, RecordError::NotFinite { step: 2, skipped: false, .. }), "{error}");
    assert!(error.to_string().contains("the loss is NaN at example 21"), "{error}");
    assert!(close(&weights, &trained_by_candle(&[0, 1])), "the step was not taken");
    assert_eq!(recorder.finish().unwrap().visits, 6);
    assert_eq!(abandoned(dir.path()), [(2, 3)]);
}

/// A full disk must not change the training.
#[test]
fn a_step_that_is_not_finite_is_skipped_after_recording_has_failed() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("run");
    let config = Config {
        on_nonfinite: OnNonFinite::Skip,
        on_failure: OnFailure::GoOn,
        flush_interval: Duration::from_millis(1),
        ..exact()
    };
    let (error, weights, recorder) = train(&dir, config, true);
    assert!(error.is_none() && recorder.abandoned_steps() == 1);
    assert!(close(&weights, &trained_by_candle(&[0, 1, 3])));
    assert!(matches!(recorder.finish(), Err(RecordError::Unrecorded { .. })));
}

/// `commit` and `accumulate` say it, and the passes that were accumulated before go with the step.
#[test]
fn a_loop_of_its_own_hears_of_a_step_that_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    let (layer, _) = known_layer(&taps);
    let mut recorder =
        Recorder::create(dir.path(), &taps, Config { on_nonfinite: OnNonFinite::Skip, ..exact() }).unwrap();
    let half = |recorder: &mut Recorder, step: u64, last: bool| {
        let mut pass = recorder.pass(&ids(step)).unwrap();
        let loss = pass.cross_entropy(&layer.forward(&inputs(step)).unwrap(), &labels(3)).unwrap();
        loss.backward().unwrap();
        if last {
            pass.commit(0.1)
        } else {
            pass.accumulate()
        }
    };
    // The NaN comes last, first, and not at all.
    half(&mut recorder, 0, false).unwrap();
    assert!(half(&mut recorder, 2, true).unwrap_err().is_skipped_step());
    assert!(half(&mut recorder, 2, false).unwrap_err().is_skipped_step());
    half(&mut recorder, 1, false).unwrap();
    half(&mut recorder, 3, true).unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.abandoned, summary.abandoned_steps), (6, 9, 2));
    assert_eq!(u64s(dir.path(), BlockKind::Visits, Column::Example), [ids(1), ids(3)].concat());
    assert_eq!(u64s(dir.path(), BlockKind::Visits, Column::Step), [0; 6]);
    assert_eq!(u32s(dir.path(), BlockKind::Steps, Column::BatchSize), [6]);
}

/// The losses are finite, and a gradient is not: of a tapped layer, of the loss's factor, of a variable without a tap.
#[test]
fn gradients_that_are_not_finite_are_seen_beside_finite_losses() {
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    let weight = Var::from_tensor(&noise(5, &[3, 4])).unwrap();
    let layer = taps.tap("fc", candle_nn::Linear::new(weight.as_tensor().clone(), None));
    let free = Var::from_tensor(&Tensor::zeros((), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
    let mut optimizer = SGD::new(vec![weight.clone(), free.clone()], 0.1).unwrap();
    let config = Config { on_nonfinite: OnNonFinite::Skip, ..exact() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    let x = noise(1, &[2, 4]);
    // The square root of 0 has an infinite slope.
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    let y = layer.forward(&x).unwrap();
    let losses = (&y - y.detach()).unwrap().sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
    pass.losses(&losses).unwrap().backward().unwrap();
    let error = pass.commit(0.1).unwrap_err();
    assert!(error.is_skipped_step() && error.to_string().contains("gradient of layer `fc`"), "{error}");
    let mut pass = recorder.pass(&[3, 4]).unwrap();
    let loss = pass.losses(&layer.forward(&x).unwrap().sqr().unwrap().sum(1).unwrap()).unwrap();
    (loss * f64::INFINITY).unwrap().backward().unwrap();
    assert!(pass.commit(0.1).unwrap_err().is_skipped_step());
    let before = numbers(&weight);
    let mut pass = recorder.pass(&[5, 6]).unwrap();
    let root = free.as_tensor().sqrt().unwrap();
    let losses = layer.forward(&x).unwrap().sqr().unwrap().sum(1).unwrap().broadcast_add(&root).unwrap();
    let loss = pass.losses(&losses).unwrap();
    pass.backward_step(&mut optimizer, &loss).unwrap();
    assert_eq!((numbers(&weight), numbers(&free)), (before.clone(), vec![0.0]), "the step was not taken");
    let mut pass = recorder.pass(&[7, 8]).unwrap();
    let loss = pass.losses(&layer.forward(&x).unwrap().sqr().unwrap().sum(1).unwrap()).unwrap();
    pass.backward_step(&mut optimizer, &loss).unwrap();
    assert_ne!(numbers(&weight), before);
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.abandoned, summary.abandoned_steps), (2, 6, 3));
}

/// A queue that is stuck does not hide that the step must not be taken.
#[test]
fn a_skipped_step_is_said_before_a_queue_that_is_stuck() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, gate) = (Taps::new(), Gate::default());
    let layer = taps.tap("fc", Gated { layer: noise_linear(5, 3, 4), gate: gate.clone() });
    let wait_max = Duration::from_millis(200);
    let config = Config { on_nonfinite: OnNonFinite::Skip, queue_passes: 1, wait_max, ..Config::default() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    // One is with the thread, which hangs, and one is in the queue.
    (0..2).for_each(|id| accumulate(&mut recorder, &layer, &[2 * id, 2 * id + 1]).unwrap());
    assert!(matches!(recorder.flush(), Err(RecordError::Timeout(_))));
    let mut pass = recorder.pass(&ids(2)).unwrap();
    let loss = pass.cross_entropy(&layer.forward(&inputs(2)).unwrap(), &labels(3)).unwrap();
    loss.backward().unwrap();
    assert!(pass.commit(f64::NAN).unwrap_err().is_skipped_step());
    gate.open();
    assert!((0..300).any(|_| recorder.flush().is_ok()), "the queue takes messages again");
    record_noise(&mut recorder, &layer, &[30, 31]).unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped, summary.abandoned), (2, 0, 7));
    assert_eq!(u64s(dir.path(), BlockKind::Visits, Column::Example), [30, 31]);
    assert_eq!(abandoned(dir.path()), [(0, 7)]);
}

#[test]
fn a_worker_does_not_skip_alone() {
    let dir = tempfile::tempdir().unwrap();
    let worker = Some(gradlog::Worker::new(0, 2));
    let config = |on_nonfinite| Config { worker, on_nonfinite, ..Config::default() };
    let error = Recorder::create(dir.path(), &Taps::new(), config(OnNonFinite::Skip)).err().unwrap();
    assert!(matches!(&error, RecordError::Config(what) if what.contains("abandon_step")), "{error}");
    Recorder::create(dir.path(), &Taps::new(), config(OnNonFinite::Stop)).unwrap();
}

#[test]
fn numbers_that_no_optimizer_can_have_are_refused_and_credit_nothing() {
    let refused = [
        (StepInfo::new(f64::NAN), "the learning rate is NaN"),
        (StepInfo::new(f64::INFINITY), "the learning rate is inf"),
        (StepInfo::new(-0.1), "the learning rate is -0.1 and must be 0 or a positive number"),
        (StepInfo::new(1e39), "the learning rate is 1000000"),
        (StepInfo::new(0.1).clip(f64::NAN), "the clip factor is NaN"),
        (StepInfo::new(0.1).clip(-1.0), "the clip factor is -1"),
        (StepInfo::new(0.1).momentum(f64::NAN), "the momentum is NaN and must be a finite number"),
        (StepInfo::new(0.1).weight_decay(f64::NEG_INFINITY), "the weight decay is -inf"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    for (info, said) in refused {
        accumulate(&mut recorder, &model.layer, &[1, 2]).unwrap();
        let mut pass = recorder.pass(&[3]).unwrap();
        let logits = model.layer.forward(&noise(3, &[1, 4])).unwrap();
        pass.cross_entropy(&logits, &labels(1)).unwrap().backward().unwrap();
        let error = pass.commit(info).unwrap_err();
        assert!(matches!(error, RecordError::Pass { .. }) && error.to_string().contains(said), "{error}");
    }
    record_noise(&mut recorder, &model.layer, &[5, 6]).unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped, summary.abandoned), (2, 3 * 8, 0));
    assert_eq!(u64s(dir.path(), BlockKind::Visits, Column::Example), [5, 6]);
    // Each refused step may have been taken, so it counts.
    assert_eq!(u64s(dir.path(), BlockKind::Steps, Column::Step), [8]);
    assert_eq!(Run::open(dir.path()).unwrap().verify().unwrap().dropped, 24);
    // A recorder that records nothing refuses nothing.
    Recorder::disabled().pass(&[1]).unwrap().commit(f64::NAN).unwrap();
}
