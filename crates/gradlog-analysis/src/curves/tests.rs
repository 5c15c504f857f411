//! The curves are the means and transitions that a plain loop over all visits counts.

use crate::{AnalysisError, CurveQuestion, Score, ScoreQuestion};
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{run_of, visits, Draws, Synthetic, Visit};
use std::collections::HashMap;

/// Of each epoch: visits, mean loss, share of right ones, learned and forgotten.
fn by_hand(all: &[Visit]) -> Vec<(u64, f64, f64, u64, u64)> {
    let epochs = all.last().map_or(0, |visit| visit.epoch + 1);
    let mut last: HashMap<u64, f32> = HashMap::new();
    let mut points = Vec::new();
    for epoch in 0..epochs {
        let (mut count, mut loss, mut right, mut learned, mut forgotten) = (0u64, 0.0, 0.0, 0, 0);
        for visit in all.iter().filter(|visit| visit.epoch == epoch && visit.loss.is_finite()) {
            count += 1;
            loss += f64::from(visit.loss);
            right += f64::from(visit.correct);
            match last.insert(visit.example, visit.correct) {
                Some(before) if before < visit.correct => learned += 1,
                Some(before) if before > visit.correct => forgotten += 1,
                _ => {}
            }
        }
        points.push((count, loss / count as f64, right / count as f64, learned, forgotten));
    }
    points
}

#[test]
fn points_are_those_of_a_plain_loop() {
    let mut all = visits(&mut Draws(8), 30, 5, 7);
    all[11].loss = f32::NAN;
    let run = run_of(&all, 13).run();
    let found = CurveQuestion::new().compute(&run).unwrap();
    assert!(found.by_epoch && found.damage.is_none());
    assert_eq!(found.left_out.not_finite, 1);
    let expected = by_hand(&all);
    assert_eq!(found.points.len(), 5);
    for (epoch, (point, (count, loss, right, learned, forgotten))) in found.points.iter().zip(expected).enumerate() {
        assert_eq!((point.epoch as usize, point.visits), (epoch, count));
        assert!((point.loss - loss).abs() < 1e-12 && (point.correct.unwrap() - right).abs() < 1e-12);
        assert_eq!((point.learned, point.forgotten), (Some(learned), Some(forgotten)));
    }
    let table = ScoreQuestion::new(Score::Forgetting).compute(&run).unwrap();
    let finite = table.rows.iter().filter(|row| row.score.is_finite());
    let forgotten: u64 = found.points.iter().filter_map(|point| point.forgotten).sum();
    assert_eq!(forgotten as f64, finite.map(|row| row.score).sum::<f64>());
}

#[test]
fn one_epoch_is_cut_into_stretches_of_steps() {
    let all = visits(&mut Draws(8), 300, 1, 3);
    let found = CurveQuestion::new().compute(&run_of(&all, 50).run()).unwrap();
    assert!(!found.by_epoch && found.points.len() > 30 && found.points.len() <= 50);
    assert_eq!(found.points.iter().map(|point| point.visits).sum::<u64>(), all.len() as u64);
    assert!(found.points.windows(2).all(|pair| pair[0].steps.end() < pair[1].steps.start()));
}

#[test]
fn the_last_record_of_a_probe_counts() {
    let mut draws = Draws(2);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    let record = |id, step, loss, draws: &mut Draws| {
        let mut visit = draws.visit(id, step, step as u32);
        (visit.loss, visit.correct) = (loss, 1.0);
        visit
    };
    run.probes(&[record(1, 0, 9.0, &mut draws), record(2, 0, 1.0, &mut draws)]);
    run.probes(&[record(1, 0, 2.0, &mut draws)]);
    run.visits(&visits(&mut draws, 4, 2, 4));
    run.probes(&[record(1, 2, 0.5, &mut draws), record(2, 2, f32::NAN, &mut draws)]);
    let found = CurveQuestion::new().compute(&run.finish().run()).unwrap();
    let points: Vec<(u64, u64, f64)> = found.probes[0].points.iter().map(|p| (p.step, p.probes, p.loss)).collect();
    assert_eq!(points, [(0, 2, 1.5), (2, 1, 0.5)]);
}

#[test]
fn a_regression_has_no_learned_and_a_run_without_losses_no_curve() {
    let all = visits(&mut Draws(4), 6, 2, 3);
    let write = |without: Vec<Column>| {
        let mut run = Synthetic::new(Encoding::Q8);
        run.without = without;
        run.visits(&all);
        run.finish().run()
    };
    let found = CurveQuestion::new().compute(&write(vec![Column::Correct])).unwrap();
    assert!(found.points.iter().all(|point| point.learned.is_none() && point.correct.is_none()));
    let refused = CurveQuestion::new().compute(&write(vec![Column::Loss]));
    assert!(matches!(refused, Err(AnalysisError::Missing { .. })));
}
