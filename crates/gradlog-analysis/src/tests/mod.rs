//! Every score against a naive oracle, and one battery for all of them.

mod adam;
mod battery;
mod damaged;
mod edges;
mod workers;

use crate::{
    AnalysisError, BasisRows, Extra, InfluenceQuestion, Method, Normalization, Order, OverRuns, Score, ScoreQuestion,
    ScoreTable, Window,
};
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{decoded, run_of, visits, Draws, Synthetic, Visit};
use std::collections::BTreeMap;

fn by_example(visits: &[Visit]) -> BTreeMap<u64, Vec<&Visit>> {
    let mut map: BTreeMap<u64, Vec<&Visit>> = BTreeMap::new();
    for visit in visits {
        map.entry(visit.example).or_default().push(visit);
    }
    map
}

fn mean(visits: &[&Visit], of: impl Fn(&Visit) -> f32) -> f64 {
    visits.iter().map(|v| f64::from(of(v))).sum::<f64>() / visits.len() as f64
}

/// The definitions, as directly as they can be written.
fn oracle(score: Score, visits: &[&Visit]) -> f64 {
    match score {
        Score::SelfInfluence => visits
            .iter()
            .map(|v| {
                f64::from(v.learning_rate) * f64::from(v.clip) * f64::from(v.coefficient) * f64::from(v.squared_norm)
            })
            .sum(),
        Score::Grand => visits.iter().map(|v| f64::from(v.squared_norm).sqrt()).sum::<f64>() / visits.len() as f64,
        Score::El2n => mean(visits, |v| v.el2n),
        Score::Loss => mean(visits, |v| v.loss),
        Score::Aum => mean(visits, |v| v.margin),
        Score::Confidence => mean(visits, |v| v.confidence),
        Score::Correctness => mean(visits, |v| v.correct),
        Score::Variability => {
            let mu = mean(visits, |v| v.confidence);
            let squares: f64 = visits.iter().map(|v| (f64::from(v.confidence) - mu).powi(2)).sum();
            (squares / visits.len() as f64).sqrt()
        }
        Score::Forgetting => {
            if visits.iter().all(|v| v.correct == 0.0) {
                return f64::INFINITY;
            }
            visits.windows(2).filter(|w| w[0].correct == 1.0 && w[1].correct == 0.0).count() as f64
        }
    }
}

fn close(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

fn check(table: &ScoreTable, visits: &[Visit]) {
    let groups = by_example(visits);
    assert_eq!(table.rows.len(), groups.len(), "{}", table.score);
    assert_eq!(table.visits, visits.len() as u64);
    for row in &table.rows {
        let own = &groups[&row.example];
        assert!(close(row.score, oracle(table.score, own)), "{} of {}", table.score, row.example);
        assert_eq!(row.visits, own.len() as u64);
        assert_eq!(row.label, Some(own[own.len() - 1].label));
        assert_eq!(row.prediction, Some(own[own.len() - 1].prediction));
        assert_eq!(row.extras.values().len(), table.score.extras().len());
    }
    for pair in table.rows.windows(2) {
        let sorted = match table.score.order() {
            Order::HighestFirst => pair[0].score >= pair[1].score,
            Order::LowestFirst => pair[0].score <= pair[1].score,
        };
        assert!(sorted, "{}: {} before {}", table.score, pair[0].score, pair[1].score);
    }
}

#[test]
fn every_score_equals_its_definition_in_every_window() {
    let all = visits(&mut Draws(1), 40, 6, 8);
    let blocks = all.len().div_ceil(many_blocks());
    let run = run_of(&all, blocks).run();
    let windows = [
        Window::everything(),
        Window::epochs(1..4),
        Window::steps(7..23),
        Window { epochs: Some(2..5), ..Window::steps(0..18) },
        Window::epochs(5..u32::MAX),
    ];
    for window in windows {
        let inside: Vec<Visit> = all
            .iter()
            .filter(|v| window.epochs.as_ref().is_none_or(|e| e.contains(&v.epoch)))
            .filter(|v| window.steps.as_ref().is_none_or(|s| s.contains(&v.step)))
            .cloned()
            .collect();
        assert!(!inside.is_empty() && (inside.len() < all.len() || window == Window::everything()));
        for score in Score::ALL {
            check(&ScoreQuestion::new(score).window(window.clone()).compute(&run).unwrap(), &inside);
        }
    }
}

#[test]
fn the_order_of_examples_within_a_step_does_not_matter() {
    let all = visits(&mut Draws(2), 30, 4, 10);
    let mut permuted = all.clone();
    // A stable sort: the order of one example's own visits stays.
    permuted.sort_by_key(|v| (v.step, std::cmp::Reverse(v.example)));
    assert_ne!(
        all.iter().map(|v| v.example).collect::<Vec<_>>(),
        permuted.iter().map(|v| v.example).collect::<Vec<_>>()
    );
    let (a, b) = (run_of(&all, 7).run(), run_of(&permuted, 11).run());
    for score in Score::ALL {
        let table = ScoreQuestion::new(score).compute(&a).unwrap();
        check(&table, &all);
        assert_eq!(table, ScoreQuestion::new(score).compute(&b).unwrap());
    }
}

#[test]
fn an_empty_run_an_empty_window_and_one_example() {
    let empty = run_of(&[], 1).run();
    let visit = Draws(3).visit(u64::MAX, 5, 2);
    let one = run_of(std::slice::from_ref(&visit), 1).run();
    for score in Score::ALL {
        let error = ScoreQuestion::new(score).compute(&empty).unwrap_err();
        assert!(matches!(error, AnalysisError::NoVisits) && error.to_string().contains("no visits at all"), "{error}");
        let error = ScoreQuestion::new(score).epochs(3..9).compute(&one).unwrap_err();
        let there = "no visit lies inside epochs 3..9: there are visits of epochs 2 to 2 and steps 5 to 5";
        assert_eq!(error.to_string(), there);
        check(&ScoreQuestion::new(score).compute(&one).unwrap(), std::slice::from_ref(&visit));
    }
}

#[test]
fn what_is_not_finite_is_left_out_and_poisons_nobody() {
    let clean = visits(&mut Draws(4), 12, 3, 4);
    let mut dirty = Vec::new();
    for (i, visit) in clean.iter().enumerate() {
        let mut bad = visit.clone();
        match i % 3 {
            0 => bad.flags = Column::FLAG_NOT_FINITE,
            1 => {
                for number in [&mut bad.loss, &mut bad.el2n, &mut bad.margin, &mut bad.confidence] {
                    *number = f32::NAN;
                }
                bad.correct = f32::NAN;
                bad.squared_norm = f32::INFINITY;
            }
            _ => bad.flags = Column::FLAG_NOT_FINITE | Column::FLAG_NORM_ESTIMATED,
        }
        dirty.push(visit.clone());
        dirty.push(bad);
    }
    let mut hopeless = Draws(5).visit(3, 0, 0);
    hopeless.flags = Column::FLAG_NOT_FINITE;
    dirty.push(hopeless);
    let (clean_run, dirty_run) = (run_of(&clean, 9).run(), run_of(&dirty, 9).run());
    for score in Score::ALL {
        let expected = ScoreQuestion::new(score).compute(&clean_run).unwrap();
        let mut table = ScoreQuestion::new(score).compute(&dirty_run).unwrap();
        let last = table.rows.pop().unwrap();
        assert!(last.example == 3 && last.score.is_nan() && last.visits == 0 && last.not_finite == 1, "{score}");
        assert_eq!(table.left_out.not_finite, 1 + clean.len() as u64);
        assert_eq!((table.visits, table.estimated_norms), (expected.visits, 0));
        for (row, expected) in table.rows.iter().zip(&expected.rows) {
            assert_eq!((row.example, row.visits, row.not_finite), (expected.example, expected.visits, expected.visits));
            assert!(close(row.score, expected.score));
            assert_eq!(row.extras, expected.extras);
        }
    }
}

#[test]
fn a_missing_column_is_named_with_the_way_out() {
    for score in Score::ALL.into_iter().filter(|score| *score != Score::Loss) {
        let mut run = Synthetic::new(Encoding::F32);
        run.without =
            vec![Column::SquaredNorm, Column::El2n, Column::Margin, Column::Confidence, Column::Correct, Column::Label];
        let all = visits(&mut Draws(6), 5, 1, 2);
        run.visits(&all);
        let written = run.finish();
        let error = ScoreQuestion::new(score).compute(&written.run()).unwrap_err();
        assert!(matches!(error, AnalysisError::Missing { .. }), "{error}");
        let words = error.to_string();
        let way_out = if matches!(score, Score::SelfInfluence | Score::Grand) { "Taps" } else { "pass.cross_entropy" };
        assert!(words.contains(score.name()) && words.contains(way_out), "{words}");
    }
}

#[test]
fn blocks_without_the_column_are_counted_where_others_have_it() {
    let all = visits(&mut Draws(7), 10, 2, 5);
    let (before, after) = all.split_at(8);
    let mut run = Synthetic::new(Encoding::F32);
    run.without = vec![Column::Margin];
    run.visits(before);
    run.without.clear();
    run.visits(after);
    let table = ScoreQuestion::new(Score::Aum).compute(&run.finish().run()).unwrap();
    assert_eq!(table.left_out.missing, 8);
    check(&table, after);
}

#[test]
fn an_unseen_gradient_counts_as_zero_or_not_at_all() {
    let mut seen = Draws(8).visit(1, 0, 0);
    seen.flags = Column::FLAG_NORM_ESTIMATED;
    let mut unseen = Draws(9).visit(1, 1, 0);
    (unseen.flags, unseen.coefficient, unseen.squared_norm) = (Column::FLAG_NO_WEIGHT, 0.0, 0.0);
    let run = run_of(&[seen.clone(), unseen], 2).run();
    let grand = ScoreQuestion::new(Score::Grand).compute(&run).unwrap();
    assert_eq!((grand.visits, grand.left_out.unseen, grand.estimated_norms), (1, 1, 1));
    assert!(close(grand.rows[0].score, f64::from(seen.squared_norm).sqrt()));
    let own = ScoreQuestion::new(Score::SelfInfluence).compute(&run).unwrap();
    assert_eq!((own.visits, own.left_out.unseen, own.estimated_norms), (2, 0, 1));
    assert!(close(own.rows[0].score, oracle(Score::SelfInfluence, &[&seen])));
}

#[test]
fn damage_leaves_the_scores_of_what_came_before() {
    let all = visits(&mut Draws(10), 20, 4, 5);
    let rows = all.len().div_ceil(many_blocks());
    for block in [0, 1, many_blocks() / 2] {
        // The last byte of the directory, then the first byte of the first column (Example).
        for distance in [64, 64 + 24 * u64::from(columns(&all))] {
            let written = run_of(&all, rows);
            written.damage(block, distance);
            for score in Score::ALL {
                let table = ScoreQuestion::new(score).compute(&written.run());
                if block == 0 && distance == 64 {
                    // Nothing came before.
                    let Err(AnalysisError::Cut { source, damage }) = table else { panic!("{score}: {table:?}") };
                    assert!(matches!(*source, AnalysisError::NoVisits) && damage.block == Some(0));
                    continue;
                }
                let table = table.unwrap();
                assert_eq!(table.damage.as_ref().and_then(|d| d.block), Some(block as u64), "{score} {distance}");
                check(&table, &all[..block * rows]);
            }
        }
    }
}

/// How many columns a block of visits has.
fn columns(visits: &[Visit]) -> u16 {
    let block = run_of(&visits[..1], 1).run().scan().next().unwrap();
    u16::try_from(block.sizes().count()).unwrap()
}

fn forgetting_of(correct: &[u8]) -> ScoreTable {
    let visits: Vec<Visit> = correct
        .iter()
        .enumerate()
        .map(|(j, right)| Visit { correct: f32::from(*right), ..Draws(11).visit(1, j as u64, j as u32 / 2) })
        .collect();
    ScoreQuestion::new(Score::Forgetting).compute(&run_of(&visits, 3).run()).unwrap()
}

#[test]
fn forgetting_by_hand() {
    let (yes, no) = (Extra::Flag(true), Extra::Flag(false));
    // Presentations; score; never learned, unforgettable, first learned, presentations needed, learning events.
    let cases: [(&[u8], f64, [Extra; 5]); 7] = [
        (&[0, 0, 0], f64::INFINITY, [yes, no, Extra::Nothing, Extra::Count(3), Extra::Count(0)]),
        (&[1, 1, 1], 0.0, [no, yes, Extra::Count(1), Extra::Count(0), Extra::Count(0)]),
        (&[0, 1, 1], 0.0, [no, yes, Extra::Count(2), Extra::Count(1), Extra::Count(1)]),
        (&[1, 0, 1, 0], 2.0, [no, no, Extra::Count(1), Extra::Count(4), Extra::Count(1)]),
        (&[0, 0, 1, 0, 0, 1, 1], 1.0, [no, no, Extra::Count(3), Extra::Count(5), Extra::Count(2)]),
        (&[1], 0.0, [no, yes, Extra::Count(1), Extra::Count(0), Extra::Count(0)]),
        (&[0], f64::INFINITY, [yes, no, Extra::Nothing, Extra::Count(1), Extra::Count(0)]),
    ];
    for (correct, score, extras) in cases {
        let table = forgetting_of(correct);
        assert_eq!(table.rows[0].score, score, "{correct:?}");
        assert_eq!(table.rows[0].extras.values()[..5], extras, "{correct:?}");
    }
}

#[test]
fn equally_forgotten_examples_come_by_loss() {
    let mut visits = Vec::new();
    for (example, loss, correct) in [(5, 1.0, 0.0), (4, 2.0, 0.0), (3, 1.0, 0.0), (2, 9.0, 1.0), (1, 9.0, 1.0)] {
        visits.push(Visit { loss, correct, ..Draws(12).visit(example, 0, 0) });
    }
    let table = ScoreQuestion::new(Score::Forgetting).compute(&run_of(&visits, 2).run()).unwrap();
    assert_eq!(table.rows.iter().map(|row| row.example).collect::<Vec<_>>(), [4, 3, 5, 1, 2]);
}

#[test]
fn forgetting_refuses_several_predictions_inside_the_window() {
    let mut several = Draws(13).visit(8, 3, 1);
    several.positions = 16;
    let run = run_of(&[Draws(14).visit(7, 2, 0), several], 2).run();
    let error = ScoreQuestion::new(Score::Forgetting).compute(&run).unwrap_err();
    assert!(matches!(error, AnalysisError::SeveralPredictions { example: 8, positions: 16 }));
    assert!(error.to_string().contains("correctness"));
    assert_eq!(ScoreQuestion::new(Score::Forgetting).window(Window::epochs(0..1)).compute(&run).unwrap().rows.len(), 1);
    assert_eq!(ScoreQuestion::new(Score::Correctness).compute(&run).unwrap().rows.len(), 2);
}

#[test]
fn names_lead_back_and_tell_which_end_comes_first() {
    for score in Score::ALL {
        assert_eq!(score.to_string().parse::<Score>().unwrap(), score);
        assert!(score.description().contains(&score.order().to_string()));
    }
    let error = "tracin".parse::<Score>().unwrap_err().to_string();
    assert!(error.starts_with("the score is tracin, but must be one of self-influence, grand, "), "{error}");
    for method in Method::ALL {
        assert_eq!(method.to_string().parse::<Method>().unwrap(), method);
    }
    for normalization in Normalization::ALL {
        assert_eq!(normalization.to_string().parse::<Normalization>().unwrap(), normalization);
    }
    for over_runs in OverRuns::ALL {
        assert_eq!(over_runs.to_string().parse::<OverRuns>().unwrap(), over_runs);
    }
}

/// Sweeps of 12 examples at three checkpoints among the visits, in no order, with rows that a later sweep replaces.
fn swept() -> (Synthetic, Vec<Visit>) {
    let mut draws = Draws(8);
    let mut run = Synthetic::new(Encoding::F32);
    visits(&mut draws, 12, 3, 5).chunks(4).for_each(|rows| run.visits(rows));
    let mut counting: BTreeMap<(u64, u64), Visit> = BTreeMap::new();
    for (step, ids) in [(4, 0..12), (9, 0..7), (0, 0..12), (4, 3..8), (9, 7..12), (9, 6..8)] {
        let rows: Vec<Visit> = ids.map(|id| draws.visit(id, step, step as u32 / 4)).collect();
        counting.extend(rows.iter().map(|row| ((row.step, row.example), row.clone())));
        rows.chunks(5).for_each(|rows| run.sweeps(rows));
    }
    // The batch of a replay says nothing of a step.
    let full = |row: &Visit| Visit { clip: 1.0, coefficient: 1.0, ..row.clone() };
    (run, counting.values().map(full).collect())
}

#[test]
fn every_score_on_sweeps_equals_its_definition_and_counts_an_example_once_at_a_checkpoint() {
    let (mut run, counting) = swept();
    run.end();
    let run = run.finish().run();
    for (window, text) in [
        (Window::sweeps(), "sweeps at 3 checkpoints, steps 0 to 9, evaluation mode"),
        (Window::sweep_at(4), "sweep at checkpoint step 4, evaluation mode"),
        (Window { epochs: Some(1..3), ..Window::sweeps() }, "sweeps at 2 checkpoints, steps 4 to 9, evaluation mode"),
    ] {
        let inside: Vec<Visit> = counting
            .iter()
            .filter(|v| window.steps.as_ref().is_none_or(|s| s.contains(&v.step)))
            .filter(|v| window.epochs.as_ref().is_none_or(|e| e.contains(&v.epoch)))
            .cloned()
            .collect();
        for score in Score::ALL {
            if score == Score::Forgetting {
                assert!(matches!(
                    ScoreQuestion::new(score).window(window.clone()).compute(&run),
                    Err(AnalysisError::NotOnSweeps { .. })
                ));
                continue;
            }
            let table = ScoreQuestion::new(score).window(window.clone()).compute(&run).unwrap();
            // The sweep at step 0 does not join a sum by itself.
            let is_sum = score == Score::SelfInfluence;
            let inside: Vec<Visit> = inside.iter().filter(|row| !is_sum || row.step > 0).cloned().collect();
            let text =
                if is_sum { text.replace("3 checkpoints, steps 0", "2 checkpoints, steps 4") } else { text.into() };
            let groups = by_example(&inside);
            assert_eq!((table.rows.len(), table.visits), (groups.len(), inside.len() as u64));
            for row in &table.rows {
                let truth = oracle(score, &groups[&row.example]);
                assert!((row.score - truth).abs() <= 1e-6 * (1.0 + truth.abs()), "{score}: {} {truth}", row.score);
            }
            assert_eq!(table.basis.rows.to_string(), text, "{score}");
            let not_joined = if is_sum && text.contains("2 checkpoints") && window.epochs.is_none() { 12 } else { 0 };
            assert_eq!(table.left_out.untrained, not_joined, "{score}");
            assert_eq!(table.basis.left_out, table.left_out);
        }
    }
    let none = ScoreQuestion::new(Score::Loss).window(Window::sweep_at(5)).compute(&run);
    assert!(matches!(none, Err(AnalysisError::NoSuchSweep { known }) if known == [0, 4, 9]));
    // A run without any, and visits beside sweeps: neither is ever taken for the other.
    let plain = run_of(&visits(&mut Draws(1), 5, 2, 3), 4).run();
    let none = ScoreQuestion::new(Score::Loss).window(Window::sweeps()).compute(&plain);
    assert!(matches!(none, Err(AnalysisError::NoSuchSweep { known }) if known.is_empty()));
    let visited = ScoreQuestion::new(Score::Loss).compute(&run).unwrap();
    assert_eq!((visited.basis.rows, visited.visits), (BasisRows::Visits, visits(&mut Draws(8), 12, 3, 5).len() as u64));
}

#[test]
fn influence_on_sweeps_is_the_sum_over_the_checkpoints_that_the_probe_has_too() {
    let (mut run, counting) = swept();
    run.set(0, "test");
    // Probes at two of the three checkpoints, and where there was no sweep.
    let probes: Vec<Visit> = [0, 9, 11].map(|step| Draws(50 + step).visit(77, step, 0)).to_vec();
    run.probes(&probes);
    run.end();
    let run = run.finish().run();
    // Without a word on steps, the sweep at step 0 is not in the sum.
    let trained = InfluenceQuestion::new("test").id(77).sweeps().compute(&run).unwrap();
    assert_eq!((trained.visits, trained.left_out.untrained), (12, 12));
    assert!(trained
        .basis
        .to_string()
        .contains("12 rows of sweeps (the sweep at step 0 is of weights before any training)"));
    assert!(matches!(&trained.basis.rows, BasisRows::Sweeps { steps, .. } if steps == &[4, 9]));
    let result = InfluenceQuestion::new("test").id(77).sweeps().steps(0..).compute(&run).unwrap();
    let mut truth: BTreeMap<u64, (f64, u64)> = BTreeMap::new();
    for row in &counting {
        let entry = truth.entry(row.example).or_default();
        let Some(probe) = probes.iter().find(|probe| probe.step == row.step) else { continue };
        let (a, b) = (decoded(row, Encoding::F32), decoded(probe, Encoding::F32));
        let dot = |part: usize| a[part].iter().zip(&b[part]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        entry.0 += f64::from(row.learning_rate) * ((dot(0) + 1.0) * dot(1) + dot(2) * dot(3) + dot(4));
        entry.1 += 1;
    }
    assert_eq!((result.visits, result.left_out.without_probe, result.left_out.replaced), (24, 12, 7));
    assert_eq!(result.rows.len(), truth.len());
    for (number, row) in result.rows.iter().enumerate() {
        let (score, count) = truth[&row.example];
        assert_eq!(row.visits, count);
        assert!((result.score(number, 0) - score).abs() < 1e-5 * (1.0 + score.abs()), "{} {score}", row.example);
    }
    assert!(matches!(&result.basis.rows, BasisRows::Sweeps { steps, .. } if steps == &[0, 4, 9]), "{:?}", result.basis);
}

/// More blocks than are decoded at a time, so that a fold runs over several groups.
pub(crate) fn many_blocks() -> usize {
    2 * crate::rows::driver::blocks_in_flight() + 3
}

#[test]
fn rows_are_found_by_id_and_extras_by_name() {
    let run = run_of(&visits(&mut Draws(6), 9, 4, 3), 5).run();
    let table = ScoreQuestion::new(Score::Forgetting).compute(&run).unwrap();
    let over = ScoreQuestion::new(Score::Forgetting).compute_over(&[&run]).unwrap();
    for row in &table.rows {
        assert_eq!(table.row(row.example), Some(row));
        assert_eq!(over.row(row.example).map(|other| other.score), Some(row.score));
        for (name, value) in Score::Forgetting.extras().iter().zip(row.extras.values()) {
            assert_eq!(row.extra(name), Some(*value));
        }
        assert_eq!(row.extra("no such name"), None);
    }
    assert!(table.row(u64::MAX).is_none() && over.row(u64::MAX).is_none());
}
