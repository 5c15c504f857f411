//! A replay of a run that several workers recorded: it takes their checkpoints, adds to one part, and is read with all
//! of them.

use super::*;
use gradlog::{OnFailure, RecordError, Reduction, Worker};

fn worker(rank: u32) -> Config {
    Config { worker: Some(Worker { rank, workers: 2, reduction: Reduction::Mean }), ..exact() }
}

/// Two workers with the same weights at every step. The first saves the checkpoints, and both save that of step 9.
fn train_two(dir: &Path) -> Weights {
    let (first, second) = (mlp(11), mlp(11));
    let mut recorder = Recorder::create(dir, &first.taps, worker(0)).unwrap();
    let mut other = Recorder::create(dir, &second.taps, worker(1)).unwrap();
    let mut weights = BTreeMap::new();
    let mut save = |recorder: &mut Recorder, other: &mut Recorder, number: u64| {
        if SAVED.contains(&number) {
            for (recorder, model) in
                [(recorder, &first), (other, &second)].into_iter().take(1 + usize::from(number == 9))
            {
                recorder.set_epoch((number / 5) as u32);
                recorder.checkpoint(&model.variables).unwrap();
            }
            weights.insert(number, first.weights());
        }
    };
    first.train(&mut recorder, (0..STEPS).map(step), |recorder, step| {
        second.set_weights(&first.weights());
        save(recorder, &mut other, step.number);
        second.step(&mut other, step);
    });
    second.set_weights(&first.weights());
    save(&mut recorder, &mut other, STEPS);
    recorder.finish().unwrap();
    other.finish().unwrap();
    weights
}

#[test]
fn a_replay_adds_to_one_part_and_is_read_with_all() {
    let dir = tempfile::tempdir().unwrap();
    let weights = train_two(dir.path());
    let visits = |run: &Run| ScoreQuestion::new(Score::Loss).compute(run).unwrap();
    let before = visits(&Run::open(dir.path()).unwrap());
    assert_eq!(before.visits, 2 * 4 * STEPS);

    let later = mlp(77);
    replay(&later, dir.path(), &[9, 0, 12, 5]);
    check(&later, dir.path(), &weights);
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(visits(&run), before);
    assert_eq!(run.workers().unwrap().unwrap().notes(), [""; 0]);
    let report = run.verify().unwrap();
    assert!(report.finished && report.damage.is_none() && report.checkpoint_faults.is_empty(), "{report:?}");
    assert_eq!((report.visits, report.probes, report.sweeps, report.checkpoints), (96, 12, 80, 5));
    let checkpoints = run.checkpoints().unwrap();
    assert_eq!(checkpoints.iter().map(|c| c.step).collect::<Vec<_>>(), SAVED);
    assert!(checkpoints.iter().all(|c| c.path.starts_with(dir.path().join("worker-0000"))), "{checkpoints:?}");

    // Made again into the other part, while one can: of two rows of one example at one checkpoint one counts.
    let mut again = Replay::open(dir.path(), &later.taps, worker(1)).unwrap();
    for checkpoint in again.checkpoints() {
        again.load(&checkpoint, &later.variables).unwrap();
        sweep(&later, &mut again);
    }
    assert_eq!(again.finish().unwrap().swept_examples, 80);
    let table =
        ScoreQuestion::new(Score::Grand).window(Window::sweeps()).compute(&Run::open(dir.path()).unwrap()).unwrap();
    assert_eq!(table.left_out.replaced, 80);
    check(&later, dir.path(), &weights);

    let to = dir.path().join("recovered");
    let report = Run::open(dir.path()).unwrap().recover(&to).unwrap().written;
    assert!(report.finished && report.checkpoint_faults.is_empty(), "{report:?}");
    assert_eq!((report.sweeps, report.checkpoints), (160, 5));
    check(&later, &to, &weights);
}

#[test]
fn what_is_no_part_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    train_two(dir.path());
    let later = mlp(77);
    let refused = |path: &Path, config: Config| Replay::open(path, &later.taps, config).err().unwrap();
    std::fs::remove_dir_all(dir.path().join("worker-0001")).unwrap();
    let error = refused(dir.path(), worker(1));
    assert!(matches!(error, RecordError::Replay(_)) && error.to_string().contains("worker 1 has no part"), "{error}");
    let alone = tempfile::tempdir().unwrap();
    super::train(&mlp(11), alone.path());
    let error = refused(alone.path(), worker(1));
    assert!(error.to_string().contains("it is a whole run, now it is to be the part of worker 1"), "{error}");
    // While one worker records, nobody replays.
    let again = mlp(11);
    let recorder = Recorder::resume_at(dir.path(), &again.taps, worker(0), 9).unwrap();
    assert!(matches!(refused(dir.path(), Config::default()), RecordError::Start(_)));
    recorder.finish().unwrap();
    // A part that stands alone is a run of its own; and a replay that fails says so whatever the training was told to
    // do.
    let config = Config { on_failure: OnFailure::GoOn, ..Config::default() };
    let mut replay = Replay::open(dir.path().join("worker-0000"), &later.taps, config).unwrap();
    assert_eq!(replay.checkpoints().iter().map(|c| c.step).collect::<Vec<_>>(), [0, 5, 9]);
    std::fs::remove_dir_all(dir.path()).unwrap();
    replay.set_weights_step(5, 1, 0.1).unwrap();
    let mut ask = || -> std::result::Result<(), RecordError> {
        let mut probe = replay.probe("asked later", &[0, 1, 2])?;
        probe.cross_entropy(&later.logits(&later.probes.x)?, &later.probes.y)?.backward()?;
        probe.commit()
    };
    let error = ask().err().or_else(|| replay.finish().err()).unwrap();
    assert!(matches!(error, RecordError::Log(_)), "{error}");
}
