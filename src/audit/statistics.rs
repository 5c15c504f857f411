//! Correlations, ROC-AUC and bootstrap intervals. Pure arithmetic.

use crate::sketch::draw;

/// A value and its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The value; NaN where it is not defined.
    pub value: f64,
    /// Lower end of its 95 % bootstrap interval.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
}

/// Pearson's correlation; NaN if one side is constant or shorter than two. The two are taken to be of one length.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
    }
    // The roots are multiplied, not the sums: the losses of a well-trained model differ by so little that a product of two
    // such sums of squares would be 0.
    ab / (aa.sqrt() * bb.sqrt())
}

/// Spearman's rank correlation, ties sharing their mean rank; NaN if one side is constant or shorter than two.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut done = 0;
    for same in order.chunk_by(|&a, &b| values[a] == values[b]) {
        same.iter().for_each(|&i| ranks[i] = done as f64 + (same.len() as f64 - 1.0) / 2.0);
        done += same.len();
    }
    ranks
}

/// The chance that a hit stands before a miss in a ranking; NaN if there are none of either.
pub fn roc_auc(ranking: &[bool]) -> f64 {
    weighted_roc_auc(ranking, &vec![1.0; ranking.len()])
}

/// The same where each place counts so many times.
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

/// Which share of all hits stands in the first `share` of a ranking, each place counting so many times; NaN without hits.
/// A place that the limit cuts counts in part.
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

/// The value of a statistic and its 95 % percentile bootstrap interval (Efron 1979).
///
/// `sizes` are those of the samples that it is made of; each is drawn again by itself, with replacement. `statistic` is
/// given, for each sample, the positions drawn; first of all every position once, which gives the value. Draws without a
/// number are left out. The same `seed` gives the same interval.
pub fn bootstrap(sizes: &[usize], draws: u32, seed: u64, mut statistic: impl FnMut(&[Vec<usize>]) -> f64) -> Measured {
    let mut positions: Vec<Vec<usize>> = sizes.iter().map(|size| (0..*size).collect()).collect();
    let value = statistic(&positions);
    let mut counter = 0;
    let mut values = Vec::with_capacity(draws as usize);
    for _ in 0..draws {
        for (positions, size) in positions.iter_mut().zip(sizes) {
            for position in positions.iter_mut() {
                *position = below(seed, counter, *size);
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

/// A number below `bound`, evenly drawn; 0 for a bound of 0.
pub(super) fn below(seed: u64, counter: u64, bound: usize) -> usize {
    ((u128::from(draw(seed, counter)) * bound as u128) >> 64) as usize
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
    fn correlations_by_hand() {
        // Ranks 0 1 2 3 and 0 2 1 3: 1 − 6·2/(4·15) = 0.8.
        assert!((spearman(&[1.0, 2.0, 3.0, 40.0], &[1.0, 3.0, 2.0, 4.0]) - 0.8).abs() < 1e-12);
        // Ties share their mean rank: ranks 0.5 0.5 2 and 0 1 2 give 1.5 / sqrt(1.5·2).
        assert!((spearman(&[1.0, 1.0, 7.0], &[1.0, 2.0, 3.0]) - 1.5 / 3f64.sqrt()).abs() < 1e-12);
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert!((pearson(&[0.0, 1.0, 5.0], &[1.0, -1.0, -9.0]) + 1.0).abs() < 1e-12);
        // As small as the losses of a well-trained model.
        assert!((pearson(&[0.0, 1e-100, 2e-100], &[0.0, 1e-100, 2e-100]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn roc_auc_is_the_share_of_pairs_in_order() {
        let mut counter = 0;
        for _ in 0..50 {
            let ranking: Vec<bool> = (0..20)
                .map(|_| {
                    counter += 1;
                    below(7, counter, 3) == 0
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
        let sample: Vec<f64> = (0..400).map(|i| below(3, i, 1 << 30) as f64 / (1u64 << 30) as f64).collect();
        let at = |places: &[Vec<usize>]| places[0].iter().map(|i| sample[*i]).sum::<f64>() / 400.0;
        let found = bootstrap(&[400], 2000, 5, at);
        let half = 1.96 * (1.0f64 / 12.0 / 400.0).sqrt();
        assert!((found.value - 0.5).abs() < 0.05);
        assert!((found.high - found.value - half).abs() < 0.15 * half, "{found:?}");
        assert!((found.value - found.low - half).abs() < 0.15 * half, "{found:?}");
        assert_eq!(found, bootstrap(&[400], 2000, 5, at));
        assert_ne!(found, bootstrap(&[400], 2000, 6, at));
    }

    #[test]
    fn an_interval_of_nothing_is_no_number() {
        let found = bootstrap(&[0], 10, 0, |places| mean(places[0].iter().map(|_| 1.0)));
        assert!(found.value.is_nan() && found.low.is_nan() && found.high.is_nan());
    }
}
