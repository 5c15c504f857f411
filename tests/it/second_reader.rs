//! The second reader, `tests/reader.py`, against gradlog: it was written from FORMAT.md alone, so where both agree, the
//! page says what the program does.
//!
//! It is skipped where there is no Python with numpy and zstandard. `PYTHON` names another one than `python3`.

use crate::common::*;
use gradlog::{Config, Recorder, Reduction, Replay, Worker};
use gradlog_format::log::{BlockKind, Column, ColumnKey, NO_LAYER};
use gradlog_format::run::{Block, Origin, Run};
use serde_json::{json, Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCORES: [&str; 9] =
    ["self-influence", "grand", "el2n", "forgetting", "aum", "confidence", "variability", "correctness", "loss"];
const FIXTURES: [&str; 7] = ["v1", "v1-replay", "v1-planes", "v1-rans", "v1-events", "v1-cards", "v1-two-sided"];
const EXAMPLES: usize = 24;
const PROBES: usize = 3;

fn in_tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A Python that has what the reader needs.
fn python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let asked = Command::new(&python).args(["-c", "import numpy, zstandard"]).output();
    if asked.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: {python} with numpy and zstandard is not here");
    None
}

/// What the second reader says.
fn second(python: &str, arguments: &[&str]) -> Said {
    let output = Command::new(python).arg(in_tests("reader.py")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Visits and scores of each example. A score that is no number is NaN, and one without end is infinite.
fn by_example(said: &Said) -> BTreeMap<u64, (u64, f64)> {
    let answer: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}{}", said.out, said.err));
    let rows = answer["rows"].as_array().unwrap().iter();
    let number = |row: &Value| match (&row["score"], row["never_learned"].as_bool()) {
        (Value::Number(number), _) => number.as_f64().unwrap(),
        (Value::String(_), _) | (_, Some(true)) => f64::INFINITY,
        _ => f64::NAN,
    };
    rows.map(|row| (row["example"].as_u64().unwrap(), (row["visits"].as_u64().unwrap(), number(row)))).collect()
}

/// Says that both answer alike: the same exit code, examples and visits, and scores within `error` of the largest.
#[track_caller]
fn assert_alike(command: &Said, second: &Said, error: f64, what: &str) {
    assert_eq!(command.code, second.code, "{what}: {}{}", command.err, second.err);
    if command.code == Some(1) {
        return;
    }
    let (ours, theirs) = (by_example(command), by_example(second));
    let finite = |(_, score): &(u64, f64)| if score.is_finite() { score.abs() } else { 0.0 };
    let largest = ours.values().map(finite).fold(f64::MIN_POSITIVE, f64::max);
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{what}");
    for (example, (visits, score)) in ours {
        let (their_visits, their_score) = theirs[&example];
        assert_eq!(visits, their_visits, "{what}: example {example}");
        let alike = (score - their_score).abs() <= error * largest
            || score == their_score
            || score.is_nan() && their_score.is_nan();
        assert!(alike, "{what}: example {example} has {score}, and {their_score} by the second reader");
    }
}

/// What `verify` counts, by both.
fn compare_counts(python: &str, dir: &Path) {
    let run = dir.to_str().unwrap();
    let said = second(python, &["verify", run]);
    let verify = gradlog(&["verify", run]);
    assert_eq!(said.code, verify.code, "{}{}", said.err, verify.err);
    if said.code != Some(1) {
        let counts: Value = serde_json::from_str(&said.out).unwrap();
        let report = Run::open(dir).unwrap().verify().unwrap();
        let ours = json!({
            "blocks": report.blocks, "visits": report.visits, "probes": report.probes, "steps": report.steps,
            "curvature": report.curvature, "sweeps": report.sweeps, "dropped": report.dropped,
            "superseded": report.superseded, "checkpoints": report.checkpoints, "newer_columns": report.newer_columns, "cards": report.cards,
            "refused_cards": report.refused_cards,
            "finished": report.finished,
        });
        // Blocks of several workers are counted after they were merged.
        let names = ours.as_object().unwrap().keys();
        for name in
            names.filter(|name| !(run.contains("several") && ["blocks", "checkpoints"].contains(&name.as_str())))
        {
            if name != "superseded" || report.damage.is_none() {
                assert_eq!(counts[name], ours[name], "{name} of {run}: {counts}");
            }
        }
        assert_eq!(counts["damage"].is_null(), report.damage.is_none());
    }
}

/// `verify`, every score and the influence on each probe, by both.
fn compare(python: &str, dir: &Path, probes: &[(&str, u64)]) {
    compare_with(python, dir, probes, &[]);
}

/// As [`compare`], with more arguments for the command.
fn compare_with(python: &str, dir: &Path, probes: &[(&str, u64)], more: &[&str]) {
    compare_counts(python, dir);
    let run = dir.to_str().unwrap();
    for score in SCORES {
        let command = gradlog(&[&["scores", run, "--score", score, "--format", "json"], more].concat());
        assert_alike(&command, &second(python, &["scores", run, score]), 1e-9, score);
    }
    for (set, probe) in probes {
        let id = probe.to_string();
        let command = gradlog(&[&["influence", run, "--probe", set, "--id", &id, "--format", "json"], more].concat());
        // gradlog multiplies in f32.
        assert_alike(&command, &second(python, &["influence", run, set, &id]), 1e-5, &format!("{set} {probe}"));
    }
}

/// Records some steps, with probes before every third.
fn record(model: &Network, recorder: &mut Recorder, steps: std::ops::Range<u64>, offset: u64) {
    let step = |number: u64| Step {
        number,
        epoch: (number / 5) as u32,
        ids: (0..4).map(|i| (number * 3 + i * 7 + offset) % EXAMPLES as u64).collect(),
        rate: 0.3 / (1.0 + number as f64),
    };
    model.train(recorder, steps.map(step), |recorder, step| {
        if step.number % 3 == 1 {
            model.record_probes(recorder, "test", &[0, 1, 2]);
        }
        if step.number == 4 {
            recorder.checkpoint(&model.variables).unwrap();
        }
    });
}

fn mlp() -> Network {
    Network::mlp(EXAMPLES, PROBES, false).fill(11, 0.6)
}

/// A run that was resumed at an earlier step, and into which a checkpoint was replayed.
fn resumed(model: &Network, dir: &Path, config: &Config) {
    let mut recorder = Recorder::create(dir, &model.taps, config.clone()).unwrap();
    record(model, &mut recorder, 0..14, 0);
    recorder.finish().unwrap();
    let mut recorder = Recorder::resume_at(dir, &model.taps, config.clone(), 9).unwrap();
    record(model, &mut recorder, 9..16, 5);
    recorder.finish().unwrap();
    let mut replay = Replay::open(dir, &model.taps, Config::default()).unwrap();
    let checkpoint = replay.checkpoints()[0].clone();
    replay.load(&checkpoint, &model.variables).unwrap();
    let mut probe = replay.probe("later", &[0, 1, 2]).unwrap();
    let loss = probe.cross_entropy(&model.logits(&model.probes.x).unwrap(), &model.probes.y).unwrap();
    loss.backward().unwrap();
    probe.commit().unwrap();
    replay.finish().unwrap();
}

#[test]
fn both_read_the_same_numbers_of_recorded_runs() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let short = |config: Config| Config { block_rows: 10, ..config };
    let probes = [("test", 0), ("test", 2), ("later", 1), ("test", 77), ("nothing", 0)];
    for (name, model, config) in [
        ("mlp", mlp(), Config::default()),
        ("mlp-exact", mlp(), exact()),
        ("cnn", Network::cnn(4, 3, EXAMPLES, PROBES, false).fill(11, 0.5), Config::default()),
    ] {
        let run = dir.path().join(name);
        resumed(&model, &run, &short(config));
        compare(&python, &run, &probes);
    }
    let several = dir.path().join("several");
    for rank in 0..2 {
        let worker = Some(Worker { rank, workers: 2, reduction: Reduction::Mean });
        let config = Config { worker, block_rows: 7 + 10 * rank, ..exact() };
        let model = mlp();
        let mut recorder = Recorder::create(&several, &model.taps, config).unwrap();
        record(&model, &mut recorder, 0..12, 5 * u64::from(rank));
        recorder.finish().unwrap();
    }
    compare(&python, &several, &[("test", 0), ("test", 1)]);
}

/// A bit in many places: both stop at the same block, with the same numbers before it.
#[test]
fn both_stop_at_the_same_damage() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    resumed(&mlp(), &sound, &Config { block_rows: 10, ..Config::default() });
    let (mut hurt, mut stopped) = (0, 0);
    for path in std::fs::read_dir(&sound).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|end| end != "glog") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(bytes.len() / 5 + 1) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(&path, &changed).unwrap();
            let run = sound.to_str().unwrap();
            let said = second(&python, &["verify", run]);
            let report = Run::open(&sound).unwrap().verify().unwrap();
            let counts: Value = serde_json::from_str(&said.out).unwrap();
            let what = format!("{} at {at}: {counts}", path.display());
            assert_eq!(counts["damage"].is_null(), report.damage.is_none(), "{what}");
            assert_eq!(counts["visits"], report.visits, "{what}");
            assert_eq!(counts["probes"], report.probes, "{what}");
            let command = gradlog(&["scores", run, "--score", "self-influence", "--format", "json"]);
            assert_alike(&command, &second(&python, &["scores", run, "self-influence"]), 1e-9, &what);
            (hurt, stopped) = (hurt + 1, stopped + u32::from(report.damage.is_some()));
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(hurt > 10 && stopped > 5, "{stopped} of {hurt}");
}

/// Where each block of the first segment begins.
fn block_offsets(bytes: &[u8]) -> Vec<usize> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let ends = |at: &usize| Some(at + word(at + 16)).filter(|next| bytes.get(*next..next + 4) == Some(b"GBLK"));
    std::iter::successors(Some(64), ends).collect()
}

/// Changes the entries of a column in all blocks of visits of a segment, and makes the checksums match.
fn change_column(bytes: &mut [u8], column: Column, change: impl Fn(&mut [u8])) -> usize {
    let mut changed = 0;
    for at in block_offsets(bytes) {
        let columns = usize::from(u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]));
        if bytes[at + 4] != BlockKind::Visits as u8 {
            continue;
        }
        for entry in (0..columns).map(|number| at + 64 + 24 * number) {
            if u16::from_le_bytes([bytes[entry], bytes[entry + 1]]) == column as u16 {
                change(&mut bytes[entry..entry + 24]);
                changed += 1;
            }
        }
        let directory = crc32fast::hash(&bytes[at + 64..at + 64 + 24 * columns]);
        bytes[at + 56..at + 60].copy_from_slice(&directory.to_le_bytes());
        let header = crc32fast::hash(&bytes[at..at + 60]);
        bytes[at + 60..at + 64].copy_from_slice(&header.to_le_bytes());
    }
    changed
}

/// What a newer version wrote is neither damage nor another number, to the command as to the second reader.
#[test]
fn what_is_newer_fails_those_who_need_it_and_no_others() {
    let python = python();
    let dir = tempfile::tempdir().unwrap();
    let model = mlp();
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    record(&model, &mut recorder, 0..12, 0);
    recorder.finish().unwrap();
    let run = dir.path().to_str().unwrap();
    let path = dir.path().join("segment-00000.glog");
    let sound = std::fs::read(&path).unwrap();
    let ask = |arguments: &[&str]| gradlog(&[arguments, &["--format", "json"]].concat());
    let loss = || ask(&["scores", run, "--score", "loss"]);
    let aum = || ask(&["scores", run, "--score", "aum"]);
    let influence = || ask(&["influence", run, "--probe", "test", "--id", "1"]);
    let before = [loss().out, aum().out, influence().out];
    type Change = fn(&mut [u8]);
    let newer_type: Change = |entry| entry[4] = 99;
    // Prediction becomes a column that is not known, and amends another one.
    let amends_vectors: Change = |entry| {
        entry[..2].copy_from_slice(&700u16.to_le_bytes());
        entry[6..8].copy_from_slice(&0xFFFEu16.to_le_bytes());
    };
    let amends_loss: Change = |entry| {
        entry[..2].copy_from_slice(&700u16.to_le_bytes());
        entry[6..8].copy_from_slice(&(Column::Loss as u16).to_le_bytes());
    };
    for (what, column, change, hidden) in [
        ("a type of losses", Column::Loss, newer_type, [true, false, false]),
        ("a type of margins", Column::Margin, newer_type, [false, true, false]),
        ("a type of vectors", Column::Input, newer_type, [false, false, true]),
        ("a column beside the vectors", Column::Prediction, amends_vectors, [false, false, true]),
        ("a column beside the losses", Column::Prediction, amends_loss, [true, false, false]),
    ] {
        let mut bytes = sound.clone();
        assert!(change_column(&mut bytes, column, change) > 0);
        std::fs::write(&path, bytes).unwrap();
        let verify = gradlog(&["verify", run]);
        assert_eq!(verify.code, Some(0), "{what}: {}", verify.err);
        assert!(verify.err.contains("were written by a newer gradlog"), "{what}: {}", verify.err);
        for ((said, hidden), before) in [loss(), aum(), influence()].iter().zip(hidden).zip(&before) {
            if hidden {
                assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{what}: {}", said.err);
                let words = "was written by a newer gradlog";
                assert!(
                    said.err.contains(words) && said.err.contains("install a newer gradlog"),
                    "{what}: {}",
                    said.err
                );
            } else if column == Column::Prediction {
                // Rows say what was predicted, which is not known any more.
                assert_eq!(said.code, Some(0), "{what}: {}", said.err);
            } else {
                assert_eq!((said.code, &said.out), (Some(0), before), "{what}: {}", said.err);
            }
        }
        if let Some(python) = &python {
            compare(python, dir.path(), &[("test", 1)]);
            if hidden[0] {
                let said = second(python, &["scores", run, "loss"]);
                assert!(said.err.contains("of a newer version"), "{}", said.err);
            }
        }
    }
    std::fs::write(&path, sound).unwrap();
}

/// A number as the lists of `tests/data` have it.
fn number(value: f64) -> Value {
    match value {
        _ if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        finite => finite.into(),
    }
}

/// The numbers of a column. `None` for scales, which are in the numbers of their vectors.
fn values(block: &Block, column: Column, layer: u16) -> Option<Value> {
    let key = ColumnKey { column, layer };
    if column.scales().is_some() {
        let vectors = block.vectors(key, Origin::Whole).unwrap();
        let row = |row| {
            let mut out = vec![0.0; vectors.width()];
            vectors.decode(row, &mut out);
            Value::from(out.into_iter().map(|value| number(f64::from(value))).collect::<Vec<_>>())
        };
        return Some((0..vectors.rows()).map(row).collect());
    }
    if column == Column::Name {
        return Some(block.probe_set().unwrap().1.into());
    }
    if column.is_of_gradient() {
        return None;
    }
    if let Ok(bytes) = block.u8s(key) {
        return Some(bytes.into());
    }
    if let Ok(numbers) = block.u32s(key) {
        return Some(numbers.into());
    }
    if let Ok(numbers) = block.u64s(key) {
        return Some(numbers.into());
    }
    Some(block.f32s(key).unwrap().into_iter().map(|value| number(f64::from(value))).collect())
}

/// All that a fixture holds, as `tests/data/README.md` describes it.
fn contents(dir: &Path) -> Value {
    let run = Run::open(dir).unwrap();
    let manifest = run.manifest();
    let layers: Vec<Value> = (manifest.layers.iter())
        .map(|layer| {
            json!({
                "name": layer.name, "kind": layer.kind, "inputs": layer.inputs, "outputs": layer.outputs,
                "bias": layer.bias, "parameters": layer.parameters,
            })
        })
        .collect();
    let worker = manifest.worker.map(|worker| {
        json!({ "rank": worker.rank, "workers": worker.workers, "reduction": format!("{:?}", worker.reduction) })
    });
    let block = |block: Block| {
        let mut columns = Vec::new();
        for size in block.sizes() {
            let column = Column::from_code(size.column).unwrap();
            let Some(values) = values(&block, column, size.layer) else { continue };
            let mut entry =
                Map::from_iter([("column".into(), format!("{column:?}").into()), ("values".into(), values)]);
            if size.layer != NO_LAYER {
                entry.insert("layer".into(), size.layer.into());
            }
            columns.push(Value::Object(entry));
        }
        let (steps, epochs) = (block.steps(), block.epochs());
        json!({
            "kind": format!("{:?}", block.kind().unwrap()), "rows": block.rows(), "columns": columns,
            "steps": [steps.0, steps.1], "epochs": [epochs.0, epochs.1],
        })
    };
    json!({
        "created_ms": manifest.created_ms, "version": manifest.version, "seed": manifest.seed, "layers": layers,
        "worker": worker, "model_parameters": manifest.model_parameters, "damage": null,
        "blocks": run.scan().map(block).collect::<Vec<_>>(),
    })
}

fn list(fixture: &str) -> PathBuf {
    in_tests(&format!("data/{fixture}.json"))
}

#[test]
#[ignore = "writes tests/data/*.json; run by hand for a new fixture"]
fn write_the_lists_of_the_fixtures() {
    for fixture in FIXTURES {
        let text = serde_json::to_string(&contents(&in_tests(&format!("data/{fixture}")))).unwrap();
        // A line for each block.
        std::fs::write(list(fixture), text.replace("{\"columns\":", "\n{\"columns\":") + "\n").unwrap();
    }
}

/// All floats of a run are f32. A parser of JSON may be off by the last bit of an f64.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => json!(f64::from(number.as_f64().unwrap() as f32)),
        Value::Array(values) => values.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, rounded(value))).collect(),
        other => other,
    }
}

/// `run/tests/fixture.rs` and its neighbors know these numbers from where they were made.
#[test]
fn the_lists_of_the_fixtures_are_what_both_read() {
    let python = python();
    for fixture in FIXTURES {
        let dir = in_tests(&format!("data/{fixture}"));
        let listed: Value = serde_json::from_str(&std::fs::read_to_string(list(fixture)).unwrap()).unwrap();
        let listed = rounded(listed);
        assert!(rounded(contents(&dir)) == listed, "{fixture}");
        if let Some(python) = &python {
            let said = second(python, &["dump", dir.to_str().unwrap()]);
            let read: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}", said.err));
            assert!(rounded(read) == listed, "{fixture} by the second reader");
            // The command has no scores of a run without visits.
            let has_visits = listed["blocks"].as_array().unwrap().iter().any(|block| block["kind"] == "Visits");
            match fixture {
                // The second reader takes steps of Adam as plain ones.
                "v1-two-sided" => compare_with(python, &dir, &[("test", 7)], &["--optimizer", "sgd"]),
                _ if has_visits => compare(python, &dir, &[("test", 0)]),
                _ => compare_counts(python, &dir),
            }
        }
    }
}
