//! Checkpoints: what is saved, what is said of it, and what becomes of a file that is lost or was never written.

use super::*;
use gradlog::RecordError;
use gradlog_format::log::BlockKind;
use gradlog_format::run::CheckpointFault;

#[test]
fn a_checkpoint_holds_the_weights_and_what_the_run_says_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    let checkpoints = Run::open(dir.path()).unwrap().checkpoints().unwrap();
    assert_eq!(checkpoints.iter().map(|c| c.step).collect::<Vec<_>>(), SAVED);
    for checkpoint in &checkpoints {
        let step = checkpoint.step;
        assert_eq!(checkpoint.epoch, (step / 5) as u32);
        assert_eq!(checkpoint.learning_rate, Some(rate(step.saturating_sub(1)) as f32), "{step}");
        assert_eq!(checkpoint.path, dir.path().join(format!("checkpoints/step-{step:08}.safetensors")));
        assert_eq!(checkpoint.check(), Ok(()));
        let tensors = candle_core::safetensors::load(&checkpoint.path, &Device::Cpu).unwrap();
        let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
        assert_eq!(tensors.keys().collect::<Vec<_>>(), model.named().keys().collect::<Vec<_>>());
        assert_eq!(tensors.values().map(numbers).collect::<Vec<_>>(), weights[&step]);
    }
    // All visits before a checkpoint come before it in the run.
    let (mut visits, mut seen) = (0, Vec::new());
    for block in Run::open(dir.path()).unwrap().scan() {
        match block.kind() {
            Some(BlockKind::Visits) => visits += block.rows() as u64,
            Some(BlockKind::Checkpoints) => seen.push((block.steps().0, visits)),
            _ => {}
        }
    }
    assert_eq!(seen, SAVED.map(|step| (step, 4 * step)));
    let files = std::fs::read_dir(dir.path().join("checkpoints")).unwrap().count();
    assert_eq!(files, SAVED.len(), "nothing is left beside them");
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_an_error_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    std::fs::write(dir.path().join("checkpoints"), "in the way").unwrap();
    for number in 0..3 {
        let error = recorder.checkpoint(&model.variables).unwrap_err();
        assert!(matches!(&error, RecordError::Checkpoint { step: at, .. } if *at == number), "{error}");
        model.step(&mut recorder, &step(number));
    }
    std::fs::remove_file(dir.path().join("checkpoints")).unwrap();
    let twice = [("a".to_owned(), noise(1, &[2])), ("a".to_owned(), noise(2, &[2]))];
    let error = recorder.checkpoint_tensors(twice).unwrap_err().to_string();
    assert!(error.contains("two tensors are called `a`"), "{error}");
    recorder.checkpoint(&model.variables).unwrap();
    // An empty map would replace the good file.
    let error = recorder.checkpoint(&candle_nn::VarMap::new()).unwrap_err();
    assert!(matches!(&error, RecordError::Pass { step: 3, what } if what.contains("without variables")), "{error}");
    recorder.finish().unwrap();
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.visits, report.checkpoints, report.finished), (12, 1, true));
}

#[test]
fn a_lost_or_damaged_checkpoint_is_said_and_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    train(&model, dir.path());
    let checkpoints = Run::open(dir.path()).unwrap().checkpoints().unwrap();
    std::fs::remove_file(&checkpoints[0].path).unwrap();
    let mut bytes = std::fs::read(&checkpoints[1].path).unwrap();
    let at = bytes.len() - 3;
    bytes[at] ^= 4;
    std::fs::write(&checkpoints[1].path, &bytes).unwrap();
    std::fs::write(&checkpoints[2].path, &bytes[..at]).unwrap();
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert!(report.damage.is_none() && report.finished);
    let faults: Vec<u64> = report.checkpoint_faults.iter().map(|(step, _)| *step).collect();
    assert_eq!(faults, [0, 5, 9]);
    assert_eq!(report.checkpoint_faults[0].1, CheckpointFault::Lost);
    let mut replay = Replay::open(dir.path(), &model.taps, Config::default()).unwrap();
    let weights = model.weights();
    for (checkpoint, why) in replay.checkpoints().iter().zip(["not there", "checksum", "bytes where the log says"]) {
        let error = replay.load(checkpoint, &model.variables).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(&format!("step {}", checkpoint.step)), "{error}");
        assert!(replay.probe("later", &[1]).is_err(), "nothing was loaded");
    }
    assert_eq!(model.weights(), weights);
    replay.load(&replay.checkpoints()[3], &model.variables).unwrap();
    assert!(replay.probe("later", &[1]).is_ok());
}
