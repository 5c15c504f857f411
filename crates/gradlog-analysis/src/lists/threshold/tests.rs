//! Threshold samples and verdicts against their definitions.

use super::*;
use crate::{AnalysisError, ThresholdQuestion};
use gradlog_format::log::Column;
use gradlog_format::run::Run;
use gradlog_testing::{run_of, visits, Draws, Opened, Visit};
use std::collections::BTreeSet;

const CLASSES: u32 = 10;

/// Ids of the synthetic runs.
fn ids() -> Vec<u64> {
    (0..60).map(|i| 100 + 7 * i).collect()
}

fn samples() -> ThresholdSamples {
    ThresholdSamples::draw(&ids(), CLASSES, 3).unwrap()
}

/// Run 0 or 1, trained with its threshold samples.
fn visits_of(run: usize) -> Vec<Visit> {
    let samples = samples();
    let mut all = visits(&mut Draws(run as u64), 60, 3, 8);
    all.iter_mut()
        .for_each(|visit| visit.label = samples.label(run, visit.example, visit.example as u32 % CLASSES).unwrap());
    all
}

fn run(number: usize) -> Opened {
    run_of(&visits_of(number), 16).run()
}

fn verdict(runs: &[&Run], samples: &ThresholdIds, percentile: f64) -> Result<Flagged, AnalysisError> {
    ThresholdQuestion::new(samples.clone()).percentile(percentile).compute_over(runs)
}

#[test]
fn samples_are_disjoint_of_the_papers_size_and_the_same_for_a_seed() {
    let samples = samples();
    let sets: Vec<BTreeSet<u64>> = samples.sets.iter().map(|set| set.iter().copied().collect()).collect();
    assert!(sets[0].is_disjoint(&sets[1]));
    assert!(sets.iter().all(|set| set.len() == 60 / 11 && set.iter().all(|id| ids().contains(id))));
    let mut shuffled = ids();
    shuffled.reverse();
    shuffled.push(shuffled[3]);
    assert_eq!(ThresholdSamples::draw(&shuffled, CLASSES, 3).unwrap(), samples);
    assert_ne!(ThresholdSamples::draw(&ids(), CLASSES, 4).unwrap(), samples);
    for (count, classes) in [(10usize, 10u32), (0, 3), (5, 0), (100, u32::MAX)] {
        let error = ThresholdSamples::draw(&(0..count as u64).collect::<Vec<_>>(), classes, 1).unwrap_err();
        assert!(matches!(error, AnalysisError::OutOfRange { .. }), "{error}");
    }
}

#[test]
fn each_example_is_judged_where_it_is_no_threshold_sample() {
    let (a, b) = (run(0), run(1));
    for percentile in [99.0, 50.0, 0.0, 100.0] {
        let result = verdict(&[&a, &b], &ThresholdIds::Class(CLASSES), percentile).unwrap();
        // The definition: the mean margin of each example in each run, and numpy's percentile of the samples'.
        let aum = |run: usize, id: u64| {
            let own: Vec<f64> =
                visits_of(run).iter().filter(|v| v.example == id).map(|v| f64::from(v.margin)).collect();
            own.iter().sum::<f64>() / own.len() as f64
        };
        let cut = |run: usize| {
            let mut sorted: Vec<f64> = samples().sets[run].iter().map(|id| aum(run, *id)).collect();
            sorted.sort_by(f64::total_cmp);
            let place = percentile / 100.0 * (sorted.len() - 1) as f64;
            let next = sorted[(place.ceil()) as usize];
            sorted[place as usize] + (next - sorted[place as usize]) * (place - place.floor())
        };
        assert_eq!(result.rows.len(), 60);
        for row in &result.rows {
            let judging: Vec<usize> = (0..2).filter(|&r| !samples().sets[r].contains(&row.example)).collect();
            let below = judging.iter().filter(|&&r| aum(r, row.example) < cut(r)).count() as u64;
            assert_eq!((row.judged, row.below), (judging.len() as u64, below));
            assert_eq!(row.flagged, below == judging.len() as u64);
            let above = judging.iter().map(|&r| aum(r, row.example) - cut(r)).sum::<f64>() / judging.len() as f64;
            assert!((row.above_cut - above).abs() < 1e-9);
            assert_eq!(row.label, Some(row.example as u32 % CLASSES));
        }
        assert!(result.rows.windows(2).all(|w| w[0].above_cut <= w[1].above_cut));
        assert!(result.runs.iter().all(|part| (part.samples, part.judged) == (5, 55)));
        let by_ids = verdict(&[&a, &b], &samples().into(), percentile).unwrap();
        assert_eq!(by_ids, result);
        // Both verdicts must occur, or this test says nothing.
        let flagged = result.count_flagged();
        assert!(percentile == 0.0 || percentile == 100.0 || (0 < flagged && flagged < 60), "{flagged}");
    }
}

#[test]
fn one_run_cannot_judge_its_own_samples() {
    let a = run(0);
    let result = verdict(&[&a], &ThresholdIds::Class(CLASSES), 99.0).unwrap();
    assert_eq!((result.rows.len(), &result.unjudged), (55, &samples().sets[0]));
}

#[test]
fn what_cannot_be_judged_says_so() {
    let (a, b) = (run(0), run(1));
    let error = verdict(&[&a, &b], &ThresholdIds::Class(77), 99.0).unwrap_err();
    assert!(matches!(&error, AnalysisError::NoThreshold { .. }) && error.to_string().contains("label 77"), "{error}");
    let sets = ThresholdIds::Sets(vec![samples().sets[0].clone()]);
    assert!(matches!(verdict(&[&a, &b], &sets, 99.0), Err(AnalysisError::OutOfRange { .. })));
    assert!(matches!(verdict(&[&a], &ThresholdIds::Class(CLASSES), f64::NAN), Err(AnalysisError::OutOfRange { .. })));
    assert!(matches!(verdict(&[&a, &a], &ThresholdIds::Class(CLASSES), 99.0), Err(AnalysisError::SameRun { .. })));
}

#[test]
fn numbers_that_are_not_finite_neither_cut_nor_are_judged() {
    let mut all = visits_of(0);
    let sample = samples().sets[0][0];
    let other = ids().into_iter().find(|id| !samples().sets[0].contains(id)).unwrap();
    for visit in all.iter_mut().filter(|v| v.example == sample || v.example == other) {
        visit.flags = Column::FLAG_NOT_FINITE;
    }
    let a = run_of(&all, 16).run();
    let result = verdict(&[&a], &ThresholdIds::Class(CLASSES), 99.0).unwrap();
    assert_eq!((result.runs[0].samples, result.runs[0].judged), (4, 54));
    assert!(result.unjudged.contains(&other) && result.unjudged.contains(&sample));
    assert!(result.runs[0].cut.is_finite() && result.rows.iter().all(|row| row.aum.is_finite()));
}
