//! Influence by SQL against the library.

use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::Array;
use gradlog_analysis::{InfluenceQuestion, Normalization};

/// Example, probe, visits, and the bits of score and error.
type Line = (u64, u64, u64, u64, Option<u64>);

fn found(batch: &RecordBatch) -> Vec<Line> {
    let whole = |name: &str, row| batch[name].as_primitive::<UInt64Type>().value(row);
    let errors = batch["error"].as_primitive::<Float64Type>();
    let scores = batch["score"].as_primitive::<Float64Type>();
    let line = |row| {
        let error = errors.is_valid(row).then(|| errors.value(row).to_bits());
        (whole("example", row), whole("probe", row), whole("visits", row), scores.value(row).to_bits(), error)
    };
    let mut lines: Vec<Line> = (0..batch.num_rows()).map(line).collect();
    lines.sort();
    lines
}

fn expected(run: &Run, question: InfluenceQuestion, top: Option<usize>) -> Vec<Line> {
    let found = question.sketch_errors().compute(run).unwrap();
    let mut lines = Vec::new();
    for (number, probe) in found.probes.iter().enumerate() {
        let rows = match top {
            None => found.ranking(number),
            Some(top) => [found.proponents(number, top), found.opponents(number, top)].concat(),
        };
        lines.extend(rows.into_iter().map(|row| {
            let about = &found.rows[row];
            let error = found.sketch_error(row, number).map(f64::to_bits);
            (about.example, probe.id, about.visits, found.score(row, number).to_bits(), error)
        }));
    }
    lines.sort();
    lines
}

#[test]
fn rows_are_those_of_the_library() {
    let written = plain_run();
    let (_dir, run) = compacted(&written.run(), 6);
    for run in [written.run().clone(), run] {
        for shares in [1, 2, 5] {
            let asked = Asked::with(RunTables::new(run.clone()).unwrap().with_shares(shares), 2);
            let all = || InfluenceQuestion::new("test");
            for (call, question, top) in [
                ("'test'", all(), None),
                ("'test', null", all(), None),
                ("'test', 3", all(), Some(3)),
                ("'test', 3, 'ids=2'", all().id(2), Some(3)),
                ("'test', 1, 'ids=3,1'", all().ids([1, 3]), Some(1)),
                ("'test', 2000, 'epochs=2..4'", all().epochs(2..4), Some(2000)),
                ("'test', 4, 'normalize=cosine'", all().normalization(Normalization::Cosine), Some(4)),
                ("'test', 4, 'layers=fc'", all().layers(["fc"]), Some(4)),
                ("'hard', 2", InfluenceQuestion::new("hard"), Some(2)),
            ] {
                let rows = asked.ask(&format!("select * from influence({call})"));
                assert_eq!(found(&rows), expected(&run, question, top), "{call} in {shares} shares");
                assert!(rows.num_rows() > 1, "{call}");
            }
            let words = asked.tables.take_words();
            assert!(words.iter().any(|line| line.starts_with("variant: probes at 2 times")), "{words:?}");
        }
    }
}

#[test]
fn the_plan_shows_probes_and_shares() {
    let written = plain_run();
    let query =
        "explain select example, score from influence('test', 5, 'epochs=1..') where probe = 2 order by score desc";
    let asked = Asked::new(written.run().clone());
    let text = sorted(&asked.ask(query)).join("\n");
    assert!(text.contains("InfluenceExec: set=test, probes=3 [1, 2, 3], top=5"), "{text}");
    assert!(text.contains("epochs=1.."), "{text}");
    assert!(!text.contains("StrongestExec"), "{text}");
    let asked = Asked::with(RunTables::new(written.run().clone()).unwrap().with_shares(4), 2);
    let text = sorted(&asked.ask(query)).join("\n");
    let merged = text.find("StrongestExec: top=5").unwrap();
    assert!(text[merged..].contains("CoalescePartitionsExec") && text[merged..].contains("shares=4"), "{text}");
}

#[test]
fn wrong_arguments_are_refused() {
    let written = plain_run();
    let asked = Asked::new(written.run().clone());
    for (call, words) in [
        ("", "there is no name of a probe set"),
        ("'text'", "this run has no probe set `text`; it has `test`, `hard`"),
        ("'test', 0", "ask for 1 or more"),
        ("'test', -3", "must be a whole number"),
        ("'test', 3, 'ids=77'", "does not hold example 77"),
        ("'test', 3, 'ids=a'", "is no list of ids"),
        ("'test', 3, 'id=1'", "there is no option `id`"),
        ("'test', 3, 'layers=nose'", "nose"),
        ("'test', 3, 'probe-time=late'", "neither earlier nor nearest"),
    ] {
        let refusal = asked.refusal(&format!("select * from influence({call})"));
        assert!(refusal.contains(words), "{call}: {refusal}");
    }
}
