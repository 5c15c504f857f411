//! What a replay says against candle's own backward at the same weights, and what it says that it is.

use super::*;
use gradlog_analysis::{BasisRows, InfluenceQuestion, Score, ScoreQuestion, Source, Window};
use gradlog_format::log::Mode;

#[test]
fn a_replay_of_an_mlp_is_exact_tracin_el2n_and_grand() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    let before = ScoreQuestion::new(Score::Loss).compute(&Run::open(dir.path()).unwrap()).unwrap();
    // Another program, with a model of the same shape and other weights; and the checkpoints in no order.
    let later = mlp(77);
    let summary = replay(&later, dir.path(), &[9, 0, 12, 5]);
    assert_eq!((summary.probes, summary.swept_examples), (12, 80));
    check(&later, dir.path(), &weights);
    let of_epoch = Window::sweeps().with_epochs(1..2);
    let table =
        ScoreQuestion::new(Score::El2n).window(of_epoch.clone()).compute(&Run::open(dir.path()).unwrap()).unwrap();
    assert_eq!(table.basis.to_string(), "sweeps at 2 checkpoints, steps 5 to 9, evaluation mode");
    // What the training recorded is as it was, and says that it is something else.
    let run = Run::open(dir.path()).unwrap();
    let after = ScoreQuestion::new(Score::Loss).compute(&run).unwrap();
    assert_eq!(after, before);
    assert_eq!((after.basis.to_string().as_str(), after.visits), ("visits, training mode", 4 * STEPS));
    // Visits can be asked about the later probes too: each counts at its checkpoint's step.
    let visits = InfluenceQuestion::new("asked later").id(1).compute(&run).unwrap();
    assert_eq!((visits.basis.rows, visits.probe_times, visits.visits), (BasisRows::Visits, 4, 4 * STEPS));
    assert_eq!((visits.left_out.before_first_probe, visits.visits_at_probe_times), (0, 4 * 3));
    let report = run.verify().unwrap();
    assert!(report.finished && report.damage.is_none() && report.checkpoint_faults.is_empty(), "{report:?}");
    assert_eq!((report.visits, report.probes, report.sweeps, report.checkpoints), (48, 12, 80, 4));
}

#[test]
fn a_replay_of_a_cnn_is_exact_tracin_el2n_and_grand() {
    let dir = tempfile::tempdir().unwrap();
    let model = cnn(11);
    let weights = train(&model, dir.path());
    replay(&model, dir.path(), &SAVED);
    check(&model, dir.path(), &weights);
}

#[test]
fn weights_of_ones_own_and_training_mode() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    let mut replay = Replay::open(dir.path(), &model.taps, Config::default()).unwrap();
    assert!(replay.sweep(&[1]).is_err(), "no weights were loaded");
    assert!(replay.set_weights_step(STEPS + 1, 0, 0.1).err().unwrap().to_string().contains("12 steps"));
    model.set_weights(&weights[&9]);
    replay.set_weights_step(9, 1, 0.25).unwrap();
    replay.set_mode(Mode::Training);
    sweep(&model, &mut replay);
    replay.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let table = ScoreQuestion::new(Score::SelfInfluence).window(Window::sweeps()).compute(&run).unwrap();
    assert_eq!(table.basis.rows.to_string(), "sweep at checkpoint step 9, training mode");
    let g = model.loss_gradient(&model.examples, 3);
    assert!((f64::from(score_by_example(&table, EXAMPLES)[3]) - 0.25 * dot(&g, &g)).abs() < 1e-4 * dot(&g, &g));
    // What is not there is said with what there is.
    let error = ScoreQuestion::new(Score::El2n).window(Window::sweep_at(5)).compute(&run).unwrap_err().to_string();
    assert!(error.contains("sweeps at the checkpoints of steps 9"), "{error}");
    let error = ScoreQuestion::new(Score::Forgetting).window(Window::sweeps()).compute(&run).unwrap_err().to_string();
    assert!(error.contains("not defined on sweeps"), "{error}");
    assert_eq!(Window::sweeps().source, Source::Sweeps);
}
