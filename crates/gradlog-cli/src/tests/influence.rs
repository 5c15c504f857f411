//! `gradlog influence` beyond one probe's scores: normalized, of some layers, of groups, in parts, beside the nearest.

use super::{gradlog, records, written};
use serde_json::Value as Json;
use std::collections::BTreeMap;

fn json(arguments: &[&str]) -> (Json, String) {
    let run = written(true);
    let mut all = vec!["--probe", "test", "--format", "json"];
    all.extend(arguments);
    let (code, json, words) = gradlog(&run, "influence", &all);
    assert_eq!(code, 0, "{arguments:?}: {words}");
    (serde_json::from_str(&json).unwrap(), words)
}

/// By example, the score.
fn scores(arguments: &[&str]) -> BTreeMap<u64, f64> {
    let (json, _) = json(arguments);
    let rows = json["rows"].as_array().unwrap();
    rows.iter().map(|row| (row["example"].as_u64().unwrap(), row["score"].as_f64().unwrap_or(f64::NAN))).collect()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-5 * (1.0 + b.abs()) || a.is_nan() && b.is_nan()
}

#[test]
fn normalized_and_of_some_layers() {
    let plain = scores(&["--id", "3"]);
    for by in ["cosine", "relatif"] {
        let normalized = scores(&["--id", "3", "--normalize", by]);
        assert_eq!(plain.len(), normalized.len());
        assert!(plain.iter().all(|(example, score)| !near(*score, normalized[example])));
        let (told, words) = json(&["--id", "3", "--normalize", by, "--layers", "fc,conv"]);
        assert_eq!((told["normalise"].as_str(), told["layers"].as_str()), (Some(by), Some("fc, conv")));
        assert!(words.contains("of these layers alone: fc, conv"), "{words}");
    }
    let [fc, head, conv] = ["fc", "head", "conv"].map(|layer| scores(&["--id", "3", "--layers", layer]));
    assert!(plain.iter().all(|(example, score)| near(fc[example] + head[example] + conv[example], *score)));
    let run = written(true);
    let ask = |arguments: &[&str]| {
        let mut all = vec!["--probe", "test", "--id", "3"];
        all.extend(arguments);
        gradlog(&run, "influence", &all)
    };
    let (code, _, words) = ask(&["--layers", "fc7"]);
    assert!(code == 1 && words.contains("`fc7`") && words.contains("`head`"), "{words}");
    assert_eq!(ask(&["--normalize", "l2"]).0, 2);
    for refused in [&["--normalize", "cosine"][..], &["--layers", "fc"], &["--by", "layer"]] {
        let mut all = vec!["--method", "datainf"];
        all.extend(refused);
        let (code, _, words) = ask(&all);
        assert!(words.contains("only TracIn") || words.contains("TracIn alone"), "{refused:?}: {words}");
        assert_eq!(code, 2, "{refused:?}: {words}");
    }
}

#[test]
fn parts_add_up_in_every_format() {
    let plain = scores(&["--id", "3"]);
    for (by, parts) in [("layer", 3), ("epoch", 3)] {
        let (told, _) = json(&["--id", "3", "--by", by, "--top", "4"]);
        let rows = told["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 8 * parts);
        let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
        for row in rows {
            let example = row["example"].as_u64().unwrap();
            assert!(row[by].is_string() == (by == "layer") && row["error"].as_f64().unwrap() >= 0.0);
            assert!(near(row["whole"].as_f64().unwrap(), plain[&example]));
            *sums.entry(example).or_default() += row["score"].as_f64().unwrap();
        }
        assert_eq!(sums.len(), 8);
        assert!(sums.iter().all(|(example, sum)| near(*sum, plain[example])));

        let run = written(true);
        let table = gradlog(&run, "influence", &["--probe", "test", "--id", "3", "--by", by, "--top", "4"]).1;
        let head = table.lines().nth(1).unwrap();
        let names = if by == "layer" { ["fc", "head", "conv"] } else { ["epoch 0", "epoch 1", "epoch 2"] };
        assert!(names.iter().all(|name| head.contains(name)) && head.contains("role"), "{head}");
        for line in table.lines().filter(|line| line.contains("ponent")) {
            let cells: Vec<f64> =
                line.split_whitespace().skip(1).map(|cell| cell.parse().unwrap_or(f64::NAN)).collect();
            let sum: f64 = cells[cells.len() - 3..].iter().sum();
            assert!((sum - cells[2]).abs() < 1e-3 * (1.0 + cells[2].abs()), "{line}");
        }
        assert_eq!(table.lines().filter(|line| line.contains("ponent")).count(), 8);

        let all = ["--probe", "test", "--all", "--by", by, "--top", "2", "--format", "csv"];
        let (header, rows) = records(&gradlog(&run, "influence", &all).1);
        assert_eq!(header, ["example", "probe", by, "score", "error", "whole"]);
        assert_eq!(rows.len(), 2 * 4 * parts);
        // Without --top ten of both ends.
        let few = ["--probe", "test", "--id", "3", "--by", by, "--format", "csv"];
        assert_eq!(records(&gradlog(&run, "influence", &few).1).1.len(), 20 * parts);
    }
}

#[test]
fn groups_are_means() {
    let [three, four] = ["3", "4"].map(|id| scores(&["--id", id]));
    for group in [&["--ids", "3,4"][..], &["--ids", "4,3"], &["--mean"]] {
        let both = scores(group);
        assert!(both.iter().all(|(example, score)| near(*score, (three[example] + four[example]) / 2.0)), "{group:?}");
        let (told, words) = json(group);
        assert!(
            told["probes"] == 2 && told.get("probe").is_none() && words.contains("the mean of 2 probes"),
            "{words}"
        );
    }
    let (one, _) = json(&["--id", "3"]);
    let label = one["probe_label"].to_string();
    let (told, words) = json(&["--class", &label]);
    assert!(told["probe_label"] == one["probe_label"] && words.contains(&format!("all of label {label}")), "{words}");
    let run = written(true);
    let ask = |arguments: &[&str]| {
        let mut all = vec!["--probe", "test"];
        all.extend(arguments);
        gradlog(&run, "influence", &all)
    };
    let (code, _, words) = ask(&["--class", "77"]);
    assert!(code == 1 && words.contains("class 77 of `test`"), "{words}");
    let (code, _, words) = ask(&["--ids", "3,5"]);
    assert!(code == 1 && words.contains("does not hold example 5"), "{words}");
    for wrong in [&["--ids", "3", "--all"][..], &["--mean", "--id", "3"], &["--class", "1", "--mean"], &["--ids", ""]] {
        assert_eq!(ask(wrong).0, 2, "{wrong:?}");
    }
    let (code, _, words) = ask(&["--mean", "--method", "if"]);
    assert!(code == 2 && words.contains("a group of probes"), "{words}");
}

#[test]
fn the_nearest_stand_beside_the_strongest() {
    let (told, words) = json(&["--id", "3", "--nearest", "5"]);
    let rows = told["rows"].as_array().unwrap();
    let of = |role: &str| rows.iter().filter(|row| row["role"] == role).collect::<Vec<_>>();
    let nearest = of("nearest");
    assert_eq!([of("proponent").len(), of("opponent").len(), nearest.len()], [5; 3]);
    let distances: Vec<f64> = nearest.iter().map(|row| row["distance"].as_f64().unwrap()).collect();
    assert!(distances.windows(2).all(|w| w[0] <= w[1]));
    let ids = |role: &str| of(role).iter().map(|row| row["example"].as_u64().unwrap()).collect::<Vec<_>>();
    for (role, key) in [("proponent", "nearest_also_proponents"), ("opponent", "nearest_also_opponents")] {
        let both = ids("nearest").iter().filter(|id| ids(role).contains(id)).count();
        assert_eq!(told[key], both);
        // None of the others is nearer.
        for row in of(role).iter().filter(|row| !ids("nearest").contains(&row["example"].as_u64().unwrap())) {
            assert!(row["distance"].as_f64().unwrap() >= distances[4]);
        }
    }
    for (role, key) in [("proponent", "same_label_proponents"), ("nearest", "same_label_nearest")] {
        let same = of(role).iter().filter(|row| row["label"] == told["probe_label"]).count();
        assert!(near(told[key].as_f64().unwrap(), same as f64 / 5.0));
    }
    assert!(told["features"] == "head" && words.contains("nearest by the input of `head`"), "{words}");
    let (other, _) = json(&["--id", "3", "--nearest", "5", "--nearest-in", "fc"]);
    assert_eq!(other["features"], "fc");
    let run = written(true);
    for wrong in
        [&["--all", "--nearest", "3"][..], &["--id", "3", "--nearest", "0"], &["--id", "3", "--nearest-in", "fc"]]
    {
        let mut all = vec!["--probe", "test"];
        all.extend(wrong);
        assert_eq!(gradlog(&run, "influence", &all).0, 2, "{wrong:?}");
    }
}
