//! The verbs from their arguments to their output, without a process.

mod basis;
mod columnar;
mod empty;
mod golden;
mod golden_cases;
pub(crate) mod hostile;
mod influence;
mod parts;
mod refused;
mod several;
mod vectors;
mod verdicts;
mod workers;

use crate::output::{Console, Watch};
use crate::{execute, Cli};
use clap::CommandFactory;
use gradlog_analysis::Score;
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use serde_json::Value as Json;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

pub(super) fn written(finished: bool) -> Written {
    let all = visits(&mut Draws(1), 30, 3, 8);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    let probes: Vec<Visit> = [(3, 0), (4, 0), (3, 6), (4, 6)].map(|(id, step)| Draws(id).visit(id, step, 0)).to_vec();
    run.probes(&probes);
    for rows in all.chunks(16) {
        run.visits(rows);
    }
    if finished {
        run.end();
    }
    run.finish()
}

/// Runs `gradlog` with the run's folder after the verb: exit code, stdout, stderr.
pub(super) fn gradlog(written: &Written, verb: &str, arguments: &[&str]) -> (u8, String, String) {
    let line = [verb.as_ref(), written.path().as_os_str()].into_iter().chain(arguments.iter().map(OsStr::new));
    execute_line(&line.collect::<Vec<_>>())
}

/// Runs `gradlog` with these arguments: exit code, stdout, stderr.
pub(super) fn execute_line(arguments: &[&OsStr]) -> (u8, String, String) {
    let line = std::iter::once(OsStr::new("gradlog")).chain(arguments.iter().copied()).map(OsString::from);
    let (mut out, mut words) = (Vec::new(), Vec::new());
    let code =
        execute(line, &mut Console { out: &mut out, words: &mut words, watch: Watch::new(false), terminal: None });
    (code, String::from_utf8(out).unwrap(), String::from_utf8(words).unwrap())
}

pub(super) fn records(text: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    let header = reader.headers().unwrap().iter().map(str::to_owned).collect();
    (header, reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect())
}

#[test]
fn the_arguments_fit_together() {
    Cli::command().debug_assert();
    for score in Score::ALL {
        assert!(Cli::command()
            .find_subcommand_mut("scores")
            .unwrap()
            .render_long_help()
            .to_string()
            .contains(score.description()));
    }
}

#[test]
fn every_score_is_the_same_in_every_format() {
    let run = written(true);
    for score in Score::ALL {
        let (code, csv, words) = gradlog(&run, "scores", &["--score", score.name(), "--format", "csv"]);
        assert_eq!(code, 0, "{words}");
        assert!(words.contains("30 examples"), "{words}");
        let (header, rows) = records(&csv);
        assert_eq!(header[..3], ["example", "visits", "score"]);
        let mut rest: Vec<&str> = score.extras().to_vec();
        rest.extend(["not_finite", "label", "prediction"]);
        assert_eq!(header[3..], rest);
        assert_eq!(rows.len(), 30);

        let (_, json, _) = gradlog(&run, "scores", &["--score", score.name(), "--format", "json", "--top", "7"]);
        let json: Json = serde_json::from_str(&json).unwrap();
        assert_eq!(json["score"], score.name());
        assert_eq!(json["order"], score.order().to_string());
        let cut = json["rows"].as_array().unwrap();
        assert_eq!(cut.len(), 7);
        for (json, csv) in cut.iter().zip(&rows) {
            assert_eq!(json["example"].to_string(), csv[0]);
            let (a, b) = (json["score"].as_f64(), csv[2].parse::<f64>().unwrap());
            // The reader of these tests rounds the last bit of a number otherwise than the writer.
            let same = |a: f64| (a - b).abs() <= 4.0 * f64::EPSILON * b.abs();
            assert!(a.map_or(b.is_infinite(), same), "{a:?} {b}");
        }

        let (_, table, words) = gradlog(&run, "scores", &["--score", score.name()]);
        assert_eq!(table.lines().count(), 22);
        assert!(words.contains("10 more"), "{words}");
        assert_eq!(table.lines().nth(2).unwrap().split_whitespace().next().unwrap(), rows[0][0]);
    }
}

#[test]
fn windows_narrow_and_bad_arguments_exit_with_2() {
    let run = written(true);
    let (code, csv, _) =
        gradlog(&run, "scores", &["--score", "loss", "--epochs", "1", "--steps", "4..=5", "--format", "csv"]);
    let visits: u64 = records(&csv).1.iter().map(|row| row[1].parse::<u64>().unwrap()).sum();
    assert_eq!((code, visits > 0 && visits <= 16), (0, true));
    for bad in [
        &["--score", "loss", "--epochs", "5..5"][..],
        &["--score", "nonsense"],
        &["--score", "loss", "--top", "0"],
        &[],
    ] {
        let (code, out, words) = gradlog(&run, "scores", bad);
        assert_eq!((code, out.as_str()), (2, ""), "{words}");
        assert!(words.contains("error"));
    }
    assert_eq!(gradlog(&run, "influence", &["--probe", "test"]).0, 2);
    assert_eq!(gradlog(&run, "influence", &["--probe", "test", "--id", "3", "--all"]).0, 2);
    let help = gradlog(&run, "scores", &["--help"]);
    assert_eq!(help.0, 0);
    assert!(help.1.contains("Exit codes") && help.2.is_empty());
}

#[test]
fn influence_of_one_probe() {
    let run = written(true);
    let (code, csv, words) = gradlog(&run, "influence", &["--probe", "test", "--id", "3", "--format", "csv"]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("probe 3 of `test` (label") && words.contains("TracInCP"), "{words}");
    let (header, rows) = records(&csv);
    assert_eq!(header, ["example", "visits", "score", "error", "label", "prediction"]);
    assert!(rows.iter().all(|row| row[3].parse::<f64>().unwrap() > 0.0));
    let scores: Vec<f64> = rows.iter().map(|row| row[2].parse().unwrap()).collect();
    assert!(rows.len() == 30 && scores.windows(2).all(|w| w[0] >= w[1]));
    assert!(scores[0] > 0.0 && scores[29] < 0.0);

    let (_, csv, _) = gradlog(&run, "influence", &["--probe", "test", "--id", "3", "--format", "csv", "--top", "2"]);
    let ends = records(&csv).1;
    assert_eq!(ends, [rows[0].clone(), rows[1].clone(), rows[28].clone(), rows[29].clone()]);

    let (_, table, _) = gradlog(&run, "influence", &["--probe", "test", "--id", "3", "--top", "2"]);
    let lines: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["role", "example", "visits", "score", "±", "label", "prediction"]);
    assert_eq!(lines[1][..2], ["proponent", rows[0][0].as_str()]);
    assert_eq!(lines[3][..2], ["opponent", rows[29][0].as_str()]);

    let (_, json, _) = gradlog(&run, "influence", &["--probe", "test", "--id", "3", "--format", "json"]);
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["probe"], &json["set"]), (&Json::from(3), &Json::from("test")));
    assert!((json["rows"][0]["score"].as_f64().unwrap() - scores[0]).abs() < 1e-12);
    assert_eq!(json["rows"][0]["error"].to_string(), rows[0][3]);
    // All scores, and as many as there are of each end, held or streamed, are the same rows.
    for top in ["1000", "1001"] {
        let (_, all, _) =
            gradlog(&run, "influence", &["--probe", "test", "--id", "3", "--format", "csv", "--top", top]);
        assert_eq!(records(&all).1, rows, "{top}");
    }
    assert!(json["variant"].as_str().unwrap().contains("2 times"));
}

#[test]
fn the_whole_matrix() {
    let run = written(true);
    let (code, csv, words) = gradlog(&run, "influence", &["--probe", "test", "--all", "--format", "csv"]);
    assert_eq!(code, 0, "{words}");
    let (header, rows) = records(&csv);
    assert_eq!(header, ["example", "probe", "score", "error"]);
    assert_eq!(rows.len(), 60);
    let (_, one, _) = gradlog(&run, "influence", &["--probe", "test", "--id", "4", "--format", "csv"]);
    for (matrix, one) in rows[30..].iter().zip(records(&one).1) {
        assert_eq!((&matrix[0], matrix[1].as_str()), (&one[0], "4"));
        let (a, b): (f64, f64) = (matrix[2].parse().unwrap(), one[2].parse().unwrap());
        assert!((a - b).abs() < 1e-6);
    }
    let (_, json, _) = gradlog(&run, "influence", &["--probe", "test", "--all", "--format", "json", "--top", "1"]);
    assert_eq!(serde_json::from_str::<Json>(&json).unwrap()["rows"].as_array().unwrap().len(), 4);
}

#[test]
fn failures_say_what_and_leave_no_file() {
    let run = written(true);
    let out = run.path().join("out.csv");
    let path = out.to_str().unwrap();
    let (code, data, words) = gradlog(&run, "influence", &["--probe", "nope", "--id", "1", "--out", path]);
    assert_eq!((code, data.as_str()), (1, ""));
    assert!(words.starts_with("error: ") && words.contains("`test`"), "{words}");
    let (code, _, words) = gradlog(&run, "scores", &["--score", "loss", "--out", "/nonexistent/folder/x.csv"]);
    assert!(code == 1 && words.contains("/nonexistent/folder/x.csv"), "{words}");
    let names: Vec<_> = std::fs::read_dir(run.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("out.csv")), "{names:?}");
}

#[test]
fn a_file_appears_whole_and_its_name_gives_the_format() {
    let run = written(true);
    for name in ["a.csv", "a.json", "a.txt", "a.CSV"] {
        let out = run.path().join(name);
        std::fs::write(&out, "something older").unwrap();
        let (code, data, _) = gradlog(&run, "scores", &["--score", "aum", "--out", out.to_str().unwrap()]);
        assert_eq!((code, data.as_str()), (0, ""));
        let text = std::fs::read_to_string(&out).unwrap();
        match name {
            "a.json" => assert!(serde_json::from_str::<Json>(&text).is_ok()),
            "a.txt" => assert_eq!(text.lines().count(), 32),
            _ => assert_eq!(records(&text).1.len(), 30),
        }
    }
    assert!(std::fs::read_dir(run.path()).unwrap().all(|e| !e
        .unwrap()
        .file_name()
        .to_string_lossy()
        .contains("partial")));
}

#[test]
fn damage_is_said_and_exits_with_3() {
    let run = written(true);
    run.damage(4, 30);
    let calls: [(&str, &[&str]); 5] = [
        ("verify", &[]),
        ("info", &[]),
        ("info", &["--format", "json"]),
        ("scores", &["--score", "forgetting", "--format", "json"]),
        ("influence", &["--probe", "test", "--id", "3", "--format", "json"]),
    ];
    for (verb, arguments) in calls {
        let (code, out, words) = gradlog(&run, verb, arguments);
        assert_eq!(code, 3, "{verb}: {words}");
        assert!(words.contains("is damaged at byte") && words.contains("block 4"), "{verb}: {words}");
        assert!(!out.is_empty());
        if arguments.contains(&"json") {
            let json: Json = serde_json::from_str(&out).unwrap();
            assert!(json["damage"].as_str().unwrap().contains("block 4"));
        }
    }
    assert!(gradlog(&run, "verify", &[]).1.starts_with("state         damaged\n"));
}

/// Runs a whole command line.
pub(crate) fn typed(arguments: &[&str]) -> (u8, String, String) {
    let line = std::iter::once("gradlog").chain(arguments.iter().copied()).map(OsString::from);
    let (mut out, mut words) = (Vec::new(), Vec::new());
    let code =
        execute(line, &mut Console { out: &mut out, words: &mut words, watch: Watch::new(false), terminal: None });
    (code, String::from_utf8(out).unwrap(), String::from_utf8(words).unwrap())
}

#[test]
fn verify_says_what_is_left_and_types_the_command_that_saves_it() {
    let run = written(true);
    run.damage(4, 70);
    let (code, out, words) = gradlog(&run, "verify", &[]);
    assert_eq!(code, 3, "{words}");
    for expected in ["readable: 32 visits of steps 0 to ", "epochs 0", "behind the damage:", "1 block is lost"] {
        assert!(words.contains(expected), "{expected} in\n{words}");
    }
    assert!(out.contains("behind it     ") && out.contains("lost          16 visits"), "{out}");
    let command = words.lines().last().unwrap().split_once("gradlog recover ").unwrap().1;
    let arguments: Vec<&str> = std::iter::once("recover").chain(command.split(' ')).collect();
    // The name that it proposes lies beside the test's folder, so that what is there must go.
    let (code, out, words) = typed(&arguments);
    let new = arguments[3].to_owned();
    let verified = typed(&["verify", &new]);
    let again = typed(&arguments);
    std::fs::remove_dir_all(&new).unwrap();
    assert_eq!(code, 3, "{words}");
    assert!(out.starts_with("state         recovered with loss\n") && out.contains("lost visits   16"), "{out}");
    assert!(words.contains("1 block is lost") && words.contains("is sound"), "{words}");
    assert_eq!(verified.0, 0, "{}", verified.2);
    assert!(verified.1.contains("dropped       16"), "{}", verified.1);
    assert!(again.0 == 1 && again.2.contains("is there already"), "{}", again.2);
}

#[test]
fn recover_exits_with_0_if_nothing_is_lost_and_1_or_2_if_nothing_can_be_done() {
    let run = written(true);
    let to = tempfile::tempdir().unwrap();
    let new = to.path().join("new");
    let new = new.to_str().unwrap();
    let (code, out, _) = gradlog(&run, "recover", &["--out", new]);
    assert_eq!((code, out.lines().next()), (0, Some("state         recovered, nothing lost")));
    assert_eq!(typed(&["scores", new, "--score", "loss"]).1, gradlog(&run, "scores", &["--score", "loss"]).1);
    assert_eq!(gradlog(&run, "recover", &[]).0, 2);
    std::fs::write(run.path().join("manifest"), b"something else").unwrap();
    let other = to.path().join("other");
    let (code, out, words) = gradlog(&run, "recover", &["--out", other.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(words.contains("without an intact manifest") && !other.exists(), "{words}");
}

#[test]
fn paths_are_quoted_as_a_shell_takes_them() {
    let run = written(true);
    run.damage(4, 30);
    let odd = tempfile::tempdir().unwrap();
    let path = odd.path().join("it's a run");
    std::fs::create_dir(&path).unwrap();
    for entry in std::fs::read_dir(run.path()).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, path.join(from.file_name().unwrap())).unwrap();
    }
    let words = typed(&["verify", path.to_str().unwrap()]).2;
    assert!(words.contains(r"it'\''s a run' --out '") && words.contains(r"it'\''s a run-recovered'"), "{words}");
}

#[test]
fn sound_unfinished_and_unreadable_runs() {
    let (code, out, _) = gradlog(&written(true), "verify", &[]);
    assert_eq!((code, out.lines().next()), (0, Some("state         sound")));
    let (code, out, words) = gradlog(&written(false), "verify", &[]);
    assert_eq!((code, out.lines().next()), (0, Some("state         sound, not finished")));
    assert!(words.contains("was not finished"), "{words}");
    let run = written(true);
    std::fs::remove_file(run.path().join("manifest")).unwrap();
    for verb in ["verify", "info"] {
        let (code, out, words) = gradlog(&run, verb, &[]);
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(words.contains("is not a gradlog run"), "{words}");
    }
}

#[test]
fn info_says_what_is_in_it() {
    let run = written(true);
    let (code, out, _) = gradlog(&run, "info", &[]);
    assert_eq!(code, 0);
    for expected in ["finished", "of 30 examples", "0 to 2", "factored 5 x 3", "folded 7", "test", "bytes per visit"] {
        assert!(out.contains(expected), "{expected} in\n{out}");
    }
    let json: Json = serde_json::from_str(&gradlog(&run, "info", &["--format", "json"]).1).unwrap();
    assert_eq!(json["examples"], 30);
    assert_eq!(json["epochs"], serde_json::json!([0, 2]));
    assert_eq!(json["probes"][0]["times"], serde_json::json!([0, 6]));
    assert_eq!(json["layers"][1]["form"], "folded");
}

#[test]
fn a_missing_column_is_an_error_with_the_way_out() {
    let mut run = Synthetic::new(Encoding::F32);
    run.without = vec![Column::Margin];
    run.visits(&visits(&mut Draws(1), 4, 1, 2));
    let (code, out, words) = gradlog(&run.finish(), "scores", &["--score", "aum"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(words.contains("margins") && words.contains("pass.cross_entropy"), "{words}");
}

/// A reader that goes away, as `head` does.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_broken_pipe_is_no_error() {
    let run = written(true);
    for arguments in [&["scores", "--score=loss"][..], &["info"], &["verify"], &["influence", "--probe=test", "--all"]]
    {
        let mut line: Vec<OsString> = vec!["gradlog".into(), arguments[0].into(), run.path().into()];
        line.extend(arguments[1..].iter().map(OsString::from));
        let mut words = Vec::new();
        let code =
            execute(line, &mut Console { out: &mut Gone, words: &mut words, watch: Watch::new(false), terminal: None });
        assert_eq!(code, 0, "{arguments:?}: {}", String::from_utf8_lossy(&words));
        assert!(!String::from_utf8_lossy(&words).contains("error"));
    }
}
