//! The command as a user types it: what it prints, where, and how it exits.

use crate::common::*;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, VarBuilder, VarMap};
use gradlog::{Config, Recorder, Taps};
use std::path::Path;
use std::process::{Command, Output};

/// Three epochs over eight examples, with two probes before each.
fn run(dir: &Path) {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let layer = taps.tap("fc", linear(4, 3, vb.pp("fc")).unwrap());
    taps.model(&variables);
    let labels =
        |n: usize| Tensor::from_vec((0..n as u32).map(|i| i % 3).collect::<Vec<_>>(), n, &Device::Cpu).unwrap();
    let mut recorder = Recorder::create(dir, &taps, Config::default()).unwrap();
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
}

fn gradlog(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gradlog-under-test")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_contract_of_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    run(&dir.path().join("run"));
    let path = dir.path().join("run");
    let path = path.to_str().unwrap();

    let info = gradlog(&["info", path, "--format", "json"]);
    assert_eq!(info.status.code(), Some(0), "{}", stderr(&info));
    let info: serde_json::Value = serde_json::from_str(&stdout(&info)).unwrap();
    assert_eq!(info["visits"], 24);
    assert!(stdout(&gradlog(&["info", path])).contains("fc"));

    let verify = gradlog(&["verify", path]);
    assert_eq!(verify.status.code(), Some(0));

    for score in
        ["self-influence", "grand", "el2n", "forgetting", "aum", "confidence", "variability", "correctness", "loss"]
    {
        let csv = gradlog(&["scores", path, "--score", score, "--format", "csv"]);
        assert_eq!(csv.status.code(), Some(0), "{score}: {}", stderr(&csv));
        let text = stdout(&csv);
        assert!(text.starts_with("example,visits,score"), "{score}: {text}");
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.unwrap()).collect();
        assert_eq!(rows.len(), 8, "{score}");
        assert!(rows.iter().all(|row| &row[1] == "3" && row[2].parse::<f64>().is_ok()), "{score}: {text}");
    }
    let json = gradlog(&["scores", path, "--score", "el2n", "--epochs", "1..3", "--top", "2", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(json["visits"], 16);
    assert_eq!(json["rows"].as_array().unwrap().len(), 2);

    let out = dir.path().join("influence.csv");
    let influence = gradlog(&["influence", path, "--probe", "test", "--id", "101", "--out", out.to_str().unwrap()]);
    assert_eq!(influence.status.code(), Some(0), "{}", stderr(&influence));
    assert!(stdout(&influence).is_empty(), "what goes to a file does not go to stdout");
    let text = std::fs::read_to_string(&out).unwrap();
    let scores: Vec<f64> =
        csv::Reader::from_reader(text.as_bytes()).records().map(|r| r.unwrap()[2].parse().unwrap()).collect();
    assert_eq!(scores.len(), 8);
    assert!(
        scores.windows(2).all(|pair| pair[0] >= pair[1]),
        "the strongest proponent first, the strongest opponent last"
    );
    let all = stdout(&gradlog(&["influence", path, "--probe", "test", "--all", "--format", "csv"]));
    assert!(all.starts_with("example,probe,score") && all.lines().count() == 1 + 16, "{all}");
}

#[test]
fn damage_and_nonsense_have_exit_codes_and_words() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("run");
    run(&whole);
    let nothing = gradlog(&["info", dir.path().join("nowhere").to_str().unwrap()]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(stdout(&nothing).is_empty() && stderr(&nothing).contains("no such folder"), "{}", stderr(&nothing));
    let path = whole.to_str().unwrap();
    assert_eq!(gradlog(&["scores", path, "--score", "beauty"]).status.code(), Some(2));
    assert_eq!(gradlog(&["scores", path]).status.code(), Some(2));
    let unknown = gradlog(&["influence", path, "--probe", "dev", "--id", "1"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("test"), "it says which sets there are: {}", stderr(&unknown));
    assert_eq!(gradlog(&["influence", path, "--probe", "test", "--id", "7"]).status.code(), Some(1));

    // One byte near the end: what came before it is used, and the exit code says that something is missing.
    let segment = whole.join("segment-00000.glog");
    let mut bytes = std::fs::read(&segment).unwrap();
    let place = bytes.len() * 3 / 4;
    bytes[place] ^= 0x10;
    std::fs::write(&segment, &bytes).unwrap();
    let verify = gradlog(&["verify", path]);
    assert_eq!(verify.status.code(), Some(3), "{}{}", stdout(&verify), stderr(&verify));
    // Cut short: so for every verb, with results from what is left.
    std::fs::write(&segment, &bytes[..place]).unwrap();
    let scores = gradlog(&["scores", path, "--score", "loss", "--format", "csv"]);
    assert!(scores.status.code() == Some(3) && stdout(&scores).lines().count() > 1, "{}", stderr(&scores));
    std::fs::write(whole.join("manifest"), b"not a manifest").unwrap();
    assert_eq!(gradlog(&["verify", path]).status.code(), Some(1));
}
