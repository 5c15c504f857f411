//! Scores of a run that several workers recorded are those of the run that one would have recorded.

use crate::{InfluenceQuestion, Normalization, Score, ScoreQuestion, SplitBy, SummaryQuestion, Window};
use gradlog_format::log::worker_folder;
use gradlog_format::run::Run;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use std::sync::Arc;
use tempfile::TempDir;

const WORKERS: u64 = 3;

/// Each step's batch is dealt out to the workers, another way at each step, so that an example meets all of them.
fn worker(visit: &Visit, place: usize) -> u64 {
    Draws(visit.step << 20 | place as u64).below(WORKERS)
}

/// The run of one recorder and that of three, of the same visits.
fn both() -> (Written, Arc<TempDir>) {
    both_of(visits(&mut Draws(5), 12, 14, 5), 0)
}

/// The same of these visits, with probes before a step.
fn both_of(all: Vec<Visit>, step: u64) -> (Written, Arc<TempDir>) {
    let mut parts: Vec<Vec<Visit>> = vec![Vec::new(); WORKERS as usize];
    for (place, visit) in all.iter().enumerate() {
        parts[worker(visit, place) as usize].push(visit.clone());
    }
    // Within a step the order is that of the ranks.
    let mut ordered: Vec<Visit> = parts.iter().flatten().cloned().collect();
    ordered.sort_by_key(|visit| visit.step);
    let probes = |ids: &[u64]| ids.iter().map(|id| Draws(*id).visit(*id, step, 0)).collect::<Vec<_>>();
    let mut one = Synthetic::new(Encoding::F32);
    one.set(0, "test");
    one.probes(&probes(&[1, 2, 3]));
    ordered.chunks(11).for_each(|rows| one.visits(rows));
    one.end();
    let dir = Arc::new(TempDir::new().unwrap());
    for (rank, own) in (0..).zip(&parts) {
        let mut part = Synthetic::part(dir.clone(), Some((rank, WORKERS as u32)), Encoding::F32);
        // Each records its share of the probes.
        part.set(0, "test");
        part.probes(&probes(&[1 + u64::from(rank)]));
        own.chunks([40, 3, 17][rank as usize]).for_each(|rows| part.visits(rows));
        part.end();
        part.finish();
    }
    (one.finish(), dir)
}

#[test]
fn every_score_is_that_of_one_recorder() {
    let (one, dir) = both();
    let (one, several) = (one.run(), Run::open(dir.path()).unwrap());
    assert_eq!(several.parts().len(), 3);
    for score in Score::ALL {
        for window in [Window::everything(), Window::epochs(3..9), Window::steps(7..21)] {
            let (expected, found) = (
                ScoreQuestion::new(score).window(window.clone()).compute(&one).unwrap(),
                ScoreQuestion::new(score).window(window.clone()).compute(&several).unwrap(),
            );
            // To the last bit: not only the same visits, but in the same order.
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{score}");
        }
    }
}

#[test]
fn influence_is_that_of_one_recorder() {
    let (one, dir) = both();
    let (one, several) = (one.run(), Run::open(dir.path()).unwrap());
    for normalization in Normalization::ALL {
        let asked = InfluenceQuestion { normalization, ..InfluenceQuestion::new("test") };
        let (expected, found) = (asked.compute(&one).unwrap(), asked.compute(&several).unwrap());
        assert_eq!((found.visits, found.rows.len(), found.probes.len()), (expected.visits, expected.rows.len(), 3));
        assert_eq!(found.probes, expected.probes);
        for (number, row) in expected.rows.iter().enumerate() {
            let other = found.rows.iter().position(|other| other.example == row.example).unwrap();
            // Label and prediction of the last visit, whichever worker's it was.
            assert_eq!(&found.rows[other], row);
            for probe in 0..3 {
                let (a, b) = (expected.score(number, probe), found.score(other, probe));
                assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{a} {b}");
            }
        }
        let pairs: Vec<(u64, usize)> = expected.rows.iter().map(|row| (row.example, 1)).collect();
        let [a, b] = [&*one, &several].map(|run| {
            let plan = asked.plan(run).unwrap();
            plan.split(0, SplitBy::Epoch, &pairs).unwrap()
        });
        assert_eq!(a.parts, b.parts);
        assert!(a.scores.iter().zip(&b.scores).all(|(a, b)| (a - b).abs() <= 1e-9 * a.abs().max(1.0)));
    }
}

#[test]
fn a_summary_counts_a_worker_once() {
    let (one, dir) = both();
    let (expected, found) = (
        SummaryQuestion::new().compute(&one.run()).unwrap(),
        SummaryQuestion::new().compute(&Run::open(dir.path()).unwrap()).unwrap(),
    );
    assert_eq!((found.visits, found.examples, found.finished), (expected.visits, expected.examples, true));
    assert_eq!((found.epochs, found.steps), (expected.epochs, expected.steps));
    assert_eq!(found.probes, expected.probes);
    assert!(worker_folder(dir.path(), 2).exists());
}

#[cfg(feature = "curvature")]
#[test]
fn the_adjoint_is_that_of_one_recorder() {
    use crate::{EstimateQuestion, Method};
    let mut all = visits(&mut Draws(5), 12, 14, 5);
    // A step has one rate and one clip.
    all.iter_mut().for_each(|visit| (visit.learning_rate, visit.clip) = (0.01 + 0.001 * visit.step as f32, 1.0));
    let (one, dir) = both_of(all, 1_000);
    let (one, several) = (one.run(), Run::open(dir.path()).unwrap());
    let asked = EstimateQuestion::new(InfluenceQuestion::new("test"), Method::Adjoint);
    let (expected, found) = (&asked.compute(&one).unwrap()[0], &asked.compute(&several).unwrap()[0]);
    assert_eq!((found.visits, found.rows.len()), (expected.visits, expected.rows.len()));
    let (a, b) = (expected.estimate.as_ref().unwrap(), found.estimate.as_ref().unwrap());
    assert_eq!((a.steps, a.curvature_rows), (b.steps, b.curvature_rows));
    for (number, row) in expected.rows.iter().enumerate() {
        let other = found.rows.iter().position(|other| other.example == row.example).unwrap();
        for probe in 0..3 {
            let (a, b) = (expected.score(number, probe), found.score(other, probe));
            assert!((a - b).abs() <= 1e-5 * a.abs().max(1e-3), "{a} {b}");
        }
    }
}
