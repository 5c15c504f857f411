//! How concentrated a probe's influence is: on few training examples, or on many.
//!
//! Few carriers are a sign that the probe has little company in the training data, as when the two come from different
//! places (Koh and Liang 2017, §5.2 and §5.3, look at the same by eye).

use super::answer::Influence;
use rayon::slice::ParallelSliceMut;

/// How a probe's influence is spread over the training examples, by the sizes of the scores.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Concentration {
    /// Examples with a score.
    pub examples: usize,
    /// Share of `Σ|s|` that the hundredth of the examples with the largest `|s|` carries (one example at least): 0.01
    /// if all are alike, 1 if no other counts.
    pub top_hundredth: f64,
    /// `(Σ|s|)²/Σs²`: as many examples of one size would be as concentrated.
    pub carriers: f64,
}

impl Influence {
    /// How concentrated the influence on a probe is, or `None` if no score differs from 0.
    ///
    /// # Panics
    /// If there is no such probe.
    pub fn concentration(&self, probe: usize) -> Option<Concentration> {
        let mut sizes: Vec<f64> =
            (0..self.rows.len()).map(|row| self.score(row, probe).abs()).filter(|size| size.is_finite()).collect();
        // Sorted before they are added up: the sum does not depend on the order of the rows.
        sizes.par_sort_unstable_by(|a, b| b.total_cmp(a));
        let total: f64 = sizes.iter().sum();
        if total <= 0.0 {
            return None;
        }
        let top: f64 = sizes.iter().take((sizes.len() / 100).max(1)).sum();
        // Shares instead of sizes, whose squares may be too small for f64.
        let squares: f64 = sizes.iter().map(|size| (size / total).powi(2)).sum();
        Some(Concentration { examples: sizes.len(), top_hundredth: top / total, carriers: 1.0 / squares })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::influence::{InfluenceRow, Probe, ProbeTime};

    fn with(scores: Vec<f64>) -> Influence {
        let mut influence = Influence::new("test".into(), ProbeTime::Earlier);
        influence.probes = vec![Probe { id: 1, times: 1, label: None, prediction: None, scored: None }];
        let row = |example| InfluenceRow { example, visits: 1, label: None, prediction: None };
        influence.rows = (0..scores.len() as u64).map(row).collect();
        influence.scores = scores;
        influence
    }

    #[test]
    fn of_even_and_uneven_scores() {
        let even: Vec<f64> = (0..200).map(|i| if i % 2 == 0 { 3.0 } else { -3.0 }).collect();
        let found = with(even).concentration(0).unwrap();
        assert_eq!(found.examples, 200);
        assert!((found.top_hundredth - 0.01).abs() < 1e-12 && (found.carriers - 200.0).abs() < 1e-9);

        // One carries nine tenths: 0.9² + 9·(0.1/9)² = 0.8111.
        let mut one = vec![-0.1; 10];
        one[4] = 8.1;
        one.push(f64::NAN);
        let found = with(one).concentration(0).unwrap();
        assert_eq!(found.examples, 10);
        assert!((found.top_hundredth - 0.9).abs() < 1e-12);
        assert!((found.carriers - 1.0 / (0.81 + 9.0 * (0.1f64 / 9.0).powi(2))).abs() < 1e-9);

        assert!(with(vec![0.0, f64::NAN]).concentration(0).is_none());
        assert!((with(vec![1e-200, 1e-200]).concentration(0).unwrap().carriers - 2.0).abs() < 1e-9);
    }
}
