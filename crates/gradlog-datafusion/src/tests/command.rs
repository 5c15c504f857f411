//! The program `gradlog-sql`: its data, its words, its exit codes.

use super::*;
use crate::command::execute;
use std::path::Path;

/// The exit code, stdout and stderr of a command line.
fn typed(run: &Path, query: &str, more: &[&str]) -> (u8, String, String) {
    let line = [&["gradlog-sql", run.to_str().unwrap(), query], more].concat();
    let (mut out, mut words) = (Vec::new(), Vec::new());
    let code = execute(line.into_iter().map(Into::into), &mut out, &mut words, false);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(words).unwrap())
}

#[test]
fn rows_are_printed_as_the_command_prints_them() {
    let written = plain_run();
    let query =
        "select epoch, count(*) n, cast(avg(loss) as float) loss from visits where epoch < 2 group by 1 order by 1";
    let (code, out, words) = typed(written.path(), query, &[]);
    assert_eq!((code, words.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["epoch", "n", "loss"]);
    assert!(lines[1].trim_start().starts_with("0  41"), "{out}");
    let (code, out, _) = typed(written.path(), query, &["--format", "csv"]);
    assert_eq!((code, out.lines().next()), (0, Some("epoch,n,loss")));
    let (_, out, _) = typed(written.path(), query, &["--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((json["query"].as_str(), json["rows"].as_array().unwrap().len()), (Some(query), 2));
    assert_eq!((json["damage"].is_null(), json["rows"][0]["n"].as_u64()), (true, Some(41)));
    let values = "select 1.5 a, -3 b, 'x' c, null d, true e, cast(0.1 as float) f, \
                  to_timestamp_millis(0) g, cast(-1 as bigint) h";
    let (_, out, _) = typed(written.path(), values, &["--format", "csv"]);
    assert_eq!(out.lines().nth(1), Some("1.5,-3.0,x,,true,0.1,1970-01-01T00:00:00,-1.0"));
}

#[test]
fn answers_rest_on_something() {
    let written = plain_run();
    let (code, out, words) =
        typed(written.path(), "select example, score from scores('aum') order by score limit 2", &[]);
    assert_eq!((code, out.lines().count()), (0, 3));
    assert!(words.contains("basis: visits"), "{words}");
    let (code, out, words) = typed(written.path(), "select * from visits where epoch > 99", &[]);
    assert_eq!((code, out.lines().count()), (0, 1));
    assert!(words.contains("note: there are no rows"), "{words}");
}

#[test]
fn plans_are_lines() {
    let written = plain_run();
    let (code, out, _) = typed(written.path(), "explain select avg(loss) from visits", &["--partitions", "2"]);
    assert_eq!(code, 0);
    assert!(out.lines().any(|line| line.trim_start().starts_with("RecordScanExec: visits")), "{out}");
    assert!(out.contains("partitions=2"), "{out}");
    let (code, out, _) = typed(written.path(), "explain analyze select avg(loss) from visits", &[]);
    assert_eq!(code, 0);
    assert!(out.contains("blocks_read=15"), "{out}");
}

#[test]
fn files_appear_whole() {
    let written = plain_run();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("epochs.parquet");
    let query = "select epoch, avg(loss) loss from visits group by epoch";
    let (code, out, _) = typed(written.path(), query, &["--out", file.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert_eq!(&std::fs::read(&file).unwrap()[..4], b"PAR1");
    let nowhere = dir.path().join("no/such/folder.csv");
    let (code, _, words) = typed(written.path(), query, &["--out", nowhere.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(words.contains("cannot write"), "{words}");
    let mut out = Vec::new();
    let line = ["gradlog-sql", written.path().to_str().unwrap(), query, "--format", "arrow"];
    assert_eq!(execute(line.into_iter().map(Into::into), &mut out, &mut Vec::new(), true), 2, "a terminal");
}

#[test]
fn what_cannot_be_asked_is_said() {
    let written = plain_run();
    for (query, code, needle) in [
        ("selec 1", 2, "error: "),
        ("select nothing from visits", 2, "`describe visits`"),
        ("select * from visit", 2, "`show tables`"),
        ("drop table visits", 2, "DDL not supported"),
        ("insert into visits select * from visits", 2, "DML not supported"),
        ("copy visits to 'x.csv'", 2, "not supported"),
        ("create external table t stored as csv location '/etc/passwd'", 2, "not supported"),
        ("select * from scores('aumm')", 2, "aumm"),
        ("select * from scores('forgetting', 'at=sweep')", 2, "not defined on sweeps"),
        ("select * from influence('nobody')", 1, "no probe set `nobody`"),
        ("select 1 / (epoch - epoch) from visits", 1, "Divide by zero"),
    ] {
        let (found, out, words) = typed(written.path(), query, &[]);
        assert_eq!((found, out.as_str()), (code, ""), "{query}: {words}");
        assert!(words.contains(needle), "{query}: {words}");
    }
    let (code, _, words) = typed(Path::new("/no/such/run"), "select 1", &[]);
    assert_eq!(code, 1);
    assert!(words.contains("/no/such/run"), "{words}");
    let (code, ..) = typed(written.path(), "select 1", &["--format", "yaml"]);
    assert_eq!(code, 2);
}

#[test]
fn a_damaged_run_ends_with_3() {
    // In the header of a block, and in a column of one.
    for (distance, queries) in [
        (20, &["select loss from visits", "select * from scores('aum')", "select * from influence('test', 3)"][..]),
        (900, &["select * from visits", "select * from visits order by loss limit 3"]),
    ] {
        let written = plain_run();
        written.damage(9, distance);
        for query in queries {
            let (code, out, words) = typed(written.path(), query, &["--format", "json"]);
            assert_eq!(code, 3, "{query}: {words}");
            assert!(words.contains("warning: ") && words.contains("block 9"), "{words}");
            let json: serde_json::Value = serde_json::from_str(&out).unwrap();
            assert!(json["damage"].as_str().unwrap().contains("block 9"), "{out}");
            assert!(!json["rows"].as_array().unwrap().is_empty());
        }
        let (_, out, _) = typed(written.path(), queries[0], &["--format", "csv"]);
        let rows = out.lines().count() - 1;
        // Sets and probes come first, then blocks of 17 visits.
        assert_eq!(rows % 17, 0, "{rows}");
        assert!(rows > 50 && rows < 200, "{rows}");
    }
}
