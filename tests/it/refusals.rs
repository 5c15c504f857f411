//! Clear refusals: what a recorder does not take is said at once, and nothing is left behind.

use crate::common::*;
use candle_core::Module;
use candle_nn::{linear, Linear, VarMap};
use gradlog::taps::Taps;
use gradlog::{Config, RecordError, Recorder};
use gradlog_format::run::Run;
use gradlog_format::sketch::SketchConfig;

#[test]
fn batch_norm_and_names_used_twice_are_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let _ = taps.tap("bn", candle_nn::batch_norm(3, 1e-5, vb.pp("bn")).unwrap());
    let _ = taps.tap("fc", linear(4, 3, vb.pp("a")).unwrap());
    let _ = taps.tap("fc", linear(4, 3, vb.pp("b")).unwrap());
    let _ = taps.tap("folded", linear(4, 3, vb.pp("c")).unwrap());
    let error = Recorder::create(dir.path().join("run"), &taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("`bn`") && error.contains("GroupNorm"), "{error}");
    assert!(error.contains("two layers are tapped as `fc`"), "{error}");
    assert!(error.contains("`folded`, which is the name of all folded layers together"), "{error}");
    assert!(!dir.path().join("run").exists(), "nothing was made");
}

#[test]
fn a_pass_that_lacks_something_says_what() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let other = model.taps.tap("other", noise_linear(3, 3, 4));
    let mut recorder = Recorder::create(dir.path().join("run"), &model.taps, Config::default()).unwrap();
    let x = noise(1, &[3, 4]);
    let says = |error: RecordError, words: &str| assert!(error.to_string().contains(words), "{error}");
    says(recorder.pass(&[0u64; 0]).err().unwrap(), "no examples");
    says(recorder.pass(&[1, 2, 3]).unwrap().commit(0.1).unwrap_err(), "no loss");
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.cross_entropy(&model.layer.forward(&x).unwrap(), &labels(3)).unwrap();
    says(pass.commit(0.1).unwrap_err(), "backward");
    let before = model.layer.forward(&x).unwrap();
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.cross_entropy(&before, &labels(3)).unwrap().backward().unwrap();
    says(pass.commit(0.1).unwrap_err(), "no tapped layer");
    says(record_noise(&mut recorder, &model.layer, &[1, 2, 3]).unwrap_err(), "did not reach `other`");
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    let logits = (model.layer.forward(&x).unwrap() + other.forward(&x).unwrap()).unwrap();
    says(pass.cross_entropy(&logits, &labels(3)).unwrap_err(), "3 losses for 2 ids");
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
fn two_recorders_do_not_share_taps() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
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
fn a_folder_that_holds_a_run_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let error = Recorder::create(dir.path(), &one_layer(3).taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("being written by another recorder"), "{error}");
    record_noise(&mut recorder, &model.layer, &[4, 5]).unwrap();
    recorder.finish().unwrap();
    let error = Recorder::create(dir.path(), &model.taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("holds a run already"), "{error}");
    assert_eq!(visited(dir.path()), [4, 5]);
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
        Config { queue_passes: 1 << 40, ..Config::default() },
        Config { queue_passes: usize::MAX, ..Config::default() },
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
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let x = noise(1, &[3, 4]);
    let says = |error: RecordError, words: &str| assert!(error.to_string().contains(words), "{error}");
    let targets = noise(2, &[3, 3]);
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.ignore_index(-1);
    says(pass.mse(&model.layer.forward(&x).unwrap(), &targets).unwrap_err(), "for cross entropy");
    drop(pass);
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.cross_entropy(&model.layer.forward(&x).unwrap(), &labels(3)).unwrap().backward().unwrap();
    pass.weights(&[1.0, 2.0, 3.0]);
    says(pass.commit(0.1).unwrap_err(), "`weights` was set after the loss");
    let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
    pass.weights(&[1.0, 2.0]);
    says(pass.cross_entropy(&model.layer.forward(&x).unwrap(), &labels(3)).unwrap_err(), "2 weights for 3 ids");
    drop(pass);
    let frozen = Taps::new();
    let _ = frozen.tap("frozen", Linear::new(noise(3, &[3, 4]), None));
    let error = Recorder::create(dir.path().join("b"), &frozen, Config::default()).err().unwrap();
    says(error, "is not a variable");
}

#[test]
fn a_layer_that_is_tapped_too_late_is_an_error_and_no_hole() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    record_noise(&mut recorder, &model.layer, &[1, 2]).unwrap();
    let _late = model.taps.tap("late", noise_linear(3, 3, 4));
    let error = recorder.pass(&[1, 2]).err().unwrap().to_string();
    assert!(error.contains("after the recorder was created"), "{error}");
}

/// Visits wait for the learning rate of their step in memory: a loop that never ends one hears of it before it runs
/// out.
#[test]
fn a_step_that_never_ends_is_an_error_before_the_memory_ends() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { step_bytes_max: 10_000, ..Config::default() };
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), config).unwrap();
    let (ids, y) = ([1, 2, 3, 4], labels(4));
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
