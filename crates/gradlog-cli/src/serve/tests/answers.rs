//! What the server answers is what the command says.

use super::with_server;
use crate::tests::{gradlog, typed, written};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use serde_json::Value;
use std::collections::BTreeMap;

/// Losses are cross entropies, and labels belong to ids.
fn labeled(mut all: Vec<Visit>) -> Vec<Visit> {
    for visit in &mut all {
        visit.loss = -visit.confidence.ln();
        visit.label = (visit.example % 3) as u32;
        visit.prediction = if visit.correct == 1.0 { visit.label } else { (visit.label + 1) % 4 };
    }
    all
}

/// A run with labels, recorded curvature and two probe times.
fn run() -> Written {
    let mut draws = Draws(1);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "te st/&?");
    run.set(1, "fisher");
    run.probes(&labeled((3..9).map(|id| draws.visit(id, 0, 0)).collect()));
    let mut curvature = labeled((0..6).map(|id| draws.visit(500 + id, 0, 0)).collect());
    for row in &mut curvature {
        (row.set, row.curvature_weight) = (1, Some(0.5 + (row.example % 2) as f32));
    }
    run.probes(&curvature);
    let all = labeled(visits(&mut draws, 24, 3, 5));
    all.chunks(11).for_each(|rows| run.visits(rows));
    let steps = all.last().unwrap().step + 1;
    run.optimizer(&(0..steps).map(|step| (step, 0.1, 0.9, 0.0005)).collect::<Vec<_>>());
    run.probes(&labeled((3..9).map(|id| draws.visit(id, 7, 1)).collect()));
    run.end();
    run.finish()
}

const SET: &str = "te%20st%2F%26%3F";

#[test]
fn influence_is_that_of_the_command_to_the_last_byte() {
    let run = run();
    with_server(&[run.path()], &[], |client| {
        for (query, options) in [
            ("id=3&top=5", &["--id", "3", "--top", "5"][..]),
            ("id=8", &["--id", "8", "--top", "12"]),
            ("id=3&top=1000", &["--id", "3", "--top", "1000"]),
            ("ids=3,4&top=7&normalize=cosine", &["--ids", "3,4", "--top", "7", "--normalize", "cosine"]),
            ("mean=1&top=7&epochs=1..3", &["--mean", "--top", "7", "--epochs", "1..3"]),
            ("class=1&top=7&steps=2..", &["--class", "1", "--top", "7", "--steps", "2.."]),
            ("id=4&top=3&by=epoch", &["--id", "4", "--top", "3", "--by", "epoch"]),
            ("id=4&top=3&by=layer", &["--id", "4", "--top", "3", "--by", "layer"]),
            ("id=4&nearest=4&nearest-in=fc", &["--id", "4", "--nearest", "4", "--nearest-in", "fc"]),
            ("id=4&top=3&layers=fc,head", &["--id", "4", "--top", "3", "--layers", "fc,head"]),
            (
                "id=4&top=3&probe-time=nearest&optimizer=sgd",
                &["--id", "4", "--top", "3", "--probe-time", "nearest", "--optimizer", "sgd"],
            ),
            (
                "id=5&top=6&method=if&damping=0.1,1",
                &["--id", "5", "--top", "6", "--method", "if", "--damping", "0.1,1"],
            ),
            (
                "id=5&top=6&method=if&curvature=set:fisher&by-layer",
                &["--id", "5", "--top", "6", "--method", "if", "--curvature", "set:fisher", "--by-layer"],
            ),
            ("id=5&top=6&method=ekfac", &["--id", "5", "--top", "6", "--method", "ekfac"]),
            (
                "id=5&top=6&method=datainf&numbers=64",
                &["--id", "5", "--top", "6", "--method", "datainf", "--numbers", "64"],
            ),
            (
                "id=5&top=6&method=trak&soft-threshold=0.001",
                &["--id", "5", "--top", "6", "--method", "trak", "--soft-threshold", "0.001"],
            ),
            (
                "id=5&top=6&method=adjoint&curvature=none",
                &["--id", "5", "--top", "6", "--method", "adjoint", "--curvature", "none"],
            ),
        ] {
            let options = [&["--probe", "te st/&?", "--format", "json"], options].concat();
            let (code, expected, words) = gradlog(&run, "influence", &options);
            assert_eq!(code, 0, "{query}: {words}");
            let reply = client.get(&format!("influence?probe={SET}&{query}"));
            assert_eq!(reply.status, 200, "{query}: {}", reply.text());
            let text = reply.text();
            let answer = text.split_once("\"answer\":").unwrap().1.strip_suffix('}').unwrap();
            assert_eq!(answer, expected.trim_end(), "{query}");
            let said: Vec<&str> = words.lines().collect();
            assert_eq!(reply.json()["words"], serde_json::json!(said), "{query}");
            assert!(reply.json()["answer"]["rows"].as_array().unwrap().len() >= 3, "{query}");
        }
        let refused = client.get(&format!("influence?probe={SET}&id=5&method=if&soft-threshold=1"));
        let (_, _, words) = gradlog(
            &run,
            "influence",
            &["--probe", "te st/&?", "--id", "5", "--method", "if", "--soft-threshold", "1"],
        );
        assert_eq!(format!("error: {}", refused.text()), words);
        assert_eq!(refused.status, 400);
    });
}

#[test]
fn panels_are_the_parts_of_the_page() {
    let run = run();
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let (code, _, words) = typed(&["report", run.path().to_str().unwrap(), "--out", page.to_str().unwrap()]);
    assert_eq!(code, 0, "{words}");
    let text = std::fs::read_to_string(&page).unwrap();
    let part = |name: &str| -> Value {
        let block = text.split_once(&format!("id=\"part-{name}\">")).unwrap().1;
        serde_json::from_str(block.split_once("</script>").unwrap().0).unwrap()
    };
    with_server(&[run.path()], &[], |client| {
        for name in ["head", "curves", "suspects", "map"] {
            assert_eq!(client.get(name).json(), part(name), "{name}");
        }
        let (mut groups, served) = (part("groups"), client.get("groups").json());
        let neighbors = groups.as_object_mut().unwrap().remove("neighbors").unwrap();
        assert_eq!(served, groups);
        for (id, list) in neighbors.as_object().unwrap() {
            assert_eq!(&client.get(&format!("neighbors?id={id}")).json(), list, "{id}");
        }
        let (mut sets, served) = (part("probes"), client.get("probes").json());
        sets["sets"][0].as_object_mut().unwrap().remove("influence");
        assert_eq!(served, sets);
        for about in part("scores")["scores"].as_array().unwrap() {
            let name = about["score"].as_str().unwrap();
            assert_eq!(&client.get(&format!("score?name={name}")).json(), about);
        }
        let histories = part("histories");
        assert_eq!(client.get("visits").json()["start"], histories["start"]);
        let one = client.get("histories?ids=100").json();
        assert_eq!(one["basis"], histories["basis"]);
    });
}

#[test]
fn pages_of_the_table_hold_the_numbers_of_the_command() {
    let run = run();
    with_server(&[run.path()], &[], |client| {
        for score in gradlog_analysis::Score::ALL {
            let name = score.name();
            let (code, json, words) = gradlog(&run, "scores", &["--score", name, "--format", "json"]);
            assert_eq!(code, 0, "{words}");
            let expected: Value = serde_json::from_str(&json).unwrap();
            let row = |row: &Value| (row["example"].to_string(), row["score"].to_string());
            let expected: BTreeMap<String, String> = expected["rows"].as_array().unwrap().iter().map(row).collect();
            let (mut found, mut numbers) = (BTreeMap::new(), Vec::new());
            for first in (0..24).step_by(7) {
                let page = client.get(&format!("rows?score={name}&first={first}&count=7&order=down")).json();
                assert_eq!((&page["total"], &page["examples"]), (&24.into(), &24.into()));
                for row in page["rows"].as_array().unwrap() {
                    numbers.extend(row["values"][name].as_f64());
                    found.insert(row["id"].as_str().unwrap().to_owned(), row["values"][name].to_string());
                }
            }
            assert_eq!(found, expected, "{name}");
            assert!(numbers.is_sorted_by(|a, b| a >= b), "{name}: {numbers:?}");
        }
        let two = client.get("rows?score=loss&columns=aum,grand&count=1").json();
        assert_eq!(two["rows"][0]["values"].as_object().unwrap().len(), 3);
    });
}

#[test]
fn examples_and_pictures_are_there_for_any_id() {
    let run = written(true);
    let folder = tempfile::tempdir().unwrap();
    let csv = |name: &str, rows: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("id,a,label\n{rows}")).unwrap();
        format!("csv:{}", path.display())
    };
    let (train, test) = (csv("train.csv", "100,x,1\n107,</script>,2\n"), csv("test.csv", "3,probe,0\n"));
    with_server(&[run.path()], &[&train, &format!("test={test}")], |client| {
        let found = client.get("examples?ids=100,107,5").json();
        assert_eq!(found.as_array().unwrap().len(), 2);
        assert_eq!(found[0]["id"], "100");
        let cards = client.get("cards?of=train&ids=107,100,114").json();
        assert_eq!(cards["texts"]["ids"], serde_json::json!(["107", "100"]));
        assert_eq!(client.get("data").json()["notes"], serde_json::json!([]));
        // The same ids of another set are others.
        assert_eq!(client.get("cards?of=train&ids=3").status, 200);
        assert_eq!(client.get("cards?of=probe:test&ids=3").json()["texts"]["values"][0][0], "probe");
        assert_eq!(client.get("histories?ids=3").json()["ids"]["bytes"], "");
        let curve = client.get("histories?set=test&ids=3").json();
        assert_eq!(curve["ids"]["bytes"], "AwAAAA==");
        assert_eq!(client.get("histories?set=nope&ids=3").status, 422);
        assert_eq!(client.get("cards?of=nope&ids=3").status, 400);
    });
}

#[test]
fn data_of_other_examples_is_noticed() {
    let run = run();
    let folder = tempfile::tempdir().unwrap();
    let notes = |label: u64| {
        let csv = folder.path().join(format!("{label}.csv"));
        let rows: String = (0..24).map(|at| 100 + 7 * at).map(|id| format!("{id},x,{}\n", (id + label) % 3)).collect();
        std::fs::write(&csv, format!("id,a,label\n{rows}")).unwrap();
        let mut found = Value::Null;
        with_server(&[run.path()], &[&format!("csv:{}", csv.display())], |client| {
            found = client.get("data").json()["notes"].clone();
            // Those that differ are named, example by example.
            let differing = client.get("cards?of=train&ids=100,107").json()["labels"].as_object().unwrap().len();
            assert_eq!(differing, if label == 0 { 0 } else { 2 });
        });
        found
    };
    let missing = "note: there is no data for the probe set `te st/&?`: give --data te st/&?=...";
    assert_eq!(notes(0), serde_json::json!([missing]));
    assert!(notes(1)[0].as_str().unwrap().contains("only 0 % of the training examples"), "{}", notes(1));
}

#[test]
fn what_a_run_cannot_answer_is_a_sentence() {
    let empty = Synthetic::new(Encoding::Q8).finish();
    with_server(&[empty.path()], &[], |client| {
        assert_eq!(client.get("state").json()["visits"], 0);
        assert_eq!(client.get("head").json()["runs"][0]["visits"], 0);
        assert_eq!(client.get("probes").json()["sets"], serde_json::json!([]));
        for path in ["map", "suspects", "curves"] {
            let reply = client.get(path);
            assert!(reply.status == 422 && reply.text().contains("no visits"), "{path}: {}", reply.text());
        }
    });
    let gone = written(true);
    with_server(&[gone.path()], &[], |client| {
        std::fs::remove_file(gone.path().join("manifest")).unwrap();
        let reply = client.get("head");
        assert_eq!(reply.status, 500);
        assert!(reply.text().contains("manifest"), "{}", reply.text());
    });
}
