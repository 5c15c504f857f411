//! The command as a user types it: what it prints, where, and how it exits.

use crate::common::*;
use candle_core::Module;
use gradlog::{Config, Recorder};
use std::path::Path;

/// Three epochs over eight examples, with two probes before each. Returns the path of the run in `dir`.
fn record(dir: &Path) -> String {
    let run = dir.join("run");
    let OneLayer { taps, layer, variables } = one_layer(3);
    taps.declare_model(&variables);
    let mut recorder = Recorder::create(&run, &taps, Config::default()).unwrap();
    for epoch in 0..3 {
        recorder.set_epoch(epoch);
        let mut probe = recorder.probe("test", &[100, 101]).unwrap();
        let loss = probe.cross_entropy(&layer.forward(&noise(9, &[2, 4])).unwrap(), &labels(2)).unwrap();
        loss.backward().unwrap();
        probe.commit().unwrap();
        for half in 0..2u64 {
            let ids: Vec<u64> = (half * 4..half * 4 + 4).collect();
            let mut pass = recorder.pass(&ids).unwrap();
            let loss = pass.cross_entropy(&layer.forward(&noise(half, &[4, 4])).unwrap(), &labels(4)).unwrap();
            loss.backward().unwrap();
            pass.commit(0.1).unwrap();
        }
        recorder.flush().unwrap();
    }
    recorder.finish().unwrap();
    run.to_str().unwrap().to_owned()
}

fn csv_rows(text: &str) -> Vec<csv::StringRecord> {
    csv::ReaderBuilder::new()
        .comment(Some(b'#'))
        .from_reader(text.as_bytes())
        .records()
        .map(|row| row.unwrap())
        .collect()
}

#[test]
fn info_and_verify_describe_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let run = record(dir.path());
    assert_eq!(gradlog(&["info", &run, "--format", "json"]).json()["visits"], 24);
    assert!(gradlog(&["info", &run]).out.contains("fc"));
    assert_eq!(gradlog(&["verify", &run]).code, Some(0));
}

#[test]
fn every_score_is_a_csv_of_all_examples() {
    let dir = tempfile::tempdir().unwrap();
    let run = record(dir.path());
    for score in
        ["self-influence", "grand", "el2n", "forgetting", "aum", "confidence", "variability", "correctness", "loss"]
    {
        let said = gradlog(&["scores", &run, "--score", score, "--format", "csv"]);
        assert_eq!(said.code, Some(0), "{score}: {}", said.err);
        let (basis, rest) = said.out.split_once('\n').unwrap();
        assert!(basis.starts_with("# visits, training mode"), "{score}: {basis}");
        assert!(rest.starts_with("example,visits,score"), "{score}: {}", said.out);
        let rows = csv_rows(&said.out);
        assert_eq!(rows.len(), 8, "{score}");
        assert!(rows.iter().all(|row| &row[1] == "3" && row[2].parse::<f64>().is_ok()), "{score}: {}", said.out);
    }
}

#[test]
fn a_window_and_a_number_of_rows_narrow_a_score() {
    let dir = tempfile::tempdir().unwrap();
    let run = record(dir.path());
    let json =
        gradlog(&["scores", &run, "--score", "el2n", "--epochs", "1..3", "--top", "2", "--format", "json"]).json();
    assert_eq!(json["visits"], 16);
    assert_eq!(json["rows"].as_array().unwrap().len(), 2);
}

#[test]
fn influence_goes_to_a_file_strongest_proponent_first() {
    let dir = tempfile::tempdir().unwrap();
    let run = record(dir.path());
    let out = dir.path().join("influence.csv");
    let said = gradlog(&["influence", &run, "--probe", "test", "--id", "101", "--out", out.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.is_empty(), "what goes to a file does not go to stdout");
    let text = std::fs::read_to_string(&out).unwrap();
    let scores: Vec<f64> = csv_rows(&text).iter().map(|row| row[2].parse().unwrap()).collect();
    assert_eq!(scores.len(), 8);
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "the strongest opponent comes last: {scores:?}");
}

#[test]
fn influence_on_all_probes_has_a_row_for_each_pair() {
    let dir = tempfile::tempdir().unwrap();
    let run = record(dir.path());
    let all = gradlog(&["influence", &run, "--probe", "test", "--all", "--format", "csv"]).out;
    let (basis, rest) = all.split_once('\n').unwrap();
    assert!(basis.contains("plain SGD") && rest.starts_with("example,probe,score"), "{all}");
    assert_eq!(rest.lines().count(), 1 + 16, "{all}");
}

#[test]
fn what_is_not_there_is_exit_code_1_and_a_wrong_flag_is_2() {
    let dir = tempfile::tempdir().unwrap();
    let run = record(dir.path());
    let nothing = gradlog(&["info", dir.path().join("nowhere").to_str().unwrap()]);
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.out.is_empty() && nothing.err.contains("no such folder"), "{}", nothing.err);
    assert_eq!(gradlog(&["scores", &run, "--score", "beauty"]).code, Some(2));
    assert_eq!(gradlog(&["scores", &run]).code, Some(2));
    let unknown = gradlog(&["influence", &run, "--probe", "dev", "--id", "1"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("test"), "it says which sets there are: {}", unknown.err);
    assert_eq!(gradlog(&["influence", &run, "--probe", "test", "--id", "7"]).code, Some(1));
}

#[test]
fn damage_is_exit_code_3_with_what_was_read_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = record(dir.path());
    let segment = Path::new(&run).join("segment-00000.glog");
    let mut bytes = std::fs::read(&segment).unwrap();
    let place = bytes.len() * 3 / 4;
    bytes[place] ^= 0x10;
    std::fs::write(&segment, &bytes).unwrap();
    let verify = gradlog(&["verify", &run]);
    assert_eq!(verify.code, Some(3), "{}{}", verify.out, verify.err);
    // Cut short, every verb has results from what is left.
    std::fs::write(&segment, &bytes[..place]).unwrap();
    let scores = gradlog(&["scores", &run, "--score", "loss", "--format", "csv"]);
    assert!(scores.code == Some(3) && scores.out.lines().count() > 1, "{}", scores.err);
}

#[test]
fn a_damaged_manifest_is_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let run = record(dir.path());
    std::fs::write(Path::new(&run).join("manifest"), b"not a manifest").unwrap();
    assert_eq!(gradlog(&["verify", &run]).code, Some(1));
}
