//! Keep-lists against the sorted list itself.

use super::*;
use crate::ScoreQuestion;
use gradlog_format::log::Column;
use gradlog_testing::{run_of, visits, Draws, Opened, Visit};
use std::collections::BTreeSet;

/// A run of 41 examples with labels of unequal frequency, and one example that is NaN throughout.
fn run() -> Opened {
    let mut all = visits(&mut Draws(1), 41, 3, 8);
    all.iter_mut().for_each(|visit| visit.label = [0, 0, 0, 1, 1, 2][visit.example as usize % 6]);
    all.push(Visit { flags: Column::FLAG_NOT_FINITE, ..Draws(2).visit(3, 90, 3) });
    run_of(&all, 16).run()
}

fn table(score: Score) -> RunsTable {
    ScoreQuestion::new(score).compute_over(&[&run()]).unwrap()
}

fn ids(list: &KeepList) -> Vec<u64> {
    list.kept.iter().map(|kept| kept.example).collect()
}

#[test]
fn a_window_is_a_slice_of_the_list_hardest_first() {
    for score in Score::ALL {
        let table = table(score);
        let mut sorted: Vec<&crate::RunsRow> = table.rows.iter().filter(|row| !row.score.is_nan()).collect();
        sorted.sort_by(|a, b| suspicious_first(score.hard(), a.score, b.score));
        assert_eq!(sorted.len(), 41);
        for (keep, skip) in [(0.5, 0.0), (0.5, 0.1), (0.3, 0.7), (1.0, 0.0), (0.001, 0.0), (0.5, 0.5)] {
            let rule = KeepRule { skip_hardest: skip, ..KeepRule::hardest(keep) };
            let list = table.keep(&rule).unwrap();
            let count = (keep * 41.0f64).round() as usize;
            let from = ((skip * 41.0f64).round() as usize).min(41 - count);
            let expected: Vec<u64> = sorted[from..from + count].iter().map(|row| row.example).collect();
            assert_eq!(ids(&list), expected, "{score} {keep} {skip}");
            assert!(list.kept.iter().enumerate().all(|(i, kept)| kept.rank == (from + i) as u64));
            assert_eq!((list.scored, list.unscored.as_slice()), (41, &[3u64][..]));
            assert_eq!(list.labels.iter().map(|l| l.kept).sum::<u64>(), count as u64);
        }
    }
}

#[test]
fn the_hard_end_of_each_score_is_the_one_that_a_wrong_label_goes_to() {
    // One example that the model gets wrong at every visit with great confidence, and one that it always gets right.
    let visit = |example, step, hard: bool| {
        let p = if hard { 0.1 + 0.1 * (step % 2) as f32 } else { 0.99 };
        let mut visit = Draws(7).visit(example, step, step as u32);
        (visit.loss, visit.el2n, visit.margin, visit.confidence) = (-p.ln(), 1.4 * (1.0 - p), 8.0 * (p - 0.5), p);
        (visit.correct, visit.squared_norm) = (if hard { 0.0 } else { 1.0 }, if hard { 5.0 } else { 0.1 });
        visit
    };
    let all: Vec<Visit> = (0..4).flat_map(|step| [visit(1, step, true), visit(2, step, false)]).collect();
    let run = run_of(&all, 8).run();
    for score in Score::ALL {
        let table = ScoreQuestion::new(score).compute_over(&[&run]).unwrap();
        assert_eq!(ids(&table.keep(&KeepRule::hardest(0.5)).unwrap()), [1], "{score}");
    }
}

#[test]
fn balance_keeps_the_hardest_of_each_label_in_its_share() {
    let table = table(Score::El2n);
    for (keep, skip) in [(0.5, 0.0), (0.37, 0.2), (0.9, 0.1)] {
        let rule = KeepRule { skip_hardest: skip, balance: true, ..KeepRule::hardest(keep) };
        let list = table.keep(&rule).unwrap();
        assert_eq!(list.kept.len(), (keep * 41.0f64).round() as usize);
        for label in &list.labels {
            assert!((label.kept as f64 - keep * label.examples as f64).abs() < 1.0, "{label:?} of {keep}");
            let own: Vec<u64> =
                table.rows.iter().filter(|r| r.label == label.label && !r.score.is_nan()).map(|r| r.example).collect();
            let kept: Vec<u64> = list.kept.iter().filter(|k| k.label == label.label).map(|k| k.example).collect();
            let from = own.iter().position(|example| *example == kept[0]).unwrap();
            assert!((from as f64 - skip * own.len() as f64).abs() <= 1.0);
            assert_eq!(kept, own[from..from + kept.len()]);
        }
        assert!(list.kept.windows(2).all(|w| w[0].rank < w[1].rank));
    }
}

#[test]
fn the_control_is_as_large_random_and_reproducible() {
    let (el2n, aum) = (table(Score::El2n), table(Score::Aum));
    let rule = |seed, balance| KeepRule { balance, ..KeepRule::random(0.5, seed) };
    let set = |list: &KeepList| ids(list).into_iter().collect::<BTreeSet<u64>>();
    for balance in [false, true] {
        let list = el2n.keep(&rule(1, balance)).unwrap();
        assert_eq!(list.kept.len(), 21);
        assert_eq!(set(&list), set(&aum.keep(&rule(1, balance)).unwrap()), "it does not look at the score");
        assert_ne!(set(&list), set(&el2n.keep(&rule(2, balance)).unwrap()));
        assert_ne!(set(&list), set(&el2n.keep(&KeepRule { balance, ..KeepRule::hardest(0.5) }).unwrap()));
        let sizes = |list: &KeepList| list.labels.iter().map(|l| l.kept).collect::<Vec<_>>();
        if balance {
            assert_eq!(sizes(&list), sizes(&el2n.keep(&KeepRule { balance, ..KeepRule::hardest(0.5) }).unwrap()));
        }
    }
    // Over many seeds each example is kept about half of the time.
    let mut kept = [0u32; 41];
    for seed in 0..400 {
        for id in ids(&el2n.keep(&rule(seed, false)).unwrap()) {
            kept[((id - 100) / 7) as usize] += 1;
        }
    }
    // Five standard deviations of a count of 400 with chance 21/41.
    assert!(kept.iter().all(|count| (f64::from(*count) - 400.0 * 21.0 / 41.0).abs() < 50.0), "{kept:?}");
}

#[test]
fn ties_are_broken_by_id() {
    let all: Vec<Visit> = [9, 4, 7, 1].into_iter().map(|id| Visit { el2n: 1.0, ..Draws(id).visit(id, 0, 0) }).collect();
    let run = run_of(&all, 2).run();
    let table = ScoreQuestion::new(Score::El2n).compute_over(&[&run]).unwrap();
    assert_eq!(ids(&table.keep(&KeepRule::hardest(0.5)).unwrap()), [1, 4]);
}

#[test]
fn shares_that_make_no_sense_and_labels_that_are_missing_are_refused() {
    let table = table(Score::El2n);
    for (keep, skip) in [(0.0, 0.0), (-0.5, 0.0), (1.5, 0.0), (f64::NAN, 0.0), (0.6, 0.5), (0.5, -0.1), (0.5, f64::NAN)]
    {
        let rule = KeepRule { skip_hardest: skip, ..KeepRule::hardest(keep) };
        assert!(matches!(table.keep(&rule), Err(AnalysisError::Rule { .. })), "{keep} {skip}");
    }
    let both = KeepRule::random(0.5, 1).skip_hardest(0.1);
    assert!(matches!(table.keep(&both), Err(AnalysisError::Rule { .. })));
    let mut unlabeled = table.clone();
    unlabeled.rows[5].label = None;
    let rule = KeepRule { balance: true, ..KeepRule::hardest(0.5) };
    let error = unlabeled.keep(&rule).unwrap_err();
    assert!(matches!(error, AnalysisError::NoLabel { example, .. } if example == unlabeled.rows[5].example));
    assert!(unlabeled.keep(&KeepRule::hardest(0.5)).is_ok());
}

#[test]
fn parts_add_up_and_fit() {
    for sizes in [vec![3, 3, 3], vec![1, 1, 1, 1, 1], vec![100, 1, 7], vec![0, 5], vec![]] {
        let whole: usize = sizes.iter().sum();
        for share in [0.0, 0.1, 0.34, 0.5, 0.999, 1.0] {
            let parts = apportion(share, &sizes);
            assert_eq!(parts.iter().sum::<usize>(), (share * whole as f64).round() as usize, "{sizes:?} {share}");
            assert!(parts.iter().zip(&sizes).all(|(part, size)| part <= size));
        }
    }
}
