//! What becomes of a run that is replayed into: refused, united, killed, resumed, damaged.

use super::*;
use gradlog::RecordError;
use gradlog_format::log::{BlockKind, Column};

#[test]
fn another_model_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    train(&model, dir.path());
    let before = Run::open(dir.path()).unwrap().verify().unwrap();
    let error = Replay::open(dir.path(), &cnn(1).taps, Config::default()).err().unwrap();
    assert!(matches!(error, RecordError::Differs { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("layer `fc1` (linear) is now `conv` (conv2d)"), "{error}");
    // The layers agree, and the variables do not: seen when weights are loaded, and none is changed.
    let other = mlp(5);
    let vb = VarBuilder::from_varmap(&other.variables, DType::F32, &Device::Cpu);
    let _ = linear(2, 2, vb.pp("extra")).unwrap();
    let weights = other.weights();
    let mut replay = Replay::open(dir.path(), &other.taps, Config::default()).unwrap();
    let error = replay.load(&replay.checkpoints()[1], &other.variables).unwrap_err().to_string();
    assert!(error.contains("it has no `extra.bias`; it has no `extra.weight`"), "{error}");
    assert_eq!(other.weights(), weights);
    drop(replay);
    let after = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!(after, before, "nothing was written");
}

#[test]
fn a_run_that_is_being_recorded_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    recorder.checkpoint(&model.variables).unwrap();
    recorder.flush().unwrap();
    let other = mlp(11);
    let error = Replay::open(dir.path(), &other.taps, Config::default()).err().unwrap();
    assert!(matches!(error, RecordError::Start(_)) && error.to_string().contains("another recorder"), "{error}");
    model.step(&mut recorder, &step(0));
    recorder.finish().unwrap();
    let replay = Replay::open(dir.path(), &other.taps, Config::default()).unwrap();
    // Nor is a replayed run recorded into or replayed at the same time.
    assert!(matches!(Recorder::resume(dir.path(), &model.taps, exact()), Err(RecordError::Start(_))));
    assert!(matches!(Replay::open(dir.path(), &model.taps, Config::default()), Err(RecordError::Start(_))));
    drop(replay);
    assert!(Replay::open(dir.path(), &model.taps, Config::default()).is_ok());
}

#[test]
fn a_replay_made_again_is_united_and_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    // The first time with the wrong labels, and not to the end.
    let mut wrong = mlp(11);
    (wrong.examples.y, wrong.probes.y) = (noisy_labels(99, EXAMPLES), noisy_labels(98, PROBES));
    replay(&wrong, dir.path(), &[5, 9]);
    replay(&model, dir.path(), &SAVED);
    let run = Run::open(dir.path()).unwrap();
    let sets = run.probe_sets().unwrap();
    assert_eq!(sets, ["asked later"]);
    let result = InfluenceQuestion::new("asked later").sweeps().steps(0..).compute(&run).unwrap();
    assert_eq!(result.left_out.probe_records_replaced, 6);
    assert_eq!((result.left_out.replaced, result.visits), (40, 80));
    assert_eq!(
        ScoreQuestion::new(Score::El2n).window(Window::sweep_at(9)).compute(&run).unwrap().left_out.replaced,
        20
    );
    assert_eq!(
        ScoreQuestion::new(Score::El2n).window(Window::sweep_at(12)).compute(&run).unwrap().left_out.replaced,
        0
    );
    check(&model, dir.path(), &weights);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_killed_replay_leaves_a_run_that_reads_as_before_and_can_be_replayed_again() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    let before = ScoreQuestion::new(Score::El2n).compute(&Run::open(dir.path()).unwrap()).unwrap();
    let replayed = tempfile::tempdir().unwrap();
    copy(dir.path(), replayed.path());
    replay(&model, replayed.path(), &SAVED);
    let segment = Path::new("segment-00001.glog");
    let whole = std::fs::read(replayed.path().join(segment)).unwrap();
    let starts: Vec<usize> = (64..whole.len()).step_by(8).filter(|at| whole[*at..].starts_with(b"GBLK")).collect();
    assert!(starts.len() > 8, "{starts:?}");
    // A kill leaves the blocks up to some place, perhaps a body without its header, and zeros.
    for (number, end) in starts.iter().enumerate().step_by(3) {
        let killed = tempfile::tempdir().unwrap();
        copy(dir.path(), killed.path());
        let mut bytes = whole[..*end].to_vec();
        bytes.resize(end + 64, 0);
        bytes.extend(&whole[(end + 64).min(whole.len())..(end + 200).min(whole.len())]);
        bytes.resize(whole.len() + 4096, 0);
        // Behind the last committed block, a body that was not: no header in it.
        bytes[end + 64..].fill(7 * u8::from(number % 2 == 1));
        std::fs::write(killed.path().join(segment), bytes).unwrap();
        let run = Run::open(killed.path()).unwrap();
        let report = run.verify().unwrap();
        assert!(report.damage.is_none() && report.finished, "{report:?}");
        assert_eq!((report.visits, report.steps, report.checkpoints), (48, STEPS, 4));
        assert_eq!(ScoreQuestion::new(Score::El2n).compute(&run).unwrap(), before);
        replay(&model, killed.path(), &SAVED);
        check(&model, killed.path(), &weights);
    }
}

#[test]
fn a_training_that_goes_back_takes_later_checkpoints_and_replays_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    // In this order a block of several steps could not be cut where the training goes back.
    replay(&model, dir.path(), &[9, 0, 12, 5]);
    model.set_weights(&weights[&5]);
    let mut recorder = Recorder::resume_at(dir.path(), &model.taps, exact(), 5).unwrap();
    for number in 5..8 {
        model.step(&mut recorder, &step(number));
    }
    // It does not know the step before its own first one; the run does.
    recorder.checkpoint(&model.variables).unwrap();
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let saved: Vec<_> = run.checkpoints().unwrap().into_iter().map(|c| (c.step, c.learning_rate)).collect();
    assert_eq!(saved, [(0, Some(rate(0) as f32)), (5, Some(rate(4) as f32)), (8, Some(rate(7) as f32))]);
    let swept = ScoreQuestion::new(Score::El2n).window(Window::sweeps()).compute(&run).unwrap();
    assert_eq!(swept.basis.to_string(), "sweeps at 2 checkpoints, steps 0 to 5, evaluation mode");
    assert_eq!(InfluenceQuestion::new("asked later").id(1).compute(&run).unwrap().probe_times, 2);
    // A replay is no training: going on after it begins at the step after the last.
    replay(&model, dir.path(), &[8]);
    let mut recorder = Recorder::resume(dir.path(), &model.taps, exact()).unwrap();
    recorder.checkpoint(&model.variables).unwrap();
    model.step(&mut recorder, &step(8));
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let steps: Vec<u64> =
        blocks(dir.path(), BlockKind::Steps).iter().flat_map(|b| b.u64s(Column::Step).unwrap()).collect();
    assert_eq!(steps, (0..9).collect::<Vec<_>>());
    // The weights before step 8 are those that the sweep at 8 saw, so it stays.
    let swept = ScoreQuestion::new(Score::El2n).window(Window::sweeps()).compute(&run).unwrap();
    assert_eq!(swept.basis.to_string(), "sweeps at 3 checkpoints, steps 0 to 8, evaluation mode");
    assert!(run.verify().unwrap().finished);
}

#[test]
fn a_replay_segment_with_a_damaged_header_makes_nothing_void_when_it_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    replay(&model, dir.path(), &[9, 0, 12, 5]);
    let segment = dir.path().join("segment-00001.glog");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[41] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_some());
    let to = tempfile::tempdir().unwrap();
    let new = to.path().join("new");
    let report = Run::open(dir.path()).unwrap().recover(&new).unwrap();
    assert!(report.survey.is_whole(), "{:?}", report.survey);
    assert_eq!((report.written.visits, report.written.superseded, report.written.sweeps), (48, 0, 80));
    assert!(report.written.finished && report.written.checkpoint_faults.is_empty(), "{:?}", report.written);
    check(&model, &new, &weights);
}
