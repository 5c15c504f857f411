//! ROC-AUC, recall and bootstrap intervals. Pure arithmetic.

use gradlog_format::sketch::draw;

/// A value and its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Measured {
    /// The value; NaN where it is not defined.
    pub value: f64,
    /// Lower end of its 95 % bootstrap interval.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
}

/// The chance that a hit comes before a miss in a ranking; NaN if one of the two is missing.
pub fn roc_auc(ranking: &[bool]) -> f64 {
    weighted_roc_auc(ranking, &vec![1.0; ranking.len()])
}

/// The same, where `times` says how often each place counts.
pub(super) fn weighted_roc_auc(ranking: &[bool], times: &[f64]) -> f64 {
    let (mut hits, mut misses, mut ahead) = (0.0, 0.0, 0.0);
    for (hit, times) in ranking.iter().zip(times) {
        if *hit {
            hits += times;
        } else {
            misses += times;
            ahead += times * hits;
        }
    }
    ahead / (hits * misses)
}

/// Which share of all hits stands in the first `share` of a ranking, each place counting as often as `times` says; NaN
/// without hits. A place that the limit cuts counts in part.
pub(super) fn weighted_recall(ranking: &[bool], times: &[f64], share: f64) -> f64 {
    let limit = share * times.iter().sum::<f64>();
    let (mut seen, mut found, mut hits) = (0.0, 0.0, 0.0);
    for (hit, times) in ranking.iter().zip(times) {
        if *hit {
            hits += times;
            found += (limit - seen).clamp(0.0, *times);
        }
        seen += times;
    }
    found / hits
}

/// How often, and with which seed, samples are drawn again for a 95 % interval (Efron 1979).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bootstrap {
    /// Number of draws. Without any, the ends of the interval are NaN.
    pub draws: u32,
    /// Seed of the draws. The same seed gives the same interval.
    pub seed: u64,
}

impl Bootstrap {
    /// So many draws, with seed 0.
    #[must_use]
    pub fn new(draws: u32) -> Self {
        Self { draws, seed: 0 }
    }

    /// Sets [`Bootstrap::seed`].
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The value of a statistic and its percentile interval.
    ///
    /// `sizes` are those of the samples that it is made of. Each is drawn again by itself, with replacement.
    /// `statistic` is given, for each sample, the positions drawn. The first call has every position once and gives
    /// the value. Draws without a number are left out.
    pub fn measure(&self, sizes: &[usize], mut statistic: impl FnMut(&[Vec<usize>]) -> f64) -> Measured {
        let mut positions: Vec<Vec<usize>> = sizes.iter().map(|size| (0..*size).collect()).collect();
        let value = statistic(&positions);
        let mut counter = 0;
        let mut values = Vec::with_capacity(self.draws as usize);
        for _ in 0..self.draws {
            for (positions, size) in positions.iter_mut().zip(sizes) {
                for position in positions.iter_mut() {
                    *position = draw_below(self.seed, counter, *size);
                    counter += 1;
                }
            }
            let drawn = statistic(&positions);
            if !drawn.is_nan() {
                values.push(drawn);
            }
        }
        values.sort_by(f64::total_cmp);
        let at = |share: f64| match values.len() {
            0 => f64::NAN,
            count => values[((count - 1) as f64 * share).round() as usize],
        };
        Measured { value, low: at(0.025), high: at(0.975) }
    }
}

/// A number below `bound`, evenly drawn; 0 for a bound of 0.
pub(super) fn draw_below(seed: u64, counter: u64, bound: usize) -> usize {
    ((u128::from(draw(seed, counter)) * bound as u128) >> 64) as usize
}

/// Draws a subset of this size, ascending. All subsets are equally probable (Fisher and Yates).
pub(super) fn draw_subset(examples: &[u64], size: usize, seed: u64, counter: &mut u64) -> Vec<u64> {
    let mut pool = examples.to_vec();
    let size = size.min(pool.len());
    for place in 0..size {
        let other = place + draw_below(seed, *counter, pool.len() - place);
        *counter += 1;
        pool.swap(place, other);
    }
    pool.truncate(size);
    pool.sort_unstable();
    pool
}

/// The mean of what is a number; NaN if nothing is.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.filter(|value| !value.is_nan()).fold((0.0, 0u64), |(s, n), value| (s + value, n + 1));
    sum / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roc_auc_is_the_share_of_pairs_in_order() {
        let mut counter = 0;
        for _ in 0..50 {
            let ranking: Vec<bool> = (0..20)
                .map(|_| {
                    counter += 1;
                    draw_below(7, counter, 3) == 0
                })
                .collect();
            let (mut pairs, mut ordered) = (0.0, 0.0);
            for (i, _) in ranking.iter().enumerate().filter(|(_, hit)| **hit) {
                for (j, _) in ranking.iter().enumerate().filter(|(_, hit)| !**hit) {
                    pairs += 1.0;
                    ordered += f64::from(u8::from(i < j));
                }
            }
            let auc = roc_auc(&ranking);
            assert!(if pairs > 0.0 { (auc - ordered / pairs).abs() < 1e-12 } else { auc.is_nan() });
        }
    }

    #[test]
    fn repeated_places_count_as_often_as_they_were_drawn() {
        let (ranking, times) = ([true, false, true, false], [2.0, 1.0, 0.0, 3.0]);
        let spread = [true, true, false, false, false, false];
        assert_eq!(weighted_roc_auc(&ranking, &times), roc_auc(&spread));
        assert_eq!(weighted_recall(&[true, false, false, true], &[1.0; 4], 0.25), 0.5);
        assert_eq!(weighted_recall(&[true, false, false, true], &[1.0; 4], 1.0), 1.0);
        // The limit lies in the middle of a place that was drawn twice.
        assert_eq!(weighted_recall(&[true, false], &[2.0, 2.0], 0.25), 0.5);
    }

    #[test]
    fn a_bootstrap_interval_is_that_of_the_normal_law_for_a_mean() {
        // 400 numbers of variance 1/12: the standard error is sqrt(1/12/400) = 0.0144.
        let sample: Vec<f64> = (0..400).map(|i| draw_below(3, i, 1 << 30) as f64 / (1u64 << 30) as f64).collect();
        let at = |places: &[Vec<usize>]| places[0].iter().map(|i| sample[*i]).sum::<f64>() / 400.0;
        let found = Bootstrap::new(2000).seed(5).measure(&[400], at);
        let half = 1.96 * (1.0f64 / 12.0 / 400.0).sqrt();
        assert!((found.value - 0.5).abs() < 0.05);
        assert!((found.high - found.value - half).abs() < 0.15 * half, "{found:?}");
        assert!((found.value - found.low - half).abs() < 0.15 * half, "{found:?}");
        assert_eq!(found, Bootstrap::new(2000).seed(5).measure(&[400], at));
        assert_ne!(found, Bootstrap::new(2000).seed(6).measure(&[400], at));
    }

    #[test]
    fn an_interval_of_nothing_is_no_number() {
        let found = Bootstrap::new(10).measure(&[0], |places| mean(places[0].iter().map(|_| 1.0)));
        assert!(found.value.is_nan() && found.low.is_nan() && found.high.is_nan());
    }

    #[test]
    fn subsets_are_of_the_size_asked_for_and_hold_each_example_as_often() {
        let examples: Vec<u64> = (100..110).collect();
        let (mut counter, mut times) = (0, [0u32; 10]);
        for _ in 0..3000 {
            let drawn = draw_subset(&examples, 4, 1, &mut counter);
            assert!(drawn.len() == 4 && drawn.windows(2).all(|pair| pair[0] < pair[1]));
            drawn.iter().for_each(|example| times[*example as usize - 100] += 1);
        }
        // 1,200 each, with a standard deviation of 27.
        assert!(times.iter().all(|times| (1080..1320).contains(times)), "{times:?}");
    }
}
