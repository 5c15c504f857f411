//! Several runs against one-line definitions over the tables of each.

use super::*;
use crate::ScoreQuestion;
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{run_of, visits, Draws, Opened, Synthetic, Visit};
use std::collections::BTreeMap;

/// Visits of one run; each example has the label of its id.
fn labeled(seed: u64, examples: u64) -> Vec<Visit> {
    let mut all = visits(&mut Draws(seed), examples, 4, 6);
    all.iter_mut().for_each(|visit| visit.label = visit.example as u32 % 5);
    all
}

fn close(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

/// Three runs; the second lacks some examples of the others, the third has more visits of its own.
fn three() -> [Opened; 3] {
    [labeled(1, 30), labeled(2, 21), labeled(3, 33)].map(|all| run_of(&all, 16).run())
}

#[test]
fn every_score_is_the_mean_or_the_sum_of_those_of_each_run() {
    let opened = three();
    let runs: Vec<&Run> = opened.iter().map(|run| &**run).collect();
    for score in Score::ALL {
        let tables: Vec<ScoreTable> = runs.iter().map(|r| ScoreQuestion::new(score).compute(r).unwrap()).collect();
        let mut own: BTreeMap<u64, Vec<&ScoreRow>> = BTreeMap::new();
        tables.iter().flat_map(|table| &table.rows).for_each(|row| own.entry(row.example).or_default().push(row));
        for how in [OverRuns::Mean, OverRuns::Sum] {
            let table = ScoreQuestion::new(score).over_runs(how).compute_over(&runs).unwrap();
            assert_eq!(table.rows.len(), own.len());
            for row in &table.rows {
                let own = &own[&row.example];
                let n = own.len() as f64;
                let terms = own.iter().map(|r| match how {
                    OverRuns::Sum if r.score.is_infinite() => r.visits as f64,
                    _ => r.score,
                });
                let total: f64 = terms.sum();
                let expected = if how == OverRuns::Mean { total / n } else { total };
                assert!(close(row.score, expected), "{score} {how}: {} for {expected}", row.score);
                let mean = own.iter().map(|r| r.score).sum::<f64>() / n;
                let squares: f64 = own.iter().map(|r| (r.score - mean).powi(2)).sum();
                let spread = if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { f64::NAN };
                assert!(close(row.spread, spread), "{score}: {} for {spread}", row.spread);
                assert_eq!((row.runs, row.visits), (own.len() as u64, own.iter().map(|r| r.visits).sum()));
                assert_eq!((row.label, row.labels_differ), (Some(row.example as u32 % 5), false));
                assert_eq!(row.extras.values().len(), score.extras().len());
            }
            let sorted = |w: &[RunsRow]| suspicious_first(score.order(), w[0].score, w[1].score).is_le();
            assert!(table.rows.windows(2).all(sorted), "{score}");
            assert_eq!(table.partial, 33 - 21, "{score}");
            let absent: Vec<u64> = table.runs.iter().map(|part| part.absent).collect();
            assert_eq!(absent, [3, 12, 0]);
            assert_eq!(table.visits(), tables.iter().map(|t| t.visits).sum::<u64>());
        }
    }
}

#[test]
fn one_run_keeps_its_order_and_stands_on_one() {
    let run = run_of(&labeled(4, 25), 9).run();
    for score in Score::ALL {
        let alone = ScoreQuestion::new(score).compute(&run).unwrap();
        let table = ScoreQuestion::new(score).compute_over(&[&run]).unwrap();
        let ids = |rows: Vec<u64>| rows;
        assert_eq!(
            ids(table.rows.iter().map(|r| r.example).collect()),
            ids(alone.rows.iter().map(|r| r.example).collect()),
            "{score}"
        );
        assert!(table.rows.iter().all(|row| row.runs == 1 && row.spread.is_nan()));
    }
}

/// A run in which each example has these presentations.
fn presented(examples: &[(u64, &[u8])]) -> Opened {
    let all: Vec<Visit> = examples
        .iter()
        .flat_map(|(example, right)| right.iter().enumerate().map(|(j, right)| (*example, j as u64, *right)))
        .map(|(example, j, right)| Visit { correct: f32::from(right), loss: 1.0, ..Draws(5).visit(example, j, 0) })
        .collect();
    run_of(&all, 4).run()
}

#[test]
fn forgetting_by_hand_as_toneva_sums_and_as_paul_averages() {
    // Example 1 is forgotten once and never learned in the other run, 2 is never learned, 3 is forgotten once in both.
    let a = presented(&[(1, &[1, 0, 1]), (2, &[0, 0, 0]), (3, &[1, 0, 0])]);
    let b = presented(&[(1, &[0, 0, 0, 0]), (2, &[0, 0, 0]), (3, &[1, 0, 1])]);
    let over = |how| ScoreQuestion::new(Score::Forgetting).over_runs(how).compute_over(&[&a, &b]).unwrap();
    let rows = |table: &RunsTable| table.rows.iter().map(|r| (r.example, r.score)).collect::<Vec<_>>();
    assert_eq!(rows(&over(OverRuns::Mean)), [(2, f64::INFINITY), (1, f64::INFINITY), (3, 1.0)]);
    assert_eq!(rows(&over(OverRuns::Sum)), [(2, 6.0), (1, 5.0), (3, 2.0)]);
    // Of a yes or no, the number of runs; of a number, the mean over those that have one.
    let table = over(OverRuns::Mean);
    assert_eq!(table.rows[1].extras.values()[0], Extra::Count(1), "never learned in one run");
    assert_eq!(table.rows[1].extras.values()[2], Extra::Number(1.0), "first learned, in the run that learned it");
    assert!(table.rows[0].spread.is_nan() && table.rows[2].spread == 0.0);
}

#[test]
fn a_row_without_a_number_in_one_run_stands_on_the_others() {
    let good = labeled(6, 10);
    let mut bad = labeled(7, 10);
    let hopeless = bad[0].example;
    bad.iter_mut().filter(|v| v.example == hopeless).for_each(|v| v.flags = Column::FLAG_NOT_FINITE);
    let (a, b) = (run_of(&good, 8).run(), run_of(&bad, 8).run());
    let alone = ScoreQuestion::new(Score::El2n).compute(&a).unwrap();
    let table = ScoreQuestion::new(Score::El2n).compute_over(&[&a, &b]).unwrap();
    let row = table.rows.iter().find(|row| row.example == hopeless).unwrap();
    let expected = alone.rows.iter().find(|row| row.example == hopeless).unwrap().score;
    assert_eq!((row.runs, row.score, table.partial), (1, expected, 1));
    assert!(row.not_finite > 0 && row.not_finite == table.runs[1].left_out.not_finite);
}

#[test]
fn runs_that_do_not_match_are_told_apart_from_runs_that_do() {
    let everything = Window::everything();
    let a = run_of(&labeled(8, 10), 8).run();
    let mut other = labeled(9, 10);
    let changed = other[0].example;
    other.iter_mut().filter(|v| v.example == changed).for_each(|v| v.label += 1);
    let b = run_of(&other, 8).run();
    let table = ScoreQuestion::new(Score::Aum).window(everything.clone()).compute_over(&[&a, &b]).unwrap();
    assert_eq!(table.labels_differ, 1);
    let differ: Vec<u64> = table.rows.iter().filter(|r| r.labels_differ).map(|r| r.example).collect();
    assert!(differ == [changed] && table.rows.iter().all(|r| r.label.is_none() == r.labels_differ));

    let same = ScoreQuestion::new(Score::Aum).window(everything.clone()).compute_over(&[&a, &b, &a]).unwrap_err();
    assert!(matches!(same, AnalysisError::SameRun { .. }), "{same}");
    let mut strangers = labeled(10, 10);
    strangers.iter_mut().for_each(|v| v.example += 1_000_000);
    let c = run_of(&strangers, 8).run();
    let error = ScoreQuestion::new(Score::Aum).window(everything.clone()).compute_over(&[&a, &c, &b]).unwrap_err();
    let AnalysisError::NothingInCommon { run } = &error else { panic!("{error}") };
    assert_eq!(*run, c.dir().display().to_string());

    let mut poor = Synthetic::new(Encoding::F32);
    poor.without = vec![Column::Margin];
    poor.visits(&labeled(11, 4));
    let poor = poor.finish().run();
    let error = ScoreQuestion::new(Score::Aum).window(everything.clone()).compute_over(&[&a, &poor]).unwrap_err();
    assert!(error.with_sources().starts_with(&format!("run {} cannot be used: aum", poor.dir().display())), "{error}");
}

#[test]
fn the_order_of_the_runs_does_not_matter() {
    let [a, b, c] = three();
    for score in Score::ALL {
        let over = |runs: &[&Run]| ScoreQuestion::new(score).compute_over(runs).unwrap();
        let (one, other) = (over(&[&a, &b, &c]), over(&[&c, &a, &b]));
        for (x, y) in one.rows.iter().zip(&other.rows) {
            assert_eq!(
                (x.example, x.runs, x.visits, x.prediction),
                (y.example, y.runs, y.visits, y.prediction),
                "{score}"
            );
            assert!(close(x.score, y.score) && close(x.spread, y.spread), "{score}");
        }
    }
}
