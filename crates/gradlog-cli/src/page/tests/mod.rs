//! The page of made-up runs: what it holds, what it leaves out, and what it says where a run cannot answer.

use crate::tests::typed;
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use serde_json::Value;
use std::path::Path;

mod million;
mod recorded;

/// A run of `examples` examples with probes before and in the training, and labels that belong to ids.
fn run(seed: u64, examples: u64, without: &[Column]) -> Written {
    let mut draws = Draws(seed);
    let mut run = Synthetic::new(Encoding::Q8);
    run.without = without.to_vec();
    run.set(0, "test");
    run.probes(&(3..9).map(|id| draws.visit(id, 0, 0)).collect::<Vec<Visit>>());
    let mut all = visits(&mut draws, examples, 3, 5);
    for visit in &mut all {
        visit.label = (visit.example % 3) as u32;
        visit.prediction = if visit.correct == 1.0 { visit.label } else { (visit.label + 1) % 4 };
    }
    all.chunks(11).for_each(|rows| run.visits(rows));
    run.probes(&(3..9).map(|id| draws.visit(id, 7, 1)).collect::<Vec<Visit>>());
    run.end();
    run.finish()
}

/// Writes a page with these arguments behind the runs; returns its exit code, its parts by name, and what was said.
fn report(runs: &[&Path], arguments: &[&str]) -> (u8, impl Fn(&str) -> Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let mut line: Vec<&str> = vec!["report"];
    line.extend(runs.iter().map(|run| run.to_str().unwrap()));
    line.extend(["--out", page.to_str().unwrap()]);
    line.extend(arguments);
    let (code, _, words) = typed(&line);
    let text = std::fs::read_to_string(&page).unwrap_or_default();
    let part = move |name: &str| {
        let block = text.split_once(&format!("id=\"part-{name}\">")).unwrap().1;
        serde_json::from_str(block.split_once("</script>").unwrap().0).unwrap()
    };
    (code, part, words)
}

#[test]
fn a_page_holds_every_part() {
    let written = run(1, 14, &[]);
    let (code, part, words) = report(&[written.path()], &[]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("open it in a browser"), "{words}");
    assert_eq!(part("head")["runs"][0]["examples"], 14);
    assert_eq!(part("curves")["runs"][0]["points"].as_array().unwrap().len(), 3);
    assert_eq!(part("suspects")["rows"].as_array().unwrap().len(), 14);
    assert_eq!(part("map")["shown"], 14);
    assert_eq!(part("probes")["sets"][0]["shown"], 6);
    assert!(part("probes")["sets"][0]["influence"]["variant"].is_string());
    assert!(!part("groups")["clusters"].as_array().unwrap().is_empty());
    assert_eq!(part("scores")["scores"].as_array().unwrap().len(), 9);
    assert!(part("histories")["basis"].is_string());
}

#[test]
fn what_a_run_cannot_answer_is_a_sentence_in_the_page() {
    let written = run(1, 14, &[Column::Margin, Column::El2n, Column::Confidence, Column::Correct, Column::Label]);
    let (code, part, words) = report(&[written.path()], &[]);
    assert_eq!(code, 0, "{words}");
    assert!(part("map")["missing"].as_str().unwrap().contains("confidences"));
    assert!(!part("scores")["missing_scores"].as_array().unwrap().is_empty());
    assert!(part("suspects")["rows"][0]["label"].is_null());
    let empty = Synthetic::new(Encoding::Q8).finish();
    let (code, _, words) = report(&[empty.path()], &[]);
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("there are no visits at all"), "{words}");
}

#[test]
fn a_damaged_run_has_a_page_of_what_came_before() {
    let written = run(1, 14, &[]);
    written.damage(4, 70);
    let (code, part, words) = report(&[written.path()], &[]);
    assert_eq!(code, 3, "{words}");
    assert!(part("head")["runs"][0]["damage"].is_string());
}

#[test]
fn several_runs_are_side_by_side() {
    let (a, b) = (run(1, 14, &[]), run(2, 14, &[]));
    let (code, part, words) = report(&[a.path(), b.path()], &[]);
    assert_eq!(code, 0, "{words}");
    assert_eq!(part("head")["runs"].as_array().unwrap().len(), 2);
    assert_eq!(part("curves")["runs"].as_array().unwrap().len(), 2);
    let (code, _, words) = report(&[a.path(), a.path()], &[]);
    assert_eq!(code, 1, "{words}");
}

#[test]
fn fewer_probes_are_those_with_wrong_answers_and_high_losses() {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    let probe = |id: u64, loss: f32, correct: f32| {
        let mut visit = Draws(id).visit(id, 0, 0);
        (visit.loss, visit.correct) = (loss, correct);
        visit
    };
    run.probes(&[probe(1, 0.1, 1.0), probe(2, 0.4, 0.0), probe(3, 9.0, 1.0), probe(4, 0.8, 0.0)]);
    run.visits(&visits(&mut Draws(1), 8, 2, 4));
    let written = run.finish();
    let (_, part, words) = report(&[written.path()], &["--probes", "3"]);
    let found = &part("probes")["sets"][0];
    assert_eq!((&found["probes"], &found["shown"]), (&4.into(), &3.into()), "{words}");
    use base64::Engine;
    let ids = base64::engine::general_purpose::STANDARD.decode(found["ids"]["bytes"].as_str().unwrap()).unwrap();
    assert_eq!(ids, [4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
}

#[test]
fn a_probe_without_a_gradient_does_not_take_the_others_with_it() {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    let mut probes: Vec<Visit> = (3..6).map(|id| Draws(id).visit(id, 0, 0)).collect();
    probes[1].flags = Column::FLAG_NOT_FINITE;
    probes[1].loss = f32::NAN;
    run.probes(&probes);
    run.visits(&visits(&mut Draws(1), 8, 2, 4));
    let written = run.finish();
    let (code, part, words) = report(&[written.path()], &[]);
    assert_eq!(code, 0, "{words}");
    let influence = &part("probes")["sets"][0]["influence"];
    use base64::Engine;
    let start =
        base64::engine::general_purpose::STANDARD.decode(influence["start"]["bytes"].as_str().unwrap()).unwrap();
    let start: Vec<u32> = start.chunks(4).map(|n| u32::from_le_bytes(n.try_into().unwrap())).collect();
    // Two lists for each of three probes. The one without a gradient is the last, and both of its lists are empty.
    assert_eq!((start.len(), start[4], start[6]), (7, start[6], start[6]));
    assert!(start[2] > 0 && start[4] > start[2], "{start:?}");
    assert!(influence["nearest"]["layer"].is_string(), "{}", influence["nearest"]);
}

#[test]
fn data_for_a_set_that_is_not_there_is_refused() {
    let written = run(1, 14, &[]);
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("a.csv");
    std::fs::write(&csv, "id,a\n100,x\n107,y\n").unwrap();
    let spec = |set: &str| format!("{set}csv:{}", csv.display());
    let (code, _, words) = report(&[written.path()], &["--data", &spec("nope=")]);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("no probe set `nope`") && words.contains("`test`"), "{words}");
    let (code, part, words) = report(&[written.path()], &["--data", &spec(""), "--data", &spec("test=")]);
    assert_eq!(code, 0, "{words}");
    // The suspects come first.
    let texts = &part("cards")["train"]["texts"];
    let pairs = texts["ids"].as_array().unwrap().iter().zip(texts["values"].as_array().unwrap());
    let pairs: std::collections::BTreeMap<&str, &Value> =
        pairs.map(|(id, cells)| (id.as_str().unwrap(), cells)).collect();
    assert_eq!(pairs, [("100", &serde_json::json!(["x"])), ("107", &serde_json::json!(["y"]))].into());
    assert!(words.contains("12 of 14 training examples are not in the data"), "{words}");
    let (code, _, words) = report(&[written.path()], &["--data", &spec(""), "--data", &spec("")]);
    assert_eq!(code, 2, "{words}");
}
