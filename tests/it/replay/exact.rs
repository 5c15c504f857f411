//! What a replay says against candle's own backward at the same weights, and what it says that it is.

use super::*;
use gradlog::Mode;
use gradlog_analysis::{Basis, Source};

#[test]
fn a_replay_of_an_mlp_is_exact_tracin_el2n_and_grand() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = model.train(dir.path());
    let before = Score::Loss.compute(&Run::open(dir.path()).unwrap(), &Window::everything()).unwrap();
    // Another program, with a model of the same shape and other weights; and the checkpoints in no order.
    let later = mlp(77);
    let summary = later.replay(dir.path(), &[9, 0, 12, 5]);
    assert_eq!((summary.probes, summary.sweeps), (12, 80));
    check(&later, dir.path(), &weights);
    let of_epoch = Window { epochs: Some(1..2), ..Window::sweeps() };
    let table = Score::El2n.compute(&Run::open(dir.path()).unwrap(), &of_epoch).unwrap();
    assert_eq!(table.basis.to_string(), "sweeps at 2 checkpoints, steps 5 to 9, evaluation mode");
    // What the training recorded is as it was, and says that it is something else.
    let run = Run::open(dir.path()).unwrap();
    let after = Score::Loss.compute(&run, &Window::everything()).unwrap();
    assert_eq!(after, before);
    assert_eq!((after.basis.to_string().as_str(), after.visits), ("visits, training mode", 4 * STEPS));
    // Visits can be asked about the later probes too: each counts at its checkpoint's step.
    let visits = influence(&run, &Question::one("asked later", 1)).unwrap();
    assert_eq!((visits.basis, visits.probe_times, visits.visits), (Basis::Visits, 4, 4 * STEPS));
    assert_eq!((visits.left_out.before_first_probe, visits.visits_at_probe_times), (0, 4 * 3));
    let report = run.verify().unwrap();
    assert!(report.finished && report.damage.is_none() && report.checkpoint_faults.is_empty(), "{report:?}");
    assert_eq!((report.visits, report.probes, report.sweeps, report.checkpoints), (48, 12, 80, 4));
}

#[test]
fn a_replay_of_a_cnn_is_exact_tracin_el2n_and_grand() {
    let dir = tempfile::tempdir().unwrap();
    let model = cnn(11);
    let weights = model.train(dir.path());
    model.replay(dir.path(), &SAVED);
    check(&model, dir.path(), &weights);
}

#[test]
fn weights_of_ones_own_and_training_mode() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = model.train(dir.path());
    let mut replay = Replay::open(dir.path(), &model.taps, Config::default()).unwrap();
    assert!(replay.sweep(&[1]).is_err(), "no weights were loaded");
    assert!(replay.set_weights_step(STEPS + 1, 0, 0.1).err().unwrap().to_string().contains("12 steps"));
    model.set(&weights[&9]);
    replay.set_weights_step(9, 1, 0.25).unwrap();
    replay.set_mode(Mode::Training);
    model.sweep(&mut replay);
    replay.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let table = Score::SelfInfluence.compute(&run, &Window::sweeps()).unwrap();
    assert_eq!(table.basis.to_string(), "sweep at checkpoint step 9, training mode");
    let g = model.loss_gradient(&model.x, &model.y, 3);
    assert!((f64::from(by_example(&table)[3]) - 0.25 * dot(&g, &g)).abs() < 1e-4 * dot(&g, &g));
    // What is not there is said with what there is.
    let error = Score::El2n.compute(&run, &Window::sweep_at(5)).unwrap_err().to_string();
    assert!(error.contains("sweeps at the checkpoints of steps 9"), "{error}");
    let error = Score::Forgetting.compute(&run, &Window::sweeps()).unwrap_err().to_string();
    assert!(error.contains("not defined on sweeps"), "{error}");
    assert_eq!(Window::sweeps().source, Source::Sweeps);
}

/// Runs the command; exit code, stdout, stderr.
fn gradlog(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_gradlog-under-test")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_says_what_a_result_stands_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    model.train(dir.path());
    let path = dir.path().to_str().unwrap();
    let (code, _, words) = gradlog(&["scores", path, "--score", "el2n", "--at", "sweep"]);
    assert!(code == Some(1) && words.contains("this run has no sweeps: `Replay::sweep` makes them"), "{words}");
    model.replay(dir.path(), &SAVED);
    let (_, visits, words) = gradlog(&["scores", path, "--score", "el2n", "--format", "csv"]);
    assert!(visits.starts_with("example,visits,score") && words.contains("48 visits, training mode"), "{words}");
    let (code, swept, words) = gradlog(&["scores", path, "--score", "el2n", "--at", "sweep:9", "--format", "csv"]);
    assert!(code == Some(0) && swept.starts_with("example,checkpoints,score"), "{words}{swept}");
    assert!(words.contains("sweep at checkpoint step 9, evaluation mode"), "{words}");
    let (_, json, _) = gradlog(&["scores", path, "--score", "grand", "--at", "sweep", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["basis"], "sweeps at 4 checkpoints, steps 0 to 12, evaluation mode");
    assert_eq!(json["rows"][0]["checkpoints"], 4);
    let narrow = gradlog(&["scores", path, "--score", "grand", "--at", "sweep:9", "--steps", "0..5"]);
    assert!(narrow.0 == Some(1) && narrow.2.contains("no example was swept there"), "{}", narrow.2);
    assert_eq!(gradlog(&["scores", path, "--score", "grand", "--at", "sweeps"]).0, Some(2));

    let asked = ["influence", path, "--probe", "asked later", "--id", "1", "--format", "json"];
    let json = |more: &[&str]| {
        let (code, out, words) = gradlog(&[&asked, more].concat());
        assert_eq!(code, Some(0), "{words}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    let (by_flag, by_rows) = (json(&["--checkpoints"]), json(&["--at", "sweep"]));
    assert_eq!(by_flag, by_rows);
    assert!(by_flag["variant"].as_str().unwrap().contains("TracInCP (Pruthi et al. 2020)"), "{by_flag}");
    assert_eq!((&by_flag["visits"], &by_flag["rows"][0]["checkpoints"]), (&80.into(), &4.into()));
    let visits = json(&[]);
    assert_eq!((&visits["basis"], &visits["visits"]), (&"visits, training mode".into(), &48.into()));
    assert_ne!(visits["rows"], by_flag["rows"]);

    let (code, out, _) = gradlog(&["verify", path]);
    assert!(code == Some(0) && out.contains("swept         80\n") && out.contains("checkpoints   4\n"), "{out}");
    let file = |step: u64| dir.path().join(format!("checkpoints/step-{step:08}.safetensors"));
    std::fs::remove_file(file(5)).unwrap();
    let (code, out, words) = gradlog(&["verify", path]);
    assert!(code == Some(0) && out.contains("4, 1 of them lost or damaged"), "{out}");
    assert!(words.contains("note: checkpoint of step 5: its file is not there"), "{words}");
    std::fs::write(file(9), b"something else").unwrap();
    let (code, _, words) = gradlog(&["verify", path]);
    assert!(code == Some(3) && words.contains("warning: checkpoint of step 9"), "{words}");
    let (_, out, _) = gradlog(&["info", path, "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let files: Vec<&str> =
        json["checkpoints"].as_array().unwrap().iter().map(|c| c["file"].as_str().unwrap()).collect();
    assert!(files[0] == "there" && files[1].contains("not there") && files[2].contains("bytes where"), "{files:?}");
    assert_eq!(json["sweeps"][1], serde_json::json!({"step": 5, "rows": 20, "modes": ["evaluation mode"]}));
    assert_eq!(json["finished"], true);
}
