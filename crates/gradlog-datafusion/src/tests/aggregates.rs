//! Forgetting as an aggregate function: the same in any order, or refused.

use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::Array;
use gradlog_analysis::{Score, ScoreQuestion};
use std::collections::BTreeMap;

/// Visits without two of one example in a step, at which SQL could not tell their order.
fn once_a_step(seed: u64) -> Vec<Visit> {
    let mut all = visits(&mut Draws(seed), 30, 9, 8);
    let mut seen = std::collections::HashSet::new();
    all.retain(|visit| seen.insert((visit.example, visit.step)));
    all
}

const EACH: &str = "select example, forgetting(step, correct, loss) score from";

fn scores(batch: &RecordBatch) -> BTreeMap<u64, f64> {
    let examples = batch["example"].as_primitive::<UInt64Type>().values();
    let scores = batch["score"].as_primitive::<Float64Type>().values();
    examples.iter().copied().zip(scores.iter().copied()).collect()
}

#[test]
fn forgetting_is_that_of_the_library_in_any_order() {
    let mut all = once_a_step(1);
    all[3].loss = f32::NAN;
    // Never right.
    all.iter_mut().filter(|visit| visit.example == 121).for_each(|visit| visit.correct = 0.0);
    let written = run_with_all(&all, 17);
    let table = ScoreQuestion::new(Score::Forgetting).compute(&written.run()).unwrap();
    let expected: BTreeMap<u64, f64> = table.rows.iter().map(|row| (row.example, row.score)).collect();
    assert!(expected[&121].is_infinite() && expected.values().any(|events| *events > 1.0));
    let (_dir, run) = compacted(&written.run(), 4);
    let dir = workers(&all);
    for run in [written.run().clone(), run, Run::open(dir.path()).unwrap()] {
        for partitions in 1..6 {
            let asked = Asked::with(RunTables::new(run.clone()).unwrap(), partitions);
            assert_eq!(scores(&asked.ask(&format!("{EACH} visits group by example"))), expected);
            for order in ["loss", "step desc", "example, margin"] {
                let query = format!("{EACH} (select * from visits order by {order} limit 100000) group by example");
                assert_eq!(scores(&asked.ask(&query)), expected, "{order}");
            }
        }
    }
}

#[test]
fn what_has_no_order_is_refused() {
    let mut all = once_a_step(2);
    let mut again = all[0].clone();
    again.correct = 1.0 - all[0].correct;
    all.insert(1, again);
    let written = run_with_all(&all, 17);
    let asked = Asked::new(written.run().clone());
    let refusal = asked.refusal(&format!("{EACH} visits group by example"));
    assert!(refusal.contains("several visits at step 0"), "{refusal}");
    // Both right or both wrong have the same answer in either order.
    all[1].correct = all[0].correct;
    let written = run_with_all(&all, 17);
    let asked = Asked::new(written.run().clone());
    let table = ScoreQuestion::new(Score::Forgetting).compute(&written.run()).unwrap();
    let expected: BTreeMap<u64, f64> = table.rows.iter().map(|row| (row.example, row.score)).collect();
    assert_eq!(scores(&asked.ask(&format!("{EACH} visits group by example"))), expected);
}

#[test]
fn a_share_of_right_predictions_is_refused() {
    let mut all = once_a_step(3);
    (all[7].correct, all[7].positions) = (0.25, 4);
    let written = run_with_all(&all, 17);
    let asked = Asked::new(written.run().clone());
    let refusal = asked.refusal(&format!("{EACH} visits group by example"));
    assert!(refusal.contains("share of 0.25 right predictions"), "{refusal}");
    let none = asked.ask("select forgetting(step, correct, loss) score from visits where epoch > 100");
    assert!(none["score"].is_null(0));
}
