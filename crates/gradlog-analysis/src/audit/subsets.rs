//! The linear datamodeling score (Park et al. 2023, arXiv 2303.14186, §2, after Ilyas et al. 2022, arXiv 2202.00622).
//!
//! For random subsets `S_j` of the training set and a model trained on each, the score of a method with influences `τ`
//! on a probe `z'` is Spearman's correlation over `j` of `Σ_{i in S_j} τ_i(z')` and `−ℓ(z'; θ(S_j))`, the mean loss
//! over some seeds; then the mean over probes. Noise of the seeds sets a limit to it that no method passes. For one
//! seed the paper's output function, the log-odds of the label, gives the same number: it rises as the cross entropy
//! falls.

use super::retrain::train;
use super::statistics::draw_below;
use super::{AuditError, Change, Paired, Prediction, Retrain};

/// Random subsets and what came of training on each. [`SubsetsPlan::measure`] makes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Subsets {
    /// The examples of each subset, ascending.
    pub subsets: Vec<Vec<u64>>,
    /// The seeds that each was trained with.
    pub seeds: Vec<u64>,
    /// `[subsets, probes]`, row by row: the probe's loss, the mean over the seeds.
    pub losses: Vec<f64>,
    probes: usize,
}

/// Which random subsets to draw, and with which seeds to train on each.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SubsetsPlan<'a> {
    examples: &'a [u64],
    count: usize,
    share: f64,
    draw_seed: u64,
    seeds: &'a [u64],
}

impl<'a> SubsetsPlan<'a> {
    /// Draws `count` subsets of `examples`. Unless set otherwise, each holds half of them and is trained on once.
    #[must_use]
    pub fn new(examples: &'a [u64], count: usize) -> Self {
        Self { examples, count, share: 0.5, draw_seed: 0, seeds: &[0] }
    }

    /// Sets the share of the examples in each subset, from 0 to 1; their number is rounded. The default is 0.5.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Sets the seed that the subsets are drawn with. The default is 0.
    #[must_use]
    pub fn draw_seed(mut self, seed: u64) -> Self {
        self.draw_seed = seed;
        self
    }

    /// Sets the seeds of the trainings on each subset. The default is seed 0 alone.
    #[must_use]
    pub fn seeds(mut self, seeds: &'a [u64]) -> Self {
        self.seeds = seeds;
        self
    }

    /// Trains on each subset with every seed: `count × seeds` trainings.
    ///
    /// # Errors
    /// [`AuditError::Empty`] if there is no subset, no seed, or nothing in a subset; as
    /// [`LeaveOneOut::measure`](super::LeaveOneOut::measure) for a training that fails.
    pub fn measure(&self, retrain: &mut Retrain<'_>) -> Result<Subsets, AuditError> {
        let Self { examples, count, share, draw_seed, seeds } = *self;
        let size = (share.clamp(0.0, 1.0) * examples.len() as f64).round() as usize;
        if count == 0 || size == 0 || seeds.is_empty() {
            let how = "ask for at least one subset, one seed, and a share that leaves an example";
            return Err(AuditError::Empty { what: "there is no subset to train on", how });
        }
        let mut counter = 0;
        let subsets: Vec<Vec<u64>> = (0..count).map(|_| subset(examples, size, draw_seed, &mut counter)).collect();
        let (mut losses, mut probes) = (Vec::new(), None);
        for subset in &subsets {
            let mut sums: Vec<f64> = Vec::new();
            for seed in seeds {
                let trained = train(retrain, *seed, &Change::Only(subset), probes)?;
                probes = Some(trained.losses.len());
                sums.resize(trained.losses.len(), 0.0);
                sums.iter_mut().zip(&trained.losses).for_each(|(sum, loss)| *sum += loss / seeds.len() as f64);
            }
            losses.append(&mut sums);
        }
        Ok(Subsets { subsets, seeds: seeds.to_vec(), losses, probes: probes.unwrap_or(0) })
    }
}

impl Subsets {
    /// Beside what a method predicts: the sum of its influences over each subset.
    ///
    /// # Errors
    /// As [`LeaveOneOut::pair_with`](super::LeaveOneOut::pair_with).
    pub fn pair_with(&self, prediction: &Prediction) -> Result<Paired, AuditError> {
        let probes = self.probes;
        if prediction.probes() != probes {
            return Err(AuditError::Probes {
                what: "the prediction".into(),
                given: prediction.probes(),
                expected: probes,
            });
        }
        let mut predicted = Vec::with_capacity(self.losses.len());
        for subset in &self.subsets {
            for probe in 0..probes {
                predicted.push(subset.iter().map(|example| prediction.score(*example, probe)).sum::<Result<f64, _>>()?);
            }
        }
        Ok(Paired { probes, measured: self.losses.iter().map(|loss| -loss).collect(), predicted })
    }
}

/// So many of the examples, each set as probable as any other (Fisher and Yates).
fn subset(examples: &[u64], size: usize, seed: u64, counter: &mut u64) -> Vec<u64> {
    let mut pool = examples.to_vec();
    for place in 0..size {
        let other = place + draw_below(seed, *counter, pool.len() - place);
        *counter += 1;
        pool.swap(place, other);
    }
    pool.truncate(size);
    pool.sort_unstable();
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_of_the_size_asked_for_and_hold_each_example_as_often() {
        let examples: Vec<u64> = (100..110).collect();
        let (mut counter, mut times) = (0, [0u32; 10]);
        for _ in 0..3000 {
            let drawn = subset(&examples, 4, 1, &mut counter);
            assert!(drawn.len() == 4 && drawn.windows(2).all(|pair| pair[0] < pair[1]));
            drawn.iter().for_each(|example| times[*example as usize - 100] += 1);
        }
        // 1,200 each, with a standard deviation of 27.
        assert!(times.iter().all(|times| (1080..1320).contains(times)), "{times:?}");
    }
}
