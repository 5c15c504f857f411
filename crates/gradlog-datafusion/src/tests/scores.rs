//! Scores by SQL against the library.

use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::Array;
use gradlog_analysis::{Extra, Score, ScoreQuestion, ScoreTable};
use std::collections::BTreeMap;

/// Every score of a run, by the library.
fn expected(run: &Run, question: ScoreQuestion) -> ScoreTable {
    question.compute(run).unwrap()
}

/// The rows of `scores` as words, with NaN and null in their places.
fn words_of(table: &ScoreTable) -> Vec<String> {
    let option = |number: Option<u32>| number.map_or(String::new(), |number| number.to_string());
    let mut rows: Vec<String> = table
        .rows
        .iter()
        .map(|row| {
            let extras = row.extras.values().iter().map(|extra| match extra {
                // As in the files of the command: over several runs these are means and counts.
                Extra::Count(count) => (*count as f64).to_bits().to_string(),
                Extra::Number(number) => number.to_bits().to_string(),
                Extra::Flag(flag) => f64::from(*flag).to_bits().to_string(),
                _ => String::new(),
            });
            let mut cells = vec![row.example.to_string(), row.visits.to_string(), row.score.to_bits().to_string()];
            cells.extend(extras);
            cells.extend([row.not_finite.to_string(), option(row.label), option(row.prediction)]);
            cells.join("|")
        })
        .collect();
    rows.sort();
    rows
}

/// The same of the rows of SQL: numbers by their bits.
fn words_in(batch: &RecordBatch) -> Vec<String> {
    let cell = |column: usize, row: usize| match batch.column(column).as_primitive_opt::<Float64Type>() {
        Some(numbers) if numbers.is_valid(row) => numbers.value(row).to_bits().to_string(),
        _ => array_value_to_string(batch.column(column), row).unwrap(),
    };
    let words = |row| (0..batch.num_columns()).map(|column| cell(column, row)).collect::<Vec<_>>().join("|");
    let mut rows: Vec<String> = (0..batch.num_rows()).map(words).collect();
    rows.sort();
    rows
}

#[test]
fn every_score_equals_that_of_the_library() {
    let mut all = visits(&mut Draws(1), 40, 6, 8);
    all[5].loss = f32::NAN;
    all[5].flags = gradlog_format::log::Column::FLAG_NOT_FINITE;
    let written = run_with_all(&all, 17);
    let (_dir, run) = compacted(&written.run(), 6);
    let dir = workers(&all);
    for run in [written.run().clone(), run, Run::open(dir.path()).unwrap()] {
        for shares in [1, 3] {
            let asked = Asked::with(RunTables::new(run.clone()).unwrap().with_shares(shares), 2);
            for score in Score::ALL {
                let found = asked.ask(&format!("select * from scores('{score}')"));
                assert_eq!(words_in(&found), words_of(&expected(&run, ScoreQuestion::new(score))), "{score}, {shares}");
            }
            let found = asked.ask("select * from scores('aum', 'epochs=2..5', 'steps=..20')");
            let question = ScoreQuestion::new(Score::Aum).epochs(2..5).steps(..20);
            assert_eq!(words_in(&found), words_of(&expected(&run, question)));
            assert!(asked.tables.take_words().iter().any(|line| line.starts_with("basis: ")));
        }
    }
    let asked = Asked::new(written.run().clone());
    let found = asked.ask("select * from scores('el2n', 'at=sweep')");
    assert_eq!(words_in(&found), words_of(&expected(&written.run(), ScoreQuestion::new(Score::El2n).sweeps())));
    assert_eq!(found.schema().field(1).name(), "checkpoints");
}

#[test]
fn scores_are_a_table_like_others() {
    let written = plain_run();
    let asked = Asked::new(written.run().clone());
    let query = "select s.score, v.n from scores('aum') s \
                 join (select example, count(*) n from visits group by example) v on v.example = s.example \
                 order by s.score limit 5";
    let found = asked.ask(query);
    let table = expected(&written.run(), ScoreQuestion::new(Score::Aum));
    let scores: Vec<f64> = table.rows.iter().take(5).map(|row| row.score).collect();
    assert_eq!(found["score"].as_primitive::<Float64Type>().values(), &scores[..]);
    let text = sorted(&asked.ask("explain select score from scores('aum', 'epochs=2..')")).join("\n");
    assert!(text.contains("ScoresExec: aum") && text.contains("epochs=2.."), "{text}");
}

#[test]
fn wrong_arguments_are_refused() {
    let written = plain_run();
    let asked = Asked::new(written.run().clone());
    for (query, words) in [
        ("scores()", "there is no name of a score"),
        ("scores('aumm')", "aumm"),
        ("scores(3)", "must be a text"),
        ("scores('aum', 'epoch=3')", "there is no option `epoch`"),
        ("scores('aum', 'epochs=5..2')", "nothing lies in 5..2"),
        ("scores('aum', 'epochs=1', 'epochs=2')", "twice"),
        ("scores('aum', '3')", "is no option"),
        ("scores('aum', 'epochs=70..')", "no visit lies inside"),
        ("scores('forgetting', 'at=sweep')", "not defined on sweeps"),
        ("scores('aum', 'optimizer=adam')", "adam"),
    ] {
        let refusal = asked.refusal(&format!("select * from {query}"));
        assert!(refusal.contains(words), "{query}: {refusal}");
    }
}

/// What SQL alone says, as `docs/sql.md` has it.
#[test]
fn means_in_sql_are_the_scores() {
    let mut all = visits(&mut Draws(1), 40, 6, 8);
    all[5].loss = f32::NAN;
    all[5].flags = gradlog_format::log::Column::FLAG_NOT_FINITE;
    let written = run_with_all(&all, 17);
    let asked = Asked::new(written.run().clone());
    for (score, formula) in [
        (Score::Loss, "avg(loss)"),
        (Score::Aum, "avg(margin)"),
        (Score::El2n, "avg(el2n)"),
        (Score::Confidence, "avg(confidence)"),
        (Score::Correctness, "avg(correct)"),
        (Score::Variability, "stddev_pop(confidence)"),
        (Score::Grand, "avg(sqrt(squared_norm))"),
        (Score::SelfInfluence, "sum(cast(learning_rate as double) * clip * coefficient * squared_norm)"),
    ] {
        let query = format!("select example, {formula} score from visits where not not_finite group by example");
        let found = asked.ask(&query);
        let examples = found["example"].as_primitive::<UInt64Type>().values();
        let scores = found["score"].as_primitive::<Float64Type>().values();
        let by_example: BTreeMap<u64, f64> = examples.iter().copied().zip(scores.iter().copied()).collect();
        let table = expected(&written.run(), ScoreQuestion::new(score));
        assert_eq!(by_example.len(), table.rows.len());
        for row in &table.rows {
            let found = by_example[&row.example];
            assert!((found - row.score).abs() <= 1e-6 * row.score.abs().max(1.0), "{score}: {found} {}", row.score);
        }
    }
}
