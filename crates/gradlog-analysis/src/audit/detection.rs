//! Mislabel detection: how well a ranking finds labels that are known to be wrong.

use super::statistics::{mean, weighted_recall, weighted_roc_auc, Bootstrap, Measured};

/// A ranking of examples, the most suspicious first, with the truth about each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detection {
    wrong: Vec<bool>,
}

impl Detection {
    /// `ranking` holds examples, the most suspicious first; `is_wrong` knows.
    pub fn new(ranking: impl IntoIterator<Item = u64>, is_wrong: impl Fn(u64) -> bool) -> Self {
        Self { wrong: ranking.into_iter().map(is_wrong).collect() }
    }

    /// The chance that a wrong label stands before a right one, the mean over `parts`, which are mostly seeds. The
    /// interval draws the wrong and the right ones of each part again.
    pub fn roc_auc(parts: &[Detection], bootstrap: Bootstrap) -> Measured {
        pool_parts(parts, bootstrap, weighted_roc_auc)
    }

    /// Which share of the wrong labels is found when this share of all examples is inspected, likewise.
    pub fn recall(parts: &[Detection], share: f64, bootstrap: Bootstrap) -> Measured {
        pool_parts(parts, bootstrap, |wrong, times| weighted_recall(wrong, times, share))
    }

    /// Which share of the wrong labels is missed among the first `n` of the ranking, where `n` is the number of wrong
    /// labels, likewise: the false negative rate at the noise rate. A perfect ranking misses none.
    pub fn false_negative_rate(parts: &[Detection], bootstrap: Bootstrap) -> Measured {
        pool_parts(parts, bootstrap, |wrong, times| {
            let (hits, all) = wrong.iter().zip(times).fold((0.0, 0.0), |(hits, all), (wrong, times)| {
                (hits + if *wrong { *times } else { 0.0 }, all + times)
            });
            1.0 - weighted_recall(wrong, times, hits / all)
        })
    }

    fn places(&self, wrong: bool) -> Vec<usize> {
        (0..self.wrong.len()).filter(|place| self.wrong[*place] == wrong).collect()
    }
}

fn pool_parts(parts: &[Detection], bootstrap: Bootstrap, statistic: impl Fn(&[bool], &[f64]) -> f64) -> Measured {
    let places: Vec<Vec<usize>> = parts.iter().flat_map(|part| [part.places(true), part.places(false)]).collect();
    let sizes: Vec<usize> = places.iter().map(Vec::len).collect();
    bootstrap.measure(&sizes, |drawn| {
        let part_value = |number: usize, part: &Detection| {
            let mut times = vec![0.0; part.wrong.len()];
            for sample in 2 * number..2 * number + 2 {
                drawn[sample].iter().for_each(|at| times[places[sample][*at]] += 1.0);
            }
            statistic(&part.wrong, &times)
        };
        mean(parts.iter().enumerate().map(|(number, part)| part_value(number, part)))
    })
}
