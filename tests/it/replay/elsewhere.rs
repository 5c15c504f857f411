//! Checkpoints that no recorder saved: a run of sweeps alone against candle's own backward, what is refused, and what
//! the command says of such a run.

use super::*;
use candle_core::safetensors::save;
use gradlog::{CheckpointInfo, RecordError};
use gradlog_analysis::BasisRows;
use std::collections::HashMap;
use std::path::PathBuf;

/// Weights at some steps, as if another program had trained them, and the files that it left. Each file holds a tensor
/// more than the model has.
fn train_elsewhere(model: &Network, dir: &Path) -> (Weights, HashMap<u64, PathBuf>) {
    let (mut weights, mut files) = (BTreeMap::new(), HashMap::new());
    for step in SAVED {
        for (number, variable) in model.named().values().enumerate() {
            let values = noise(100 * step + number as u64 + 1, variable.dims());
            variable.set(&(values * 0.5).unwrap()).unwrap();
        }
        weights.insert(step, model.weights());
        let mut tensors: HashMap<String, Tensor> =
            model.named().into_iter().map(|(name, variable)| (name, variable.as_detached_tensor())).collect();
        tensors.insert("bn.num_batches_tracked".into(), Tensor::new(7i64, &Device::Cpu).unwrap());
        let path = dir.join(format!("step-{step}.safetensors"));
        save(&tensors, &path).unwrap();
        files.insert(step, path);
    }
    (weights, files)
}

/// What is known of the checkpoint of a step, with the rate that `check` expects.
fn info(step: u64) -> CheckpointInfo {
    CheckpointInfo::new(step).epoch((step / 5) as u32).learning_rate(rate(step.saturating_sub(1)))
}

fn sweep_elsewhere(model: &Network, run: &Path, files: &HashMap<u64, PathBuf>, steps: &[u64]) -> ReplaySummary {
    let mut replay = Replay::create(run, &model.taps, exact()).unwrap();
    for step in steps {
        replay.load_file(&files[step], &model.variables, info(*step)).unwrap();
        ask(model, &mut replay);
        sweep(model, &mut replay);
    }
    replay.finish().unwrap()
}

#[test]
fn sweeps_of_checkpoints_from_elsewhere_are_exact_tracin_el2n_and_grand() {
    for model in [mlp(11), cnn(11)] {
        let dir = tempfile::tempdir().unwrap();
        let (weights, files) = train_elsewhere(&model, dir.path());
        let run = dir.path().join("run");
        let summary = sweep_elsewhere(&model, &run, &files, &[9, 0, 12, 5]);
        assert_eq!((summary.probes, summary.swept_examples), (12, 80));
        check(&model, &run, &weights);
        let report = Run::open(&run).unwrap().verify().unwrap();
        assert!(report.finished && report.damage.is_none(), "{report:?}");
        assert_eq!((report.visits, report.steps, report.probes, report.sweeps), (0, 0, 12, 80));
    }
}

#[test]
fn tensors_by_name_do_as_files_do_and_an_unknown_rate_is_left_out_with_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let (weights, files) = train_elsewhere(&model, dir.path());
    let run = dir.path().join("run");
    let mut replay = Replay::create(&run, &model.taps, exact()).unwrap();
    let tensors = candle_core::safetensors::load(&files[&9], &Device::Cpu).unwrap();
    replay.load_tensors(&tensors, &model.variables, CheckpointInfo::new(9)).unwrap();
    assert_eq!(model.weights(), weights[&9]);
    ask(&model, &mut replay);
    sweep(&model, &mut replay);
    replay.finish().unwrap();
    let run = Run::open(&run).unwrap();
    let grand = ScoreQuestion::new(Score::Grand).window(Window::sweeps()).compute(&run).unwrap();
    let want: Vec<f32> = (0..EXAMPLES).map(|i| norm(&model.loss_gradient(&model.examples, i)) as f32).collect();
    assert!(relative_error(&score_by_example(&grand, EXAMPLES), &want) < 1e-4);
    let influence = InfluenceQuestion::new("asked later").sweeps().compute(&run).unwrap();
    assert!(influence.scores.iter().all(|score| score.is_nan()), "{:?}", influence.scores);
    assert_eq!(influence.left_out.not_finite, EXAMPLES as u64, "{:?}", influence.left_out);
}

#[test]
fn a_later_replay_adds_probes_at_any_step() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let (weights, files) = train_elsewhere(&model, dir.path());
    let run = dir.path().join("run");
    // Killed before it was done: nothing says that it ended.
    let mut replay = Replay::create(&run, &model.taps, exact()).unwrap();
    for step in [0, 5] {
        replay.load_file(&files[&step], &model.variables, info(step)).unwrap();
        ask(&model, &mut replay);
        sweep(&model, &mut replay);
    }
    drop(replay);
    assert!(!Run::open(&run).unwrap().verify().unwrap().finished);
    let mut replay = Replay::open(&run, &model.taps, Config::default()).unwrap();
    assert!(replay.checkpoints().is_empty());
    for step in [9, 12] {
        replay.load_file(&files[&step], &model.variables, info(step)).unwrap();
        ask(&model, &mut replay);
        sweep(&model, &mut replay);
    }
    replay.finish().unwrap();
    check(&model, &run, &weights);
    let report = Run::open(&run).unwrap().verify().unwrap();
    assert!(report.finished && report.damage.is_none(), "{report:?}");
    assert_eq!((report.probes, report.sweeps), (12, 80));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_no_weight() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let (_, files) = train_elsewhere(&model, dir.path());
    let run = dir.path().join("run");
    let mut replay = Replay::create(&run, &model.taps, exact()).unwrap();
    assert!(replay.sweep(&[1]).unwrap_err().to_string().contains("load_file"), "no weights were loaded");
    replay.load_file(&files[&5], &model.variables, info(5)).unwrap();
    let weights = model.weights();
    let tensors = candle_core::safetensors::load(&files[&9], &Device::Cpu).unwrap();
    let with = |name: &str, tensor: Option<Tensor>| {
        let mut tensors = tensors.clone();
        tensors.remove(name);
        tensors.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        tensors
    };
    let wide = Tensor::zeros((8, 6), DType::F64, &Device::Cpu).unwrap();
    std::fs::write(dir.path().join("text"), "no weights").unwrap();
    let mut refuse = |tensors: Option<HashMap<String, Tensor>>, path: &Path, info, words: &str| {
        let refused = match tensors {
            Some(tensors) => replay.load_tensors(&tensors, &model.variables, info),
            None => replay.load_file(path, &model.variables, info),
        };
        let error = refused.unwrap_err();
        assert!(matches!(&error, RecordError::Replay(_)) && error.to_string().contains(words), "{error}");
        assert_eq!(model.weights(), weights, "{words}");
    };
    let none = Path::new("");
    refuse(Some(with("fc2.bias", None)), none, info(9), "it has no `fc2.bias`");
    refuse(Some(with("fc2.bias", Some(noise(1, &[4])))), none, info(9), "`fc2.bias` is [4] F32 there");
    refuse(Some(with("fc1.weight", Some(wide))), none, info(9), "F64 there and [8, 6] F32 here");
    refuse(Some(tensors.clone()), none, info(9).learning_rate(f64::NAN), "learning rate is NaN");
    refuse(None, &dir.path().join("nowhere"), info(9), "nowhere");
    refuse(None, &dir.path().join("text"), info(9), "cannot be loaded");
    // One step has one set of weights: else the sweeps of the second would replace those of the first.
    refuse(None, &files[&9], info(5), "other weights at step 5");
    replay.load_file(&files[&9], &model.variables, info(9)).unwrap();
    replay.load_file(&files[&5], &model.variables, info(5)).unwrap();
    assert_eq!(model.weights(), weights);
}

#[test]
fn damaged_files_are_errors_and_no_panics() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let (_, files) = train_elsewhere(&model, dir.path());
    let bytes = std::fs::read(&files[&9]).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut replay = Replay::create(dir.path().join("run"), &model.taps, exact()).unwrap();
    let path = dir.path().join("damaged");
    let (mut loaded, mut refused) = (0, 0);
    let mut load = |bytes: &[u8], step: u64| {
        std::fs::write(&path, bytes).unwrap();
        match replay.load_file(&path, &model.variables, CheckpointInfo::new(step)) {
            Ok(()) => loaded += 1,
            Err(RecordError::Replay(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    };
    for at in 0..header {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            load(&flipped, (at * 8 + bit) as u64);
        }
    }
    for length in 0..bytes.len() {
        load(&bytes[..length], (bytes.len() * 8 + length) as u64);
    }
    assert!(refused > bytes.len() && loaded < header * 8, "{loaded} {refused}");
}

#[test]
fn a_training_and_a_run_of_sweeps_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let (_, files) = train_elsewhere(&model, dir.path());
    let run = dir.path().join("run");
    sweep_elsewhere(&model, &run, &files, &SAVED);
    for resumed in [Recorder::resume(&run, &model.taps, exact()), Recorder::resume_at(&run, &model.taps, exact(), 0)] {
        let error = resumed.unwrap_err();
        assert!(matches!(&error, RecordError::Resume(what) if what.contains("no training")), "{error}");
    }
    let again = Replay::create(&run, &model.taps, exact()).unwrap_err();
    assert!(matches!(again, RecordError::Start(_)), "{again}");
    let worker = Some(gradlog::Worker::new(0, 2));
    let error = Replay::create(dir.path().join("part"), &model.taps, Config { worker, ..exact() }).unwrap_err();
    assert!(matches!(error, RecordError::Config(_)), "{error}");
    // A recorded training that is replayed is a training still.
    let trained = dir.path().join("trained");
    train(&model, &trained);
    replay(&model, &trained, &SAVED);
    let mut replay = Replay::open(&trained, &model.taps, Config::default()).unwrap();
    let error = replay.load_file(&files[&9], &model.variables, info(STEPS + 1)).unwrap_err().to_string();
    assert!(error.contains("12 steps"), "{error}");
    drop(replay);
    Recorder::resume(&trained, &model.taps, exact()).unwrap();
}

#[test]
fn the_command_answers_from_a_run_of_sweeps() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let (_, files) = train_elsewhere(&model, dir.path());
    let run = dir.path().join("run");
    sweep_elsewhere(&model, &run, &files, &SAVED);
    let path = run.to_str().unwrap();
    let json =
        gradlog(&["influence", path, "--probe", "asked later", "--id", "1", "--at", "sweep", "--format", "json"])
            .json();
    // The sweep at step 0 does not join sums by itself.
    assert_eq!((&json["visits"], &json["rows"][0]["checkpoints"]), (&60.into(), &3.into()));
    let influence =
        InfluenceQuestion::new("asked later").sweeps().steps(0..).compute(&Run::open(&run).unwrap()).unwrap();
    assert!(matches!(&influence.basis.rows, BasisRows::Sweeps { steps, .. } if steps[..] == SAVED));
    let said = gradlog(&["info", path, "--format", "json"]).json();
    assert_eq!((said["sweeps"].as_array().unwrap().len(), &said["finished"]), (4, &true.into()));
    assert_eq!(gradlog(&["verify", path]).code, Some(0));
}
