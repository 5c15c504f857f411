//! The command on a run with checkpoints and sweeps.

use super::*;
use serde_json::json;
use std::path::PathBuf;

/// A trained run, and the path of its folder.
fn trained() -> (tempfile::TempDir, Network, String) {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    train(&model, dir.path());
    let path = dir.path().to_str().unwrap().to_owned();
    (dir, model, path)
}

/// A trained run that was replayed at every checkpoint.
fn replayed() -> (tempfile::TempDir, String) {
    let (dir, model, path) = trained();
    replay(&model, dir.path(), &SAVED);
    (dir, path)
}

fn checkpoint_file(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("checkpoints/step-{step:08}.safetensors"))
}

#[test]
fn sweeps_that_are_not_there_are_named_with_what_makes_them() {
    let (_dir, _, path) = trained();
    let said = gradlog(&["scores", &path, "--score", "el2n", "--at", "sweep"]);
    let words = "this run has no sweeps: `Replay::sweep` makes them";
    assert!(said.code == Some(1) && said.err.contains(words), "{}", said.err);
}

#[test]
fn scores_say_whether_they_are_of_visits_or_of_sweeps() {
    let (_dir, path) = replayed();
    let visits = gradlog(&["scores", &path, "--score", "el2n", "--format", "csv"]);
    assert!(visits.out.starts_with("# visits, training mode\nexample,visits,score"), "{}", visits.out);
    assert!(visits.err.contains("48 visits, training mode"), "{}", visits.err);
    let swept = gradlog(&["scores", &path, "--score", "el2n", "--at", "sweep:9", "--format", "csv"]);
    assert!(swept.code == Some(0) && swept.out.contains("\nexample,checkpoints,score"), "{}", swept.out);
    assert!(swept.err.contains("sweep at checkpoint step 9, evaluation mode"), "{}", swept.err);
    let json = gradlog(&["scores", &path, "--score", "grand", "--at", "sweep", "--format", "json"]).json();
    let basis = json["basis"].as_str().unwrap();
    assert!(basis.starts_with("sweeps at 4 checkpoints, steps 0 to 12, evaluation mode; gradients of "), "{basis}");
    assert_eq!(json["rows"][0]["checkpoints"], 4);
}

#[test]
fn a_window_without_sweeps_and_a_misspelled_one_are_refused() {
    let (_dir, path) = replayed();
    let narrow = gradlog(&["scores", &path, "--score", "grand", "--at", "sweep:9", "--steps", "0..5"]);
    assert!(narrow.code == Some(1) && narrow.err.contains("no example was swept there"), "{}", narrow.err);
    assert_eq!(gradlog(&["scores", &path, "--score", "grand", "--at", "sweeps"]).code, Some(2));
}

#[test]
fn influence_at_checkpoints_is_tracincp() {
    let (_dir, path) = replayed();
    let asked = ["influence", &path, "--probe", "asked later", "--id", "1", "--format", "json"];
    let json = |more: &[&str]| gradlog(&[&asked, more].concat()).json();
    let (by_flag, by_rows) = (json(&["--checkpoints"]), json(&["--at", "sweep"]));
    assert_eq!(by_flag, by_rows);
    assert!(by_flag["variant"].as_str().unwrap().contains("TracInCP (Pruthi et al. 2020)"), "{by_flag}");
    // The sweep at step 0 joins the sum only if it is asked for.
    assert_eq!((&by_flag["visits"], &by_flag["rows"][0]["checkpoints"]), (&60.into(), &3.into()));
    assert!(by_flag["basis"].as_str().unwrap().contains("20 rows of sweeps (the sweep at step 0"), "{by_flag}");
    let all = json(&["--at", "sweep", "--steps", "0.."]);
    assert_eq!((&all["visits"], &all["rows"][0]["checkpoints"]), (&80.into(), &4.into()));
    let visits = json(&[]);
    assert!(visits["basis"].as_str().unwrap().starts_with("visits, training mode; plain SGD"), "{visits}");
    assert_eq!(visits["visits"], 48);
    assert_ne!(visits["rows"], by_flag["rows"]);
}

#[test]
fn verify_counts_sweeps_and_checkpoints() {
    let (_dir, path) = replayed();
    let said = gradlog(&["verify", &path]);
    assert_eq!(said.code, Some(0));
    assert!(said.out.contains("swept         80\n") && said.out.contains("checkpoints   4\n"), "{}", said.out);
}

#[test]
fn a_lost_checkpoint_is_a_note_and_a_damaged_one_a_warning() {
    let (dir, path) = replayed();
    std::fs::remove_file(checkpoint_file(dir.path(), 5)).unwrap();
    let said = gradlog(&["verify", &path]);
    assert!(said.code == Some(0) && said.out.contains("4, 1 of them lost or damaged"), "{}", said.out);
    assert!(said.err.contains("note: checkpoint of step 5: its file is not there"), "{}", said.err);
    std::fs::write(checkpoint_file(dir.path(), 9), b"something else").unwrap();
    let said = gradlog(&["verify", &path]);
    assert!(said.code == Some(3) && said.err.contains("warning: checkpoint of step 9"), "{}", said.err);
}

#[test]
fn info_lists_checkpoint_files_and_sweeps() {
    let (dir, path) = replayed();
    std::fs::remove_file(checkpoint_file(dir.path(), 5)).unwrap();
    std::fs::write(checkpoint_file(dir.path(), 9), b"something else").unwrap();
    let json = gradlog(&["info", &path, "--format", "json"]).json();
    let checkpoints = json["checkpoints"].as_array().unwrap();
    let files: Vec<&str> = checkpoints.iter().map(|c| c["file"].as_str().unwrap()).collect();
    assert!(files[0] == "there" && files[1].contains("not there") && files[2].contains("bytes where"), "{files:?}");
    assert_eq!(json["sweeps"][1], json!({"step": 5, "rows": 20, "modes": ["evaluation mode"]}));
    assert_eq!(json["finished"], true);
}
