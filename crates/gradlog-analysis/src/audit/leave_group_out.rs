//! Leave a group out, in the same run: what many examples do together can be predicted where one drowns in noise.

use super::removal::Removal;
use super::statistics::draw_subset;
use super::{AuditError, Paired, Prediction, Retrain, Trained};

/// What leaving out each of some groups of examples does to each probe. As [`LeaveOneOut`](super::LeaveOneOut), with
/// groups for single examples: the same run, the weights of a whole group set to zero.
///
/// What a group of `k` does grows as `k` where its members agree, or as `√k` where they do not. What a training makes
/// of rounding does not grow. So at large learning rates groups can be predicted where single examples cannot.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LeaveGroupOut {
    /// The seed of the run.
    pub seed: u64,
    /// The groups that were left out.
    pub groups: Vec<Vec<u64>>,
    /// The run with all examples.
    pub base: Trained,
    /// As [`LeaveOneOut::noise`](super::LeaveOneOut::noise), of the first example of the first group.
    pub noise: f64,
    /// `[groups, probes]`, row by row: the probe's loss without the group, minus that with it. Positive: it helped.
    pub changes: Vec<f64>,
    /// The same for half of the weight of each example of the group.
    pub half_changes: Vec<f64>,
}

impl LeaveGroupOut {
    /// Draws `count` groups of `size` examples at random; groups may overlap.
    pub fn draw_groups(examples: &[u64], count: usize, size: usize, draw_seed: u64) -> Vec<Vec<u64>> {
        let mut counter = 0;
        (0..count).map(|_| draw_subset(examples, size, draw_seed, &mut counter)).collect()
    }

    /// Trains `2 + 2·groups.len()` times.
    ///
    /// # Errors
    /// [`AuditError::Empty`] without groups or with an empty one; as
    /// [`LeaveOneOut::measure`](super::LeaveOneOut::measure) for a training that fails.
    pub fn measure(seed: u64, groups: &[Vec<u64>], retrain: &mut Retrain<'_>) -> Result<Self, AuditError> {
        let borrowed: Vec<&[u64]> = groups.iter().map(Vec::as_slice).collect();
        let Removal { base, noise, changes, half_changes } = Removal::measure(seed, &borrowed, retrain)?;
        Ok(Self { seed, groups: groups.to_vec(), base, noise, changes, half_changes })
    }

    /// As [`LeaveOneOut::ceiling`](super::LeaveOneOut::ceiling).
    pub fn ceiling(&self) -> Paired {
        Paired { probes: self.base.losses.len(), measured: self.changes.clone(), predicted: self.half_changes.clone() }
    }

    /// Beside what a method predicts: the sum of its influences over each group.
    ///
    /// # Errors
    /// As [`LeaveOneOut::pair_with`](super::LeaveOneOut::pair_with).
    pub fn pair_with(&self, prediction: &Prediction) -> Result<Paired, AuditError> {
        let groups = self.groups.iter().map(Vec::as_slice);
        Ok(Paired {
            probes: self.base.losses.len(),
            measured: self.changes.clone(),
            predicted: prediction.sums(groups, self.base.losses.len())?,
        })
    }
}
