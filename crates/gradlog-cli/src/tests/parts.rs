//! `--part` and `gradlog merge`: the whole command against its parts, byte by byte.

use super::{execute_line, gradlog, written};
use gradlog_testing::Written;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Makes the parts of a question, and returns their files.
fn parts(runs: &[&Written], verb: &str, arguments: &[&str], of: usize, folder: &Path) -> Vec<PathBuf> {
    let make = |number: usize| {
        let file = folder.join(format!("{number}.part"));
        let share = format!("{number}/{of}");
        let mut line: Vec<&OsStr> = vec![verb.as_ref()];
        line.extend(runs.iter().map(|run| run.path().as_os_str()));
        line.extend(arguments.iter().map(OsStr::new));
        line.extend(["--part".as_ref(), OsStr::new(&share), "--out".as_ref(), file.as_os_str()]);
        let (code, out, words) = execute_line(&line);
        assert_eq!((code, out.as_str()), (0, ""), "{words}");
        assert!(words.contains(&format!("part {share}: ")) && words.contains("of the examples alone"), "{words}");
        file
    };
    (1..=of).map(make).collect()
}

fn merge(files: &[PathBuf], arguments: &[&str]) -> (u8, String, String) {
    let mut line: Vec<&OsStr> = vec!["merge".as_ref()];
    line.extend(files.iter().map(|file| file.as_os_str()));
    line.extend(arguments.iter().map(OsStr::new));
    execute_line(&line)
}

fn whole(runs: &[&Written], verb: &str, arguments: &[&str]) -> (u8, String, String) {
    let mut line: Vec<&OsStr> = vec![verb.as_ref()];
    line.extend(runs.iter().map(|run| run.path().as_os_str()));
    line.extend(arguments.iter().map(OsStr::new));
    execute_line(&line)
}

#[test]
fn merged_parts_print_what_the_command_prints() {
    let (one, two) = (written(true), written(true));
    for (runs, verb, question) in [
        (&[&one][..], "scores", &["--score", "loss"][..]),
        (&[&one], "scores", &["--score", "forgetting", "--epochs", "1.."]),
        (&[&one, &two], "scores", &["--score", "aum", "--over-runs", "sum"]),
        (&[&one], "influence", &["--probe", "test", "--id", "3"]),
        (&[&one], "influence", &["--probe", "test", "--mean", "--normalize", "cosine"]),
        (&[&one], "influence", &["--probe", "test", "--class", "3"]),
        (&[&one], "influence", &["--probe", "test", "--all"]),
    ] {
        for of in [1, 3] {
            let folder = tempfile::tempdir().unwrap();
            if question.contains(&"--class") && gradlog(&one, verb, question).0 != 0 {
                continue;
            }
            let files = parts(runs, verb, question, of, folder.path());
            for format in ["table", "csv", "json"] {
                let here = whole(runs, verb, &[question, &["--format", format]].concat());
                assert_eq!(merge(&files, &["--format", format]), here, "{question:?} {format}");
            }
            for (format, top) in [("csv", "2"), ("table", "4")] {
                let here = whole(runs, verb, &[question, &["--format", format, "--top", top]].concat());
                assert_eq!(merge(&files, &["--format", format, "--top", top]), here, "{question:?} {format}");
            }
            for format in ["parquet", "arrow"] {
                let file = |name: &str| folder.path().join(format!("{name}.{format}"));
                let (own, merged) = (file("own"), file("merged"));
                let here = whole(runs, verb, &[question, &["--out", own.to_str().unwrap()]].concat());
                let there = merge(&files, &["--out", merged.to_str().unwrap()]);
                assert_eq!((here.0, &here.2), (there.0, &there.2));
                assert_eq!(std::fs::read(own).unwrap(), std::fs::read(merged).unwrap());
            }
        }
    }
}

#[test]
fn the_strongest_of_each_part_are_enough() {
    let run = written(true);
    let folder = tempfile::tempdir().unwrap();
    let question = ["--probe", "test", "--all", "--top", "5"];
    let files = parts(&[&run], "influence", &question, 4, folder.path());
    for format in ["table", "csv", "json"] {
        let here = gradlog(&run, "influence", &[&question[..], &["--format", format]].concat());
        assert_eq!(merge(&files, &["--format", format]), here);
    }
    let (code, csv, _) = merge(&files, &["--format", "csv", "--top", "2"]);
    let fewer = ["--probe", "test", "--all", "--top", "2", "--format", "csv"];
    assert_eq!((code, csv), (0, gradlog(&run, "influence", &fewer).1));
    let (code, _, words) = merge(&files, &["--top", "6"]);
    assert!(code == 2 && words.contains("--top 6 is more than the 5 that the parts were asked for"), "{words}");
}

#[test]
fn what_is_wrong_with_parts_is_named() {
    let (run, other) = (written(true), written(true));
    let folder = tempfile::tempdir().unwrap();
    let files = parts(&[&run], "scores", &["--score", "loss"], 3, folder.path());
    let (code, out, words) = merge(&files[..2], &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(words.contains("of 3 parts 3 is missing"), "{words}");
    let twice: Vec<PathBuf> = files.iter().chain(&files[1..2]).cloned().collect();
    let (code, _, words) = merge(&twice, &[]);
    assert!(code == 1 && words.contains("are both part 2/3"), "{words}");
    let there = tempfile::tempdir().unwrap();
    let theirs = parts(&[&other], "scores", &["--score", "loss"], 3, there.path());
    let (code, _, words) = merge(&[files[0].clone(), theirs[1].clone(), files[2].clone()], &[]);
    assert!(code == 1 && words.contains("merge parts of the same runs"), "{words}");

    let (code, _, words) = merge(&[run.path().join("manifest")], &[]);
    assert!(code == 1 && words.contains("manifest") && words.contains("no part of an answer"), "{words}");
    let (code, _, words) = merge(&[folder.path().join("none.part")], &[]);
    assert!(code == 1 && words.contains("cannot read") && words.contains("none.part"), "{words}");

    let out = folder.path().join("x.part");
    let bad = |verb: &str, arguments: &[&str]| {
        let (code, _, words) = gradlog(&run, verb, &[arguments, &["--out", out.to_str().unwrap()]].concat());
        assert_eq!(code, 2, "{arguments:?}: {words}");
        assert!(!out.exists());
        words
    };
    for share in ["0/3", "4/3", "1", "x/y"] {
        assert!(bad("scores", &["--score", "loss", "--part", share]).contains("the share of the examples"));
    }
    bad("scores", &["--score", "loss", "--part", "1/2", "--top", "3"]);
    bad("scores", &["--score", "loss", "--part", "1/2", "--format", "csv"]);
    bad("influence", &["--probe", "test", "--id", "3", "--part", "1/2", "--by", "layer"]);
    bad("influence", &["--probe", "test", "--id", "3", "--part", "1/2", "--nearest", "3"]);
    let words = bad("influence", &["--probe", "test", "--id", "3", "--part", "1/2", "--method", "if"]);
    assert!(words.contains("only TracIn can be shared out"), "{words}");
    assert_eq!(gradlog(&run, "scores", &["--score", "loss", "--part", "1/2"]).0, 2);
}

#[test]
fn a_compacted_run_says_the_same_and_refuses_what_needs_its_order() {
    let run = written(true);
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new");
    let (code, out, words) = gradlog(&run, "compact", &["--buckets", "4", "--out", new.to_str().unwrap()]);
    assert_eq!(code, 0, "{words}");
    assert!(out.contains("buckets") && words.contains("was read back: it holds the same rows"), "{out} {words}");
    let asked = |verb: &str, arguments: &[&str]| {
        let line = [OsStr::new(verb), new.as_os_str()].into_iter().chain(arguments.iter().map(OsStr::new));
        execute_line(&line.collect::<Vec<_>>())
    };
    for (verb, question) in [
        ("scores", &["--score", "forgetting", "--format", "json"][..]),
        ("suspects", &["--format", "csv"]),
        ("map", &["--format", "csv"]),
        ("influence", &["--probe", "test", "--id", "3", "--format", "json"]),
        ("influence", &["--probe", "test", "--all", "--top", "3", "--format", "csv"]),
        ("example", &["--id", "107", "--format", "csv"]),
        ("prune", &["--score", "loss", "--keep", "0.5", "--format", "csv"]),
    ] {
        assert_eq!(asked(verb, question), gradlog(&run, verb, question), "{verb} {question:?}");
    }
    assert_eq!(asked("verify", &[]).0, 0);
    assert_eq!(asked("info", &[]).0, 0);
    for (verb, arguments) in [
        ("watch", &["--once"][..]),
        ("influence", &["--probe", "test", "--id", "3", "--method", "adjoint"]),
        ("recover", &["--out", "elsewhere"]),
        ("compact", &["--buckets", "2", "--out", "elsewhere"]),
    ] {
        let (code, _, words) = asked(verb, arguments);
        assert!(code == 1 && words.contains("is a compacted run"), "{verb}: {words}");
    }
    let (code, _, words) = gradlog(&run, "compact", &["--buckets", "4", "--out", new.to_str().unwrap()]);
    assert!(code == 1 && words.contains("is there already"), "{words}");
}

#[test]
fn workers_need_another_program() {
    let run = written(true);
    // No other test of this process looks at it.
    std::env::set_var("GRADLOG_SQL", "/no/such/gradlog-sql");
    let question = ["--score", "aum", "--cluster", "127.0.0.1:7723"];
    let (code, out, words) = gradlog(&run, "scores", &question);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(words.contains("cannot run /no/such/gradlog-sql") && words.contains("--features cluster"), "{words}");
    let (code, _, words) = gradlog(&run, "scores", &[&question[..], &["--part", "1/2", "--out", "x"]].concat());
    assert_eq!(code, 2);
    assert!(words.contains("cannot be used with"), "{words}");
}
