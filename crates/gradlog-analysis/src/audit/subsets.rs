//! The linear datamodeling score (Park et al. 2023, arXiv 2303.14186, §2, after Ilyas et al. 2022, arXiv 2202.00622).
//!
//! For random subsets `S_j` of the training set and a model trained on each, the score of a method with influences `τ`
//! on a probe `z'` is Spearman's correlation over `j` of `Σ_{i in S_j} τ_i(z')` and `−ℓ(z'; θ(S_j))`, the mean loss
//! over some seeds; then the mean over probes. Noise of the seeds sets a limit to it that no method passes. For one
//! seed the paper's output function, the log-odds of the label, gives the same number: it rises as the cross entropy
//! falls.

use super::retrain::train;
use super::statistics::draw_subset;
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
    /// The same of each seed alone.
    pub by_seed: Vec<Vec<f64>>,
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
        let subsets: Vec<Vec<u64>> = (0..count).map(|_| draw_subset(examples, size, draw_seed, &mut counter)).collect();
        let (mut by_seed, mut probes) = (vec![Vec::new(); seeds.len()], None);
        for subset in &subsets {
            for (seed, losses) in seeds.iter().zip(&mut by_seed) {
                let trained = train(retrain, *seed, &Change::Only(subset), probes)?;
                probes = Some(trained.losses.len());
                losses.extend(trained.losses);
            }
        }
        let losses = mean_of(&by_seed);
        Ok(Subsets { subsets, seeds: seeds.to_vec(), losses, by_seed, probes: probes.unwrap_or(0) })
    }
}

impl Subsets {
    /// Beside what a method predicts: the sum of its influences over each subset.
    ///
    /// # Errors
    /// As [`LeaveOneOut::pair_with`](super::LeaveOneOut::pair_with).
    pub fn pair_with(&self, prediction: &Prediction) -> Result<Paired, AuditError> {
        let predicted = prediction.sums(self.subsets.iter().map(Vec::as_slice), self.probes)?;
        Ok(Paired { probes: self.probes, measured: negated(&self.losses), predicted })
    }

    /// The same subsets with the first of the seeds alone. A score against fewer trainings has more of their noise in
    /// it.
    #[must_use]
    pub fn first_seeds(&self, count: usize) -> Self {
        let count = count.clamp(1, self.seeds.len().max(1));
        let by_seed: Vec<Vec<f64>> = self.by_seed.iter().take(count).cloned().collect();
        Self {
            subsets: self.subsets.clone(),
            seeds: self.seeds.iter().take(count).copied().collect(),
            losses: mean_of(&by_seed),
            by_seed,
            probes: self.probes,
        }
    }

    /// How the trainings agree among themselves: the mean over the second half of the seeds, beside that over the
    /// first half. With two seeds this is one training beside another.
    ///
    /// To predict a second training of the same subsets by the first is a strong method: it trains every subset. What
    /// it does not reach is noise of the seeds. A method whose scores have no such noise can reach the root of it
    /// ([`Smoothness`](super::Smoothness)).
    ///
    /// # Errors
    /// [`AuditError::Empty`] with a single seed.
    pub fn ceiling(&self) -> Result<Paired, AuditError> {
        let (first, second) = self.by_seed.split_at(self.by_seed.len() / 2);
        if first.is_empty() {
            let how = "train on each with two seeds at least";
            return Err(AuditError::Empty { what: "each subset was trained on once, which shows no noise", how });
        }
        let predicted = negated(&mean_of(second));
        Ok(Paired { probes: self.probes, measured: negated(&mean_of(first)), predicted })
    }
}

fn negated(losses: &[f64]) -> Vec<f64> {
    losses.iter().map(|loss| -loss).collect()
}

/// The mean over lists of one length.
fn mean_of(lists: &[Vec<f64>]) -> Vec<f64> {
    let mut sums = vec![0f64; lists.first().map_or(0, Vec::len)];
    for list in lists {
        sums.iter_mut().zip(list).for_each(|(sum, value)| *sum += value / lists.len() as f64);
    }
    sums
}
