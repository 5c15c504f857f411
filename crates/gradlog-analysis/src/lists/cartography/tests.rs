//! The map against its definition.

use super::*;
use crate::{AnalysisError, ExampleShare, MapQuestion};
use gradlog_format::log::Column;
use gradlog_testing::{run_of, visits, Draws, Visit};

#[test]
fn regions_are_the_ends_of_the_two_axes() {
    let mut all = visits(&mut Draws(1), 50, 4, 8);
    all.push(Visit { flags: Column::FLAG_NOT_FINITE, ..Draws(2).visit(3, 90, 3) });
    let run = run_of(&all, 16).run();
    for share in [0.0, 0.33, 0.5, 1.0] {
        let map = MapQuestion::new().share(share).compute(&run).unwrap();
        assert_eq!((map.rows.len(), map.left_out.examples, map.visits), (50, 1, all.len() as u64 - 1));
        let count = (share * 50.0f64).round() as usize;
        for row in &map.rows {
            let own: Vec<f64> =
                all.iter().filter(|v| v.example == row.example).map(|v| f64::from(v.confidence)).collect();
            let mu = own.iter().sum::<f64>() / own.len() as f64;
            let sigma = (own.iter().map(|p| (p - mu).powi(2)).sum::<f64>() / own.len() as f64).sqrt();
            assert!((row.confidence - mu).abs() < 1e-9 && (row.variability - sigma).abs() < 1e-9);
            let right = all.iter().filter(|v| v.example == row.example && v.correct == 1.0).count();
            assert!((row.correctness - right as f64 / own.len() as f64).abs() < 1e-12);
            // How many lie nearer to each end; numbers are all different.
            let beyond = |of: fn(&DataMapRow) -> f64, sign: f64| {
                map.rows.iter().filter(|other| sign * of(other) > sign * of(row)).count()
            };
            assert_eq!(row.easy, beyond(|r| r.confidence, 1.0) < count);
            assert_eq!(row.hard, beyond(|r| r.confidence, -1.0) < count);
            assert_eq!(row.ambiguous, beyond(|r| r.variability, 1.0) < count);
        }
        assert_eq!(map.counts(), [count as u64; 3]);
        assert!(map.rows.windows(2).all(|w| w[0].confidence <= w[1].confidence));
    }
    for share in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(MapQuestion::new().share(share).compute(&run), Err(AnalysisError::OutOfRange { .. })));
    }
}

/// Examples with equal numbers are in the same regions, whatever their ids.
#[test]
fn equal_examples_go_together() {
    let mut all: Vec<Visit> = (0..20u64).map(|example| Visit { example, ..Draws(7).visit(0, 0, 0) }).collect();
    for (share, expected) in [(0.0, 0), (0.33, 0), (0.5, 0), (0.55, 20), (1.0, 20)] {
        let map = MapQuestion::new().share(share).compute(&run_of(&all, 7).run()).unwrap();
        assert_eq!(map.counts(), [expected; 3], "{share}");
    }
    // Four that the model is surest of, and six whose middle is behind the border of 7.
    all[..4].iter_mut().for_each(|visit| visit.confidence = 0.99);
    all[4..10].iter_mut().for_each(|visit| visit.confidence = 0.98);
    all[10..].iter_mut().for_each(|visit| visit.confidence = 0.1);
    for (share, easy) in [(0.35, 4), (0.4, 10), (0.5, 10)] {
        let map = MapQuestion::new().share(share).compute(&run_of(&all, 7).run()).unwrap();
        assert_eq!(map.counts()[0], easy, "{share}");
        assert!(map.rows.iter().filter(|row| row.easy).all(|row| row.example < easy));
    }
}

/// A share of the examples has the numbers of the whole, and says what it is.
#[test]
fn a_share_of_the_examples_is_mapped_alone() {
    let all = visits(&mut Draws(5), 60, 3, 7);
    let run = run_of(&all, 16).run();
    let whole = MapQuestion::new().compute(&run).unwrap();
    let of = 3;
    let mut found = Vec::new();
    for number in 1..=of {
        let share = ExampleShare::new(number, of).unwrap();
        let part = MapQuestion::new().examples(share).compute(&run).unwrap();
        assert!(!part.rows.is_empty() && part.rows.iter().all(|row| share.holds(row.example)));
        assert_eq!(part.counts()[0], (MapQuestion::SHARE * part.rows.len() as f64).round() as u64);
        assert!(part.bases[0].to_string().contains(&format!("share {number}/3")), "{}", part.bases[0]);
        found.extend(part.rows.iter().map(|row| (row.example, row.confidence.to_bits(), row.variability.to_bits())));
    }
    let mut expected: Vec<_> =
        whole.rows.iter().map(|row| (row.example, row.confidence.to_bits(), row.variability.to_bits())).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}
