//! Guest manners: clear refusals, nothing lost, nothing invented, nothing changed.

use crate::common::*;
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{layer_norm, linear, Conv1d, LayerNorm, Linear, VarBuilder, VarMap};
use gradlog::{Config, Overflow, RecordError, Recorder, SketchConfig, Tapped, Taps};
use gradlog_analysis::{influence, Question};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;

struct One {
    taps: Taps,
    layer: Tapped<Linear>,
    variables: VarMap,
}

fn one() -> One {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let layer = taps.tap("fc", linear(4, 3, vb.pp("fc")).unwrap());
    One { taps, layer, variables }
}

fn y(n: usize) -> Tensor {
    Tensor::from_vec((0..n as u32).map(|i| i % 3).collect::<Vec<_>>(), n, &Device::Cpu).unwrap()
}

fn step(recorder: &mut Recorder, model: &One, ids: &[u64]) -> Result<(), RecordError> {
    let mut pass = recorder.pass(ids)?;
    let x = noise(ids[0], &[ids.len(), 4]);
    let loss = pass.cross_entropy(&model.layer.forward(&x).unwrap(), &y(ids.len()))?;
    loss.backward().unwrap();
    pass.commit(0.1)
}

fn examples(dir: &Path) -> Vec<u64> {
    blocks(dir, BlockKind::Visits).iter().flat_map(|b| b.u64s(Column::Example).unwrap()).collect()
}

#[test]
fn batch_norm_and_names_used_twice_are_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    taps.tap("bn", candle_nn::batch_norm(3, 1e-5, vb.pp("bn")).unwrap());
    taps.tap("fc", linear(4, 3, vb.pp("a")).unwrap());
    taps.tap("fc", linear(4, 3, vb.pp("b")).unwrap());
    let error = Recorder::create(dir.path().join("run"), &taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("`bn`") && error.contains("GroupNorm"), "{error}");
    assert!(error.contains("two layers are tapped as `fc`"), "{error}");
    assert!(!dir.path().join("run").exists(), "nothing was made");
}

#[test]
fn a_gradient_that_is_severed_is_named_with_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let norm_weight = Tensor::ones(3, DType::F32, &Device::Cpu).unwrap();
    let zero = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let head =
        model.taps.tap("head", Linear::new(Var::from_tensor(&noise(5, &[3, 3])).unwrap().as_tensor().clone(), None));
    let mut recorder = Recorder::create(dir.path().join("run"), &model.taps, Config::default()).unwrap();
    let mut go = |norm: &dyn Fn(&Tensor) -> Tensor| {
        let mut pass = recorder.pass(&[0, 1, 2, 3, 4]).unwrap();
        let hidden = norm(&model.layer.forward(&noise(1, &[5, 4])).unwrap());
        let loss = pass.cross_entropy(&head.forward(&hidden).unwrap(), &y(5)).unwrap();
        loss.backward().unwrap();
        pass.commit(0.1)
    };
    // candle-nn 0.11's LayerNorm has no backward. Should a later version gain one, this test says that the words can
    // go.
    let severing = LayerNorm::new(norm_weight.clone(), zero.clone(), 1e-5);
    let error = go(&|x| Module::forward(&severing, x).unwrap()).unwrap_err();
    assert!(matches!(&error, RecordError::Severed { layers, .. } if layers[..] == ["fc".to_owned()]), "{error}");
    assert!(error.to_string().contains("LayerNorm"), "{error}");
    // The same norm tapped, here with taps of its own, lets the gradient through.
    let tapped = Taps::new().tap("norm", LayerNorm::new(norm_weight, zero, 1e-5));
    go(&|x| tapped.forward(x).unwrap()).unwrap();
    assert_eq!(recorder.finish().unwrap().visits, 5, "the refused pass recorded nothing, the next one all");
}

#[test]
fn a_tapped_layer_norm_trains_what_lies_before_it() {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let first = linear(4, 3, vb.pp("fc")).unwrap();
    let norm = Taps::new().tap("norm", layer_norm(3, 1e-5, vb.pp("norm")).unwrap());
    let loss = norm.forward(&first.forward(&noise(1, &[5, 4])).unwrap()).unwrap().sqr().unwrap().mean_all().unwrap();
    let loss = (loss
        + norm
            .forward(&first.forward(&noise(2, &[5, 4])).unwrap())
            .unwrap()
            .narrow(1, 0, 1)
            .unwrap()
            .mean_all()
            .unwrap())
    .unwrap();
    assert!(loss.backward().unwrap().get(first.weight()).is_some());
}

#[test]
fn a_pass_that_lacks_something_says_what() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let other =
        model.taps.tap("other", Linear::new(Var::from_tensor(&noise(3, &[3, 4])).unwrap().as_tensor().clone(), None));
    let mut recorder = Recorder::create(dir.path().join("run"), &model.taps, Config::default()).unwrap();
    let x = noise(1, &[3, 4]);
    let says = |error: RecordError, words: &str| assert!(error.to_string().contains(words), "{error}");
    says(recorder.pass(&[]).err().unwrap(), "no examples");
    says(recorder.pass(&[1, 2, 3]).unwrap().commit(0.1).unwrap_err(), "no loss");
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.cross_entropy(&model.layer.forward(&x).unwrap(), &y(3)).unwrap();
    says(pass.commit(0.1).unwrap_err(), "backward");
    let before = model.layer.forward(&x).unwrap();
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.cross_entropy(&before, &y(3)).unwrap().backward().unwrap();
    says(pass.commit(0.1).unwrap_err(), "no tapped layer");
    says(step(&mut recorder, &model, &[1, 2, 3]).unwrap_err(), "did not reach `other`");
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    let logits = (model.layer.forward(&x).unwrap() + other.forward(&x).unwrap()).unwrap();
    says(pass.cross_entropy(&logits, &y(3)).unwrap_err(), "3 losses for 2 ids");
    drop(pass);
    // [batch * positions, width] where [batch, positions, width] belongs.
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    let flat = (model.layer.forward(&noise(1, &[6, 4])).unwrap() + other.forward(&noise(1, &[6, 4])).unwrap()).unwrap();
    let losses = flat.sqr().unwrap().sum(1).unwrap().reshape((3, 2)).unwrap().sum(1).unwrap();
    pass.losses(&losses).unwrap().backward().unwrap();
    says(pass.commit(0.1).unwrap_err(), "first dimension is 6 in a pass over 3 ids");
    assert_eq!(recorder.finish().unwrap().visits, 0);
}

#[test]
fn a_second_backward_is_refused_and_not_counted_twice() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    for shape in [vec![3, 4], vec![3, 2, 4]] {
        let x = noise(1, &shape);
        let logits = |x: &Tensor| {
            let y = model.layer.forward(x).unwrap();
            if y.rank() == 3 {
                y.mean(1).unwrap()
            } else {
                y
            }
        };
        let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
        let loss = pass.cross_entropy(&logits(&x), &y(3)).unwrap();
        loss.backward().unwrap();
        loss.backward().unwrap();
        let error = pass.commit(0.1).unwrap_err().to_string();
        assert!(error.contains("more than once"), "{error}");
        let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
        pass.cross_entropy(&logits(&x), &y(3)).unwrap().backward().unwrap();
        logits(&x).sum_all().unwrap().backward().unwrap();
        // Used twice, once with each loss: for one position per example that is a sum of two uses, else it is refused.
        let second = pass.commit(0.1);
        assert_eq!(second.is_err(), shape.len() == 3);
    }
    assert_eq!(recorder.finish().unwrap().visits, 3);
}

#[test]
fn two_recorders_do_not_share_taps() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let recorder = Recorder::create(dir.path().join("a"), &model.taps, Config::default()).unwrap();
    let error = Recorder::create(dir.path().join("b"), &model.taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("another recorder is recording"), "{error}");
    assert!(!dir.path().join("b").exists());
    recorder.finish().unwrap();
    Recorder::create(dir.path().join("b"), &model.taps, Config::default()).unwrap();
    // Dropped, and so free again; and a recorder that could not be made does not keep them.
    assert!(Recorder::create(dir.path().join("a"), &model.taps, Config::default()).is_err());
    Recorder::create(dir.path().join("c"), &model.taps, Config::default()).unwrap();
}

#[test]
fn an_optional_layer_may_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let model = one();
    let extra = model
        .taps
        .tap_optional("extra", Linear::new(Var::from_tensor(&noise(3, &[3, 4])).unwrap().as_tensor().clone(), None));
    let mut recorder = Recorder::create(&run, &model.taps, Config::default()).unwrap();
    for (number, with) in [true, false, false, true].into_iter().enumerate() {
        let mut pass = recorder.pass(&[number as u64, 9]).unwrap();
        let x = noise(1, &[2, 4]);
        let mut logits = model.layer.forward(&x).unwrap();
        if with {
            logits = (logits + extra.forward(&x).unwrap()).unwrap();
        }
        pass.cross_entropy(&logits, &y(2)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
    }
    recorder.finish().unwrap();
    assert_eq!(examples(&run), [0, 9, 1, 9, 2, 9, 3, 9]);
    assert!(Run::open(&run).unwrap().verify().unwrap().damage.is_none());
}

/// One whose gradient is folded and no other's is: its visits stay comparable, whichever pass leaves it out.
#[test]
fn an_optional_layer_that_is_folded_has_the_gradient_zero_where_it_is_left_out() {
    for first in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let model = one();
        let kernel = Var::from_tensor(&noise(3, &[3, 1, 2])).unwrap();
        let extra = model.taps.tap_optional("extra", Conv1d::new(kernel.as_tensor().clone(), None, Default::default()));
        let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
        let logits = |x: &Tensor, with: bool| {
            let logits = model.layer.forward(x).unwrap();
            match with {
                true => (logits + extra.forward(&x.unsqueeze(1).unwrap()).unwrap().sum(2).unwrap()).unwrap(),
                false => logits,
            }
        };
        for step in 0..6 {
            let (with, x) = ((step % 2 == 0) == first, noise(step, &[2, 4]));
            let mut probe = recorder.probe("test", &[7]).unwrap();
            let one = logits(&x.narrow(0, 0, 1).unwrap(), with);
            probe.cross_entropy(&one, &y(1)).unwrap().backward().unwrap();
            probe.commit().unwrap();
            let mut pass = recorder.pass(&[step, 100 + step]).unwrap();
            pass.cross_entropy(&logits(&x, with), &y(2)).unwrap().backward().unwrap();
            pass.commit(0.1).unwrap();
        }
        recorder.finish().unwrap();
        let found = influence(&Run::open(dir.path()).unwrap(), &Question::one("test", 7)).unwrap();
        assert_eq!((found.visits, found.left_out.other_layers, found.left_out.probe_records), (12, 0, 0), "{first}");
    }
}

#[test]
fn a_folder_that_holds_a_run_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let error = Recorder::create(dir.path(), &one().taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("being written by another recorder"), "{error}");
    step(&mut recorder, &model, &[4, 5]).unwrap();
    recorder.finish().unwrap();
    let error = Recorder::create(dir.path(), &model.taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("holds a run already"), "{error}");
    assert_eq!(examples(dir.path()), [4, 5]);
}

#[test]
fn a_recorder_that_is_dropped_leaves_a_readable_run() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    for id in 0..50 {
        step(&mut recorder, &model, &[id, id + 100]).unwrap();
    }
    drop(recorder);
    assert_eq!(examples(dir.path()).len(), 100);
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert!(report.damage.is_none() && !report.finished);
}

#[test]
fn flush_makes_what_was_committed_readable_while_recording_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    for round in 1..4u64 {
        step(&mut recorder, &model, &[round, round + 10]).unwrap();
        recorder.flush().unwrap();
        assert_eq!(examples(dir.path()).len() as u64, 2 * round);
    }
    recorder.finish().unwrap();
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().finished);
}

#[test]
fn drops_are_counted_and_written_and_equal_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let config = Config { overflow: Overflow::DropNewest, queue_passes: 1, ..Config::default() };
    let mut recorder = Recorder::create(dir.path(), &model.taps, config).unwrap();
    let all = 3000;
    for id in 0..all {
        step(&mut recorder, &model, &[id, id, id]).unwrap();
    }
    let summary = recorder.finish().unwrap();
    assert!(summary.dropped > 0, "a queue of one pass was never full: nothing was tested");
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!(summary.visits + summary.dropped, 3 * all);
    assert_eq!((report.visits, report.dropped), (summary.visits, summary.dropped));
    assert_eq!(examples(dir.path()).len() as u64, summary.visits);
}

/// A step of two passes whose second found the queue full is complete all the same: what a flush promises is there, and
/// counted.
#[test]
fn a_flush_is_of_drops_too() {
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    taps.last_layer("head", gradlog::taps::LastLayer::new(1024, 3));
    let config = Config {
        overflow: Overflow::DropNewest,
        queue_bytes_max: 1,
        flush_interval: std::time::Duration::from_secs(3_600),
        ..Config::default()
    };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    let many: Vec<u64> = (0..2000).collect();
    let (features, logits) = (noise(1, &[2000, 1024]), noise(2, &[2000, 3]));
    let mut pass = recorder.pass(&many).unwrap();
    pass.features(&features);
    pass.cross_entropy(&logits, &y(2000)).unwrap();
    pass.accumulate().unwrap();
    let mut pass = recorder.pass(&[9999]).unwrap();
    pass.features(&features.narrow(0, 0, 1).unwrap());
    pass.cross_entropy(&logits.narrow(0, 0, 1).unwrap(), &y(1)).unwrap();
    pass.commit(0.1).unwrap();
    recorder.flush().unwrap();
    let flushed = Run::open(dir.path()).unwrap().verify().unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped), (2000, 1), "the second pass was not dropped: nothing was tested");
    assert_eq!((flushed.visits, flushed.dropped), (2000, 1));
}

/// Visits wait for the learning rate of their step in memory: a loop that never ends one hears of it before it runs
/// out.
#[test]
fn a_step_that_never_ends_is_an_error_before_the_memory_ends() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { step_bytes_max: 10_000, ..Config::default() };
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), config).unwrap();
    let (ids, y) = ([1, 2, 3, 4], y(4));
    let pass = |recorder: &mut Recorder, ends: bool| {
        let mut pass = recorder.pass(&ids).unwrap();
        pass.cross_entropy(&noise(2, &[4, 3]), &y).unwrap();
        if ends {
            pass.commit(0.1)
        } else {
            pass.accumulate()
        }
    };
    for _ in 0..1_000 {
        pass(&mut recorder, true).unwrap();
    }
    let error =
        (0..1_000_000).find_map(|_| pass(&mut recorder, false).err()).expect("it grows without end").to_string();
    assert!(error.contains("visits of step 1000") && error.contains("`commit`"), "{error}");
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains("`step_bytes_max`"), "{error}");
    let found = Run::open(dir.path()).unwrap().verify().unwrap();
    assert!((4_010..5_000).contains(&found.visits) && found.damage.is_none(), "{found:?}");
}

#[test]
fn numbers_that_are_not_finite_are_flagged_and_keep_to_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let mut x = numbers(&noise(1, &[3, 4]));
    x[5] = f32::NAN;
    let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
    let x = Tensor::from_vec(x, (3, 4), &Device::Cpu).unwrap();
    let loss = pass.cross_entropy(&model.layer.forward(&x).unwrap(), &y(3)).unwrap();
    loss.backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let flags: Vec<u8> =
        blocks(dir.path(), BlockKind::Visits).iter().flat_map(|b| b.u8s(Column::Flags).unwrap()).collect();
    assert_eq!(flags, [0, Column::FLAG_NOT_FINITE, 0]);
    let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
    assert!(norms[0].is_finite() && norms[0] > 0.0 && norms[2].is_finite() && !norms[1].is_finite());
}

#[test]
fn a_disabled_recorder_leaves_the_loop_as_it_is() {
    let model = one();
    let mut recorder = Recorder::disabled();
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    let x = noise(1, &[3, 4]);
    let logits = model.layer.forward(&x).unwrap();
    let loss = pass.cross_entropy(&logits, &y(3)).unwrap();
    let theirs = candle_nn::loss::cross_entropy(&logits, &y(3)).unwrap();
    assert!((loss.to_scalar::<f32>().unwrap() - theirs.to_scalar::<f32>().unwrap()).abs() < 1e-6);
    pass.commit(0.1).unwrap();
    recorder.probe("test", &[1]).unwrap().commit().unwrap();
    recorder.flush().unwrap();
    assert_eq!(recorder.finish().unwrap(), Default::default());
    assert!(!model.variables.all_vars().is_empty());
}

#[test]
fn settings_out_of_range_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sketch = |folded_max| SketchConfig { folded_min: 0, folded_max, ..SketchConfig::default() };
    for config in [
        Config { sketch: sketch(0), ..Config::default() },
        Config { sketch: sketch(u32::MAX), ..Config::default() },
        Config { sketch: SketchConfig { folded_min: 9_000, ..SketchConfig::default() }, ..Config::default() },
        Config { sketch: SketchConfig { projected: 0, ..SketchConfig::default() }, ..Config::default() },
        Config { queue_passes: 0, ..Config::default() },
        Config { block_rows: 0, ..Config::default() },
        Config { zstd_level: 99, ..Config::default() },
    ] {
        let error = Recorder::create(dir.path().join("run"), &Taps::new(), config).err();
        assert!(matches!(error, Some(RecordError::Config(_))));
    }
    assert!(!dir.path().join("run").exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let error = Recorder::create(file.join("run"), &Taps::new(), Config::default()).err().unwrap();
    assert!(matches!(error, RecordError::Start(_)), "{error}");
}

#[test]
fn settings_that_would_do_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let x = noise(1, &[3, 4]);
    let says = |error: RecordError, words: &str| assert!(error.to_string().contains(words), "{error}");
    let targets = noise(2, &[3, 3]);
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.ignore_index(-1);
    says(pass.mse(&model.layer.forward(&x).unwrap(), &targets).unwrap_err(), "for cross entropy");
    drop(pass);
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.cross_entropy(&model.layer.forward(&x).unwrap(), &y(3)).unwrap().backward().unwrap();
    pass.weights(&[1.0, 2.0, 3.0]);
    says(pass.commit(0.1).unwrap_err(), "`weights` was set after the loss");
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.weights(&[1.0, 2.0]);
    says(pass.cross_entropy(&model.layer.forward(&x).unwrap(), &y(3)).unwrap_err(), "2 weights for 3 ids");
    drop(pass);
    let frozen = Taps::new();
    frozen.tap("frozen", Linear::new(noise(3, &[3, 4]), None));
    let error = Recorder::create(dir.path().join("b"), &frozen, Config::default()).err().unwrap();
    says(error, "is not a variable");
}

#[test]
fn a_layer_that_is_tapped_too_late_is_an_error_and_no_hole() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    step(&mut recorder, &model, &[1, 2]).unwrap();
    let late = Var::from_tensor(&noise(3, &[3, 4])).unwrap();
    let _late = model.taps.tap("late", Linear::new(late.as_tensor().clone(), None));
    let error = recorder.pass(&[1, 2]).err().unwrap().to_string();
    assert!(error.contains("after the recorder was created"), "{error}");
}

#[test]
fn what_an_abandoned_pass_caught_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let model = one();
    let mut recorder = Recorder::create(dir.path().join("a"), &model.taps, Config::default()).unwrap();
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    let wild = (noise(1, &[2, 4]) * 1e6).unwrap();
    pass.cross_entropy(&model.layer.forward(&wild).unwrap(), &y(2)).unwrap().backward().unwrap();
    drop(pass);
    recorder.finish().unwrap();
    let mut recorder = Recorder::create(dir.path().join("b"), &model.taps, Config::default()).unwrap();
    step(&mut recorder, &model, &[1, 2]).unwrap();
    step(&mut recorder, &model, &[1, 2]).unwrap();
    recorder.finish().unwrap();
    let norms = f32s(&dir.path().join("b"), BlockKind::Visits, Column::SquaredNorm);
    assert_eq!(norms[..2], norms[2..], "the same batch at the same weights");
}

#[test]
fn the_input_is_recorded_as_it_was_even_if_it_is_a_view_of_a_variable() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let model = one();
    let table = Var::from_tensor(&noise(4, &[6, 4])).unwrap();
    let config = Config { sketch: SketchConfig::exact(), ..Config::default() };
    let mut recorder = Recorder::create(&run, &model.taps, config).unwrap();
    let mut inputs = Vec::new();
    for _ in 0..50 {
        let mut pass = recorder.pass(&[1, 2]).unwrap();
        let x = table.narrow(0, 2, 2).unwrap();
        inputs.extend(x.to_vec2::<f32>().unwrap());
        pass.cross_entropy(&model.layer.forward(&x).unwrap(), &y(2)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        table.set(&(table.as_tensor() * 1.01).unwrap()).unwrap();
    }
    recorder.finish().unwrap();
    assert_eq!(vectors(&run, Column::Input, Column::InputScale, 0), inputs);
}

#[test]
fn an_example_with_nothing_to_predict_is_not_a_suspect() {
    use gradlog_analysis::{Score, Window};
    let dir = tempfile::tempdir().unwrap();
    let model = one();
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
        let table = score.compute(&run, &Window::everything()).unwrap();
        let last = table.rows.last().unwrap();
        assert!(last.example == 1 && last.score.is_nan(), "{score}: {last:?}");
    }
}
