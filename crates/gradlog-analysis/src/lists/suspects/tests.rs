//! The list against its formula, on wrong labels that were planted, and its words.

use super::reasons::SIGNALS;
use super::*;
use crate::{Score, ScoreQuestion, SuspectQuestion};
use gradlog_format::log::Column;
use gradlog_format::run::Run;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{run_of, visits, Draws, Opened, Synthetic, Visit};

const CLASSES: u32 = 10;

fn list(runs: &[&Run]) -> Suspects {
    SuspectQuestion::new().compute_over(runs).unwrap()
}

/// Six epochs over 600 examples, every tenth of which has a wrong label; hard ones of label 6 look like a 4.
/// Each signal is noisy in its own way.
fn planted(seed: u64) -> (Vec<Visit>, impl Fn(u64) -> bool) {
    let wrong = |example: u64| example % 10 == 3;
    let mut draws = Draws(seed);
    let mut all = Vec::new();
    for epoch in 0..6u32 {
        for example in 0..600u64 {
            let truth = (example / 10 % u64::from(CLASSES)) as u32;
            let label = if wrong(example) { (truth + 1 + (example / 100) as u32) % CLASSES } else { truth };
            let hard = label == 6 && truth == 6 && example % 2 == 0;
            let pull: f32 = if wrong(example) {
                -1.5
            } else if hard {
                -0.8
            } else {
                2.0
            };
            let margin = pull + 2.5 * draws.number();
            let p = 1.0 / (1.0 + (-margin).exp());
            let mut visit = draws.visit(example, u64::from(epoch) * 600 + example, epoch);
            visit.label = label;
            visit.margin = margin;
            visit.confidence = p;
            visit.correct = f32::from(u8::from(margin > 0.0));
            let other = if hard {
                4
            } else if wrong(example) {
                truth
            } else {
                draws.below(10) as u32
            };
            visit.prediction = if margin > 0.0 { label } else { other };
            visit.loss = -p.ln() + 0.3 * draws.number();
            visit.el2n = (1.4 * (1.0 - p) + 0.2 * draws.number()).abs();
            visit.squared_norm = (2.0 * (1.0 - p) + 0.8 * draws.number()).abs();
            all.push(visit);
        }
    }
    (all, wrong)
}

/// The chance that a wrong label stands before a right one.
fn auc(ranking: &[u64], wrong: &impl Fn(u64) -> bool) -> f64 {
    let (mut ahead, mut seen) = (0u64, 0u64);
    for example in ranking {
        if wrong(*example) {
            seen += 1;
        } else {
            ahead += seen;
        }
    }
    ahead as f64 / (seen * (ranking.len() as u64 - seen)) as f64
}

#[test]
fn it_finds_more_than_the_best_of_its_signals() {
    for seed in 1..5 {
        let (all, wrong) = planted(seed);
        let run = run_of(&all, 300).run();
        let found = list(&[&run]);
        assert_eq!(found.signals, SIGNALS.map(|(score, _)| score));
        let ranking: Vec<u64> = found.rows.iter().map(|row| row.example).collect();
        let own = auc(&ranking, &wrong);
        let single = |score: Score| {
            let table = ScoreQuestion::new(score).compute(&run).unwrap();
            auc(&table.rows.iter().map(|row| row.example).collect::<Vec<_>>(), &wrong)
        };
        let best = SIGNALS.into_iter().map(|(score, _)| single(score)).fold(0.0, f64::max);
        assert!(best > 0.9 && own >= best - 0.001, "seed {seed}: {own} against {best}");
        // The proposals for what was found are the truth.
        let first: Vec<&Suspect> = found.rows.iter().take(40).filter(|row| wrong(row.example)).collect();
        let right = first.iter().filter(|row| row.proposed == Some((row.example / 10 % 10) as u32)).count();
        assert!(first.len() >= 25 && right * 10 >= first.len() * 9, "{right} of {}", first.len());
    }
}

#[test]
fn the_number_is_that_of_the_formula() {
    let (all, _) = planted(9);
    let run = run_of(&all, 300).run();
    let found = list(&[&run]);
    let n = found.rows.len() as f64;
    let tables: Vec<_> =
        SIGNALS.iter().map(|(score, _)| ScoreQuestion::new(*score).compute_over(&[&run]).unwrap()).collect();
    let median = |example: u64| {
        let place = |t: &crate::RunsTable| t.rows.iter().position(|row| row.example == example).unwrap();
        let mut ranks: Vec<f64> = tables.iter().map(|t| (n - 0.5 - place(t) as f64) / n).collect();
        ranks.sort_by(f64::total_cmp);
        ranks[2]
    };
    let rival = |example: u64| {
        let own: Vec<&Visit> = all.iter().filter(|v| v.example == example).collect();
        let votes = |class: u32| own.iter().filter(|v| v.prediction == class).count();
        let best = (0..CLASSES).filter(|c| *c != own[0].label).max_by_key(|c| (votes(*c), std::cmp::Reverse(*c)))?;
        (votes(best) > 0).then(|| (own[0].label, best, votes(best) as f64 / own.len() as f64))
    };
    let weights: Vec<(u32, u32, f64)> =
        (0..600).filter_map(|e| rival(e).map(|(y, k, share)| (y, k, share * (1.0 - median(e))))).collect();
    for row in found.rows.iter().step_by(29) {
        let m = median(row.example);
        let mut expected = (m / (1.0 - m)).ln();
        if let Some((y, k, share)) = rival(row.example) {
            let pair: f64 = weights.iter().filter(|w| (w.0, w.1) == (y, k)).map(|w| w.2).sum();
            let own: f64 = weights.iter().filter(|w| w.0 == y).map(|w| w.2).sum();
            expected += 0.5 * ((1.0 / 9.0) / ((pair + 200.0 / 9.0) / (own + 200.0))).ln();
            let said = row.rival.unwrap();
            assert_eq!((said.label, said.visits as f64 / said.predicted_visits as f64), (k, share));
        } else {
            assert_eq!(row.rival, None);
        }
        assert!((row.suspicion - expected).abs() < 1e-9, "{}: {} for {expected}", row.example, row.suspicion);
    }
}

#[test]
fn the_reasons_are_words_with_numbers() {
    let (all, wrong) = planted(2);
    let run = run_of(&all, 300).run();
    let found = list(&[&run]);
    let first = &found.rows[0];
    assert!(wrong(first.example));
    let words = first.reasons.join("; ");
    let aum = ScoreQuestion::new(Score::Aum).compute(&run).unwrap();
    for (place, row) in aum.rows.iter().enumerate().take(60) {
        let percent = (100.0 * (place as f64 + 0.5) / 600.0).ceil();
        let words = found.rows.iter().find(|found| found.example == row.example).unwrap().reasons.join("; ");
        let expected = format!("AUM {}, lowest {percent} %", crate::significant(row.score));
        assert!(words.contains(&expected), "{expected} in {words}");
    }
    assert!(words.contains(&format!("of 6 visits: {}", first.proposed.unwrap())), "{words}");
    let never = found.rows.iter().find(|row| row.values[4].value.is_infinite()).unwrap();
    assert!(never.reasons.iter().any(|reason| reason == "never learned in 6 visits"), "{:?}", never.reasons);
    let usual = found.rows.iter().find(|row| row.label == Some(6) && row.rival.is_some_and(|r| r.label == 4));
    let usual = usual.filter(|row| !row.reasons.is_empty()).unwrap();
    assert!(usual.reasons.iter().any(|reason| reason == "but 6 is often taken for 4"), "{:?}", usual.reasons);
    let last = found.rows.last().unwrap();
    assert!(last.reasons.is_empty() && last.proposed.is_none(), "{:?}", last.reasons);
}

#[test]
fn signals_that_were_not_recorded_are_left_out_and_named() {
    let (all, _) = planted(3);
    let mut run = Synthetic::new(Encoding::F32);
    run.without = vec![Column::SquaredNorm, Column::Correct];
    run.visits(&all);
    let run = run.finish().run();
    let found = list(&[&run]);
    assert_eq!(found.signals, [Score::Aum, Score::Loss, Score::El2n]);
    assert_eq!(
        found.missing_signals.iter().map(|(score, _)| *score).collect::<Vec<_>>(),
        [Score::SelfInfluence, Score::Forgetting]
    );
    assert!(found.missing_signals[0].1.contains("Taps"), "{:?}", found.missing_signals);
    assert!(found.rows.iter().all(|row| row.values.len() == 3));
    // A regression has losses alone, and no label.
    let mut run = Synthetic::new(Encoding::F32);
    run.without =
        [Column::SquaredNorm, Column::Correct, Column::El2n, Column::Margin, Column::Label, Column::Prediction]
            .to_vec();
    run.visits(&all);
    let run = run.finish().run();
    let found = list(&[&run]);
    let loss = ScoreQuestion::new(Score::Loss).compute(&run).unwrap();
    let ids = |rows: Vec<u64>| rows;
    assert_eq!(ids(found.rows.iter().map(|r| r.example).collect()), ids(loss.rows.iter().map(|r| r.example).collect()));
    assert!(found.rows.iter().all(|row| row.rival.is_none() && row.proposed.is_none() && row.label.is_none()));
}

#[test]
fn several_runs_add_up_and_say_where_labels_differ() {
    let ((a, _), (mut b, _)) = (planted(4), planted(5));
    b.iter_mut().filter(|v| v.example == 17).for_each(|v| v.label = (v.label + 1) % CLASSES);
    let (a, b): (Opened, Opened) = (run_of(&a, 300).run(), run_of(&b, 300).run());
    let found = list(&[&a, &b]);
    assert_eq!((found.runs, found.labels_differ), (2, 1));
    let row = found.rows.iter().find(|row| row.example == 17).unwrap();
    assert!(row.label.is_none() && row.rival.is_none());
    assert!(row.reasons.iter().any(|reason| reason.contains("differs between runs")));
    let other = found.rows.iter().find(|row| row.example == 18).unwrap();
    assert_eq!((other.runs, other.visits), (2, 12));
    let never = found.rows.iter().find(|row| row.values[4].value.is_infinite()).unwrap();
    assert!(never.reasons.iter().any(|r| r.starts_with("never learned in ") && r.ends_with(" of 2 runs")));
}

#[test]
fn an_example_without_any_number_comes_last() {
    let mut all = visits(&mut Draws(6), 20, 2, 5);
    all.push(Visit { flags: Column::FLAG_NOT_FINITE, ..Draws(7).visit(3, 90, 1) });
    let run = run_of(&all, 8).run();
    let found = list(&[&run]);
    let last = found.rows.last().unwrap();
    assert!(last.example == 3 && last.suspicion.is_nan() && last.visits == 0);
    assert!(found.rows[..20].iter().all(|row| row.suspicion.is_finite()));
}

/// Every example has the same visits as all others, so no id may stand out.
#[test]
fn equal_examples_are_equally_suspicious() {
    let mut all = Vec::new();
    for epoch in 0..3u32 {
        for example in 0..20u64 {
            let visit = Draws(u64::from(epoch)).visit(0, u64::from(epoch), epoch);
            all.push(Visit { example, label: 1, prediction: 1, ..visit });
        }
    }
    let found = list(&[&run_of(&all, 7).run()]);
    assert_eq!((found.rows.len(), found.signals.len()), (20, 5));
    for row in &found.rows {
        assert_eq!(row.suspicion, 0.0, "{}", row.example);
        assert!(row.values.iter().all(|value| value.rank == 0.5) && row.reasons.is_empty(), "{row:?}");
    }

    // Ranks by brute force: the share below, and half of the share that is equal.
    all.iter_mut().filter(|visit| visit.example < 8).for_each(|visit| visit.loss += 1.0);
    let found = list(&[&run_of(&all, 7).run()]);
    let at = found.signals.iter().position(|signal| *signal == Score::Loss).unwrap();
    for row in &found.rows {
        let share = |is: fn(f64, f64) -> bool| {
            let others = found.rows.iter().filter(|other| is(other.values[at].value, row.values[at].value));
            others.count() as f64 / 20.0
        };
        let expected = share(|other, own| other < own) + 0.5 * share(|other, own| other == own);
        assert!((row.values[at].rank - expected).abs() < 1e-12, "{row:?} for {expected}");
    }
}

/// Where more than a tenth of the examples were never right, none of them is among a tenth, and it is said of all.
#[test]
fn never_learned_is_a_reason_however_many_there_are() {
    let mut all = visits(&mut Draws(9), 30, 3, 5);
    for visit in &mut all {
        visit.correct = f32::from(u8::from(visit.example % 3 > 0));
    }
    let found = list(&[&run_of(&all, 8).run()]);
    let never: Vec<&Suspect> = found.rows.iter().filter(|row| row.values[4].value.is_infinite()).collect();
    assert!(never.len() >= 9 && never.iter().any(|row| row.values[4].rank < 0.9), "{} of 30", never.len());
    for row in never {
        let count = all.iter().filter(|visit| visit.example == row.example).count();
        let plural = if count == 1 { "" } else { "s" };
        let expected = format!("never learned in {count} visit{plural}");
        assert!(row.reasons.contains(&expected), "{expected} in {:?}", row.reasons);
    }
}
