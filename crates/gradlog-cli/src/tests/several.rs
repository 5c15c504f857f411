//! The verbs that take several runs, and those that make lists: suspects, threshold, map, prune, velocity.

use super::*;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A run whose examples have the labels of their ids, the first five the extra class 10.
fn labeled(seed: u64, examples: u64) -> Written {
    let mut all = visits(&mut Draws(seed), examples, 3, 8);
    for visit in &mut all {
        visit.label = if visit.example < 135 { 10 } else { visit.example as u32 % 5 };
    }
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "train");
    let mut draws = Draws(seed + 100);
    for step in [0, 4, 9] {
        let label = |id: u64| if id < 135 { 10 } else { id as u32 % 5 };
        let ids = (0..12).map(|id| 100 + 7 * id);
        let probes: Vec<Visit> = ids.map(|id| Visit { label: label(id), ..draws.visit(id, step, 0) }).collect();
        run.probes(&probes);
    }
    all.chunks(16).for_each(|rows| run.visits(rows));
    run.end();
    run.finish()
}

/// Runs a verb on several runs.
fn run_verb(runs: &[&Written], verb: &str, arguments: &[&str]) -> (u8, String, String) {
    let paths: Vec<&str> = runs.iter().map(|run| run.path().to_str().unwrap()).collect();
    let line: Vec<&str> = std::iter::once(verb).chain(paths).chain(arguments.iter().copied()).collect();
    typed(&line)
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn file(run: &Written, name: &str, text: &str) -> PathBuf {
    let path = run.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Every row of the CSV has the values of the row of the JSON.
fn assert_same_rows(csv: &str, json: &Json) {
    let (header, rows) = records(csv);
    let objects = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), objects.len());
    assert!(!rows.is_empty());
    for (row, object) in rows.iter().zip(objects) {
        assert_eq!(object.as_object().unwrap().len(), header.len());
        for (name, cell) in header.iter().zip(row) {
            match &object[name.as_str()] {
                Json::Null => assert!(["", "NaN"].contains(&cell.as_str()), "{name}: {cell}"),
                Json::Number(number) => {
                    let (a, b) = (number.as_f64().unwrap(), cell.parse::<f64>().unwrap());
                    assert!((a - b).abs() <= 4.0 * f64::EPSILON * b.abs(), "{name}: {a} {b}");
                }
                Json::Bool(flag) => assert_eq!(&flag.to_string(), cell, "{name}"),
                other => assert_eq!(other.as_str(), Some(cell.as_str()), "{name}"),
            }
        }
    }
}

#[test]
fn every_list_is_the_same_as_csv_and_as_json_and_cut_as_a_table() {
    let (a, b) = (labeled(1, 30), labeled(2, 30));
    let verbs: [(&str, &[&str]); 8] = [
        ("scores", &["--score", "forgetting"]),
        ("scores", &["--score", "grand", "--over-runs", "sum"]),
        ("suspects", &[]),
        ("threshold", &["--class", "10"]),
        ("map", &[]),
        ("prune", &["--score", "el2n", "--keep", "0.7"]),
        ("prune", &["--score", "aum", "--keep", "0.5", "--random", "7"]),
        ("prune", &["--score", "forgetting", "--keep", "0.4", "--skip-hardest", "0.2", "--epochs", "1.."]),
    ];
    for (verb, arguments) in verbs {
        let with = |format: &[&str]| run_verb(&[&a, &b], verb, &[arguments, format].concat());
        let (code, csv, words) = with(&["--format", "csv"]);
        assert_eq!(code, 0, "{verb}: {words}");
        assert_same_rows(&csv, &json(&with(&["--format", "json"]).1));
        let table = with(&[]).1;
        let rows = records(&csv).1.len();
        match verb {
            // A keep-list is ids alone.
            "prune" => {
                let ids: Vec<u64> = table.lines().map(|line| line.parse().unwrap()).collect();
                assert!(ids.len() == rows && ids.windows(2).all(|w| w[0] < w[1]));
                let kept: BTreeSet<u64> = records(&csv).1.iter().map(|row| row[0].parse().unwrap()).collect();
                assert_eq!(kept, ids.into_iter().collect());
            }
            _ => assert_eq!(table.lines().count(), 2 + rows.min(20), "{verb}"),
        }
    }
}

#[test]
fn scores_over_runs_say_on_what_they_stand() {
    let (a, b) = (labeled(1, 30), labeled(2, 25));
    let (code, csv, words) = run_verb(&[&a, &b], "scores", &["--score", "el2n", "--format", "csv"]);
    assert_eq!(code, 0, "{words}");
    let (header, rows) = records(&csv);
    assert_eq!(header, ["example", "runs", "visits", "score", "spread", "not_finite", "label", "prediction"]);
    assert!(words.contains("2 runs (mean over runs)"), "{words}");
    assert!(words.contains("5 examples have a score in fewer than 2 runs"), "{words}");
    assert!(words.contains("has 25 of the 30 examples"), "{words}");
    let own = |run: &Written| {
        let rows = records(&gradlog(run, "scores", &["--score", "el2n", "--format", "csv"]).1).1;
        rows.into_iter().map(|row| (row[0].clone(), row[2].parse::<f64>().unwrap())).collect::<Vec<_>>()
    };
    let (own_a, own_b) = (own(&a), own(&b));
    for row in rows {
        let scores: Vec<f64> =
            own_a.iter().chain(&own_b).filter(|(id, _)| *id == row[0]).map(|(_, score)| *score).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        assert_eq!(row[1], scores.len().to_string());
        assert!((row[3].parse::<f64>().unwrap() - mean).abs() < 1e-12);
        assert_eq!(row[4] == "NaN", scores.len() == 1);
    }
    let mut other = visits(&mut Draws(3), 30, 3, 8);
    other.iter_mut().for_each(|visit| visit.label = 4);
    let mut run = Synthetic::new(Encoding::Q8);
    run.visits(&other);
    let other = run.finish();
    let (code, _, words) = run_verb(&[&a, &other], "scores", &["--score", "el2n"]);
    assert!(code == 0 && words.contains("warning: the runs recorded different labels for"), "{words}");
    let (code, out, words) = run_verb(&[&a, &a], "scores", &["--score", "el2n"]);
    assert!(code == 1 && out.is_empty() && words.contains("are the same run"), "{words}");
    let json =
        json(&run_verb(&[&a, &b], "scores", &["--score", "forgetting", "--over-runs", "sum", "--format", "json"]).1);
    assert_eq!((&json["over_runs"], &json["runs"], &json["partial"]), (&"sum".into(), &2.into(), &5.into()));
}

#[test]
fn prune_says_what_it_keeps_and_refuses_nonsense() {
    let run = labeled(1, 30);
    let out = run.path().join("keep.txt");
    let path = out.to_str().unwrap();
    let (code, data, words) = gradlog(
        &run,
        "prune",
        &["--score", "el2n", "--keep", "0.5", "--skip-hardest", "0.1", "--balance", "--out", path],
    );
    assert_eq!((code, data.as_str()), (0, ""), "{words}");
    assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), 15);
    assert!(words.contains("keeps 15 of 30 examples") && words.contains("kept of each label: 0: "), "{words}");
    for bad in [
        &["--score", "el2n", "--keep", "1.5"][..],
        &["--score", "el2n"],
        &["--keep", "0.5"],
        &["--score", "el2n", "--keep", "0.5", "--skip-hardest", "0.2", "--random", "1"],
    ] {
        assert_eq!(gradlog(&run, "prune", bad).0, 2, "{bad:?}");
    }
    let (code, _, words) = gradlog(&run, "prune", &["--score", "el2n", "--keep", "0.9", "--skip-hardest", "0.2"]);
    assert!(code == 2 && words.contains("at most 1 together"), "{words}");
}

#[test]
fn threshold_takes_a_class_or_files_and_says_the_cut() {
    let (a, b) = (labeled(1, 30), labeled(2, 30));
    let (code, csv, words) = run_verb(&[&a], "threshold", &["--class", "10", "--format", "csv"]);
    assert!(code == 0 && words.contains("5 threshold samples, cut at AUM"), "{words}");
    assert!(words.contains("5 examples left out"), "{words}");
    assert_eq!(records(&csv).0[..4], ["example", "flagged", "judged", "below"]);
    let ids = file(&a, "ids.txt", "example\n100\n107\n114\n\n121\n128\n");
    let ids = ids.to_str().unwrap();
    assert_eq!(run_verb(&[&a], "threshold", &["--samples", ids, "--format", "csv"]).1, csv);
    let flagged = records(&run_verb(&[&a], "threshold", &["--class", "10", "--flagged", "--format", "csv"]).1).1;
    assert!(flagged.len() < 25 && flagged.iter().all(|row| row[1] == "true"));
    assert_eq!(run_verb(&[&a, &b], "threshold", &["--samples", ids]).0, 2, "one file for two runs");
    assert_eq!(run_verb(&[&a], "threshold", &[]).0, 2);
    let (code, _, words) = run_verb(&[&a], "threshold", &["--class", "77"]);
    assert!(code == 1 && words.contains("label 77"), "{words}");
    let broken = file(&a, "broken.txt", "100\n1o7\n");
    let (code, _, words) = run_verb(&[&a], "threshold", &["--samples", broken.to_str().unwrap()]);
    assert!(code == 1 && words.contains("line 2: `1o7`"), "{words}");
    assert_eq!(run_verb(&[&a], "threshold", &["--samples", "/nonexistent"]).0, 1);
}

#[test]
fn velocity_of_the_set_of_a_file_and_of_ranks() {
    let run = labeled(1, 30);
    let with = |arguments: &[&str]| gradlog(&run, "velocity", &[&["--set", "train"], arguments].concat());
    let (code, csv, words) = with(&["--format", "csv"]);
    assert!(code == 0 && words.contains("not the neural tangent kernel"), "{words}");
    let (header, rows) = records(&csv);
    assert_eq!(header, ["group", "from_step", "to_step", "examples", "velocity"]);
    assert_eq!(rows.iter().map(|r| r[..4].join(" ")).collect::<Vec<_>>(), ["all 0 4 12", "all 4 9 12"]);
    assert_same_rows(&csv, &json(&with(&["--format", "json"]).1));
    let groups = file(&run, "groups.csv", "example,group\n100,a\n107,b\n114,a\n121,b\n5,b\n");
    let (code, csv, words) = with(&["--groups", groups.to_str().unwrap(), "--format", "csv"]);
    assert!(code == 0 && words.contains("1 example left out"), "{words}");
    let rows = records(&csv).1;
    assert_eq!(rows.iter().map(|r| r[..4].join(" ")).collect::<Vec<_>>(), ["a 0 4 2", "a 4 9 2", "b 0 4 2", "b 4 9 2"]);
    let (_, csv, _) = with(&["--by", "el2n", "--group-size", "6", "--format", "csv"]);
    let (header, rows) = records(&csv);
    assert!(header[5] == "mean_score" && rows.len() == 4 && rows[0][0] == "el2n 0 to 5");
    assert!(rows[0][5].parse::<f64>().unwrap() > rows[2][5].parse::<f64>().unwrap());
    assert_eq!(with(&["--group-size", "6"]).0, 2);
    assert_eq!(with(&["--by", "el2n", "--group-size", "0"]).0, 2);
    let (code, _, words) = gradlog(&run, "velocity", &["--set", "nope"]);
    assert!(code == 1 && words.contains("`train`"), "{words}");
}

#[test]
fn suspects_give_reasons_and_name_what_is_missing() {
    let run = labeled(1, 30);
    let (code, csv, words) = gradlog(&run, "suspects", &["--format", "csv"]);
    assert_eq!(code, 0, "{words}");
    let (header, rows) = records(&csv);
    let mut expected = vec!["example", "suspicion", "runs", "visits", "label", "proposed"];
    expected.extend(["aum", "loss", "el2n", "self-influence", "forgetting", "reasons"]);
    assert_eq!(header, expected);
    assert!(rows.iter().any(|row| row[11].contains("AUM ") && row[11].contains(", lowest ")), "{csv}");
    let mut bare = Synthetic::new(Encoding::Q8);
    bare.without = vec![Column::SquaredNorm];
    bare.visits(&visits(&mut Draws(1), 10, 2, 4));
    let (code, table, words) = gradlog(&bare.finish(), "suspects", &[]);
    assert!(code == 0 && words.contains("note: without self-influence"), "{words}");
    assert_eq!(table.lines().nth(1).unwrap().split_whitespace().last(), Some("reasons"));
}

#[test]
fn damage_is_said_by_every_list() {
    let run = labeled(1, 30);
    run.damage(6, 30);
    let calls: [(&str, &[&str]); 6] = [
        ("suspects", &["--format", "json"]),
        ("threshold", &["--class", "10", "--format", "json"]),
        ("map", &["--format", "json"]),
        ("prune", &["--score", "el2n", "--keep", "0.5", "--format", "json"]),
        ("velocity", &["--set", "train", "--format", "json"]),
        ("scores", &["--score", "el2n", "--format", "json"]),
    ];
    for (verb, arguments) in calls {
        let (code, out, words) = match verb {
            "scores" => run_verb(&[&run, &labeled(2, 30)], verb, arguments),
            _ => gradlog(&run, verb, arguments),
        };
        assert_eq!(code, 3, "{verb}: {words}");
        assert!(words.contains("is damaged at byte"), "{verb}: {words}");
        assert!(json(&out)["damage"].as_str().unwrap().contains("block 6"), "{verb}");
    }
}
