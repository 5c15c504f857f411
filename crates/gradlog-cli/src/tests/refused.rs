//! Arguments that a run has no answer to.

use super::{gradlog, written};
use gradlog_format::log::SEGMENT_HEADER_BYTES;
use gradlog_format::run::Run;

/// A window beside the run is a mistake in the command: no empty answer, and above all no empty keep-list.
#[test]
fn a_window_with_no_visit_in_it_is_an_error_that_says_what_there_is() {
    let run = written(true);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("keep.txt");
    let out = out.to_str().unwrap();
    let verbs: [(&str, &[&str]); 10] = [
        ("scores", &["--score", "el2n"]),
        ("suspects", &[]),
        ("map", &[]),
        ("prune", &["--score", "el2n", "--keep", "0.5", "--out", out]),
        ("influence", &["--probe", "test", "--id", "3"]),
        ("influence", &["--probe", "test", "--id", "3", "--method", "trak"]),
        ("similar", &["--example", "1"]),
        ("cluster", &[]),
        ("export", &["--format", "npy", "--out", out]),
        ("example", &["--id", "100"]),
    ];
    for (verb, arguments) in verbs {
        for (window, asked) in [
            (&["--epochs", "9..12"][..], "epochs 9..12:"),
            (&["--epochs", "4.."], "epochs 4..:"),
            (&["--steps", "1000..=1001"], "steps 1000..1002:"),
            // Each of the two has visits in a block that has those of the other, too.
            (&["--epochs", "0", "--steps", "4..5"], "epochs 0..1 and steps 4..5:"),
        ] {
            let (code, data, words) = gradlog(&run, verb, &[arguments, window].concat());
            let (has, says) = ("epochs 0 to 2 and steps 0 to 11", format!("no visit lies inside {asked}"));
            assert!(code == 1 && data.is_empty(), "{verb}: {code}, {data}");
            assert!(words.contains(&says) && words.contains(has), "{verb}: {words}");
        }
    }
    assert!(!folder.path().join("keep.txt").exists());
    let (code, _, words) = gradlog(&run, "scores", &["--score", "el2n", "--epochs", "2..100"]);
    assert_eq!(code, 0, "{words}");
    let (code, _, words) = gradlog(&run, "velocity", &["--set", "test", "--epochs", "1"]);
    assert!(code == 2 && words.contains("give --by"), "a window that no score is asked in: {words}");
    let by = ["--set", "test", "--by", "loss", "--epochs", "9"];
    let (code, _, words) = gradlog(&run, "velocity", &by);
    assert!(code == 1 && words.contains("no visit lies inside"), "{words}");
}

/// The folder around a run is a likely slip, and a number below zero reaches the option that it was meant for.
#[test]
fn slips_are_answered_with_what_was_meant() {
    let run = written(true);
    let around = tempfile::tempdir().unwrap();
    std::fs::create_dir(around.path().join("run")).unwrap();
    std::fs::copy(run.path().join("manifest"), around.path().join("run/manifest")).unwrap();
    let (code, data, words) = super::execute_line(&["info".as_ref(), around.path().as_os_str()]);
    let inside = around.path().join("run").display().to_string();
    assert!(code == 1 && data.is_empty() && words.contains(&format!("there is a run in {inside}")), "{words}");
    for (verb, arguments, says) in [
        ("scores", &["--score", "aum", "--top", "-1"][..], "'-1' for '--top <N>'"),
        ("scores", &["--score", "aum", "--epochs", "-1..2"], "`-1` is not a whole number"),
        ("example", &["--id", "-1"], "'-1' for '--id <N>'"),
        ("influence", &["--probe", "test", "--ids", "-1"], "'-1' for '--ids"),
    ] {
        let (code, _, words) = gradlog(&run, verb, arguments);
        assert!(code == 2 && words.contains(says) && !words.contains("-- -1"), "{verb}: {words}");
    }
}

/// A file is not cut to the rows that a terminal shows, whatever its name ends in.
#[test]
fn a_table_in_a_file_is_whole() {
    let run = written(true);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("scores.txt");
    let (code, data, words) = gradlog(&run, "scores", &["--score", "aum", "--out", out.to_str().unwrap()]);
    assert!(code == 0 && data.is_empty() && !words.contains("more:"), "{words}");
    let (_, whole, _) = gradlog(&run, "scores", &["--score", "aum", "--top", "1000000"]);
    assert_eq!(std::fs::read_to_string(out).unwrap(), whole);
    assert!(whole.lines().count() > 21, "more rows than a table shows");
}

/// What lies behind damage is not called absent, and no keep-list is written of it.
#[test]
fn a_window_behind_damage_is_told_of_as_damage() {
    let run = written(true);
    let opened = Run::open(run.path()).unwrap();
    let before: u64 = opened.scan().take_while(|block| block.epochs().0 == 0).map(|block| block.bytes()).sum();
    let offset = SEGMENT_HEADER_BYTES as u64 + before;
    let path = run.path().join("segment-00000.glog");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[offset as usize + 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (code, _, words) = gradlog(&run, "scores", &["--score", "el2n", "--epochs", "2"]);
    assert!(code == 1 && words.contains("is damaged at") && !words.contains("no visit"), "{code}: {words}");
    assert!(words.contains("may lie behind the damage"), "{words}");
    let out = run.path().join("keep.txt");
    let prune = ["--score", "el2n", "--keep", "0.5", "--epochs", "2", "--out", out.to_str().unwrap()];
    let (code, _, words) = gradlog(&run, "prune", &prune);
    assert!(code == 1 && words.contains("is damaged at") && words.contains("nothing to keep"), "{code}: {words}");
    assert!(!out.exists());
}

/// A negative number is told from an argument, so that the error is about the number.
#[test]
fn negative_numbers_are_refused_as_numbers() {
    let run = written(true);
    let influence = ["--probe", "test", "--id", "3", "--method", "if", "--damping", "-1"];
    for (verb, arguments) in [("influence", &influence[..]), ("prune", &["--score", "el2n", "--keep", "-0.5"])] {
        let (code, _, words) = gradlog(&run, verb, arguments);
        assert!(code != 0 && !words.contains("unexpected"), "{verb}: {words}");
        assert!(words.contains("-1") || words.contains("-0.5"), "{verb}: {words}");
    }
}

/// A list that keeps nobody would be taken for a training set.
#[test]
fn an_empty_keep_list_is_not_written() {
    let run = written(true);
    let out = run.path().join("keep.txt");
    let prune = ["--score", "el2n", "--keep", "0.001", "--out", out.to_str().unwrap()];
    let (code, _, words) = gradlog(&run, "prune", &prune);
    assert!(code == 1 && words.contains("0.001 of 30 examples is less than one example"), "{words}");
    assert!(!out.exists());
}

/// An error says what happened, why, and what to do, each once.
#[test]
fn errors_say_each_fact_once() {
    let run = written(true);
    let (code, _, words) = gradlog(&run, "scores", &["--score", "loss", "--out", "/nonexistent/folder/x.csv"]);
    assert_eq!((code, words.matches("No such file").count()), (1, 1), "{words}");
    assert!(
        words.contains("cannot write /nonexistent/folder/x.csv: No such") && words.contains("another --out"),
        "{words}"
    );
    let (code, _, words) = gradlog(&run, "scores", &["--score", "forgetting", "--at", "sweep"]);
    assert_eq!((code, words.matches("--at").count()), (2, 1), "{words}");
    run.damage(4, 30);
    let (code, _, words) = gradlog(&run, "influence", &["--probe", "nope", "--id", "3"]);
    assert_eq!((code, words.matches("no probe set `nope`").count(), words.matches("damaged at").count()), (1, 1, 1));
}

/// docs/remote.md: the command is built without object stores unless somebody asks for them.
#[cfg(not(feature = "remote"))]
#[test]
fn an_address_of_a_store_is_refused_with_how_to_read_it() {
    let type_in = |line: &[&str]| crate::run_line(line.iter().map(Into::into));
    let lines: [&[&str]; 3] =
        [&["info", "s3://bucket/run"], &["suspects", "gs://bucket/run"], &["sync", "run", "s3://b"]];
    for line in lines {
        let refused = type_in(line);
        assert_eq!((refused.code, refused.data.len()), (2, 0), "{line:?}: {}", refused.words);
        assert!(refused.words.contains("with the feature `remote`"), "{line:?}: {}", refused.words);
    }
    for (verb, why) in [("watch", "`watch` follows a recorder"), ("serve", "`serve` follows runs")] {
        let refused = type_in(&[verb, "s3://bucket/run"]);
        assert!(refused.code == 2 && refused.words.contains(why), "{}", refused.words);
    }
    // A folder whose name has a colon is a folder.
    assert!(type_in(&["info", "runs:/none"]).words.contains("there is no such folder"));
}
