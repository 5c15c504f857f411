//! Leave one out, in the same run: same seed, same batches, the example's weight set to zero.

use super::removal::Removal;
use super::{AuditError, Paired, Prediction, Retrain, Trained};

/// What leaving out each of some examples does to each probe.
///
/// With another seed the difference would be that of the seeds: an example is one of thousands. In the same run it is
/// what the example did, if the training is smooth. Where steps are so large that trainings which differ a little come
/// apart, taking half of an example's weight away changes the losses as much as taking all of it, and otherwise: no
/// derivative says anything of that. [`Smoothness`](super::Smoothness) of [`LeaveOneOut::ceiling`] and
/// [`LeaveOneOut::noise`] tell; lower the learning rate then, or leave out groups
/// ([`LeaveGroupOut`](super::LeaveGroupOut)).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LeaveOneOut {
    /// The seed of the run.
    pub seed: u64,
    /// The examples that were left out.
    pub examples: Vec<u64>,
    /// The run with all examples.
    pub base: Trained,
    /// How much the training makes of rounding: the root mean square change of the losses by a weight of `1 − 2⁻²⁰`
    /// for the first of the examples, in that of [`LeaveOneOut::changes`]. About 10⁻⁶ where training is smooth and
    /// exactly repeatable. Near 1 the changes are noise, and nothing can predict them.
    pub noise: f64,
    /// `[examples, probes]`, row by row: the probe's loss without the example, minus that with it. Positive: it
    /// helped.
    pub changes: Vec<f64>,
    /// The same for half of the example's weight.
    pub half_changes: Vec<f64>,
}

impl LeaveOneOut {
    /// Trains `2 + 2·examples.len()` times.
    ///
    /// # Errors
    /// [`AuditError::Empty`] without examples, [`AuditError::Training`], [`AuditError::NotFinite`] or
    /// [`AuditError::Probes`] for a training that fails.
    pub fn measure(seed: u64, examples: &[u64], retrain: &mut Retrain<'_>) -> Result<Self, AuditError> {
        let groups: Vec<&[u64]> = examples.chunks(1).collect();
        let Removal { base, noise, changes, half_changes } = Removal::measure(seed, &groups, retrain)?;
        Ok(Self { seed, examples: examples.to_vec(), base, noise, changes, half_changes })
    }

    /// What half of each example's weight changes, beside what all of it changes.
    ///
    /// [`correlate`](super::correlate) of the two is about what a method can reach that goes by derivatives: to first
    /// order, one is half of the other.
    ///
    /// It is a mark and no bound. Where training scatters what each of the two does, the derivative agrees with each
    /// better than they with one another, if it is known without such scatter: by up to the root of their agreement
    /// (Spearman 1904, "The proof and measurement of association between two things", on attenuation).
    pub fn ceiling(&self) -> Paired {
        Paired { probes: self.base.losses.len(), measured: self.changes.clone(), predicted: self.half_changes.clone() }
    }

    /// Beside what a method predicts.
    ///
    /// # Errors
    /// [`AuditError::Probes`] if it knows another number of probes, [`AuditError::NoScore`] where it says nothing.
    pub fn pair_with(&self, prediction: &Prediction) -> Result<Paired, AuditError> {
        let groups = self.examples.chunks(1);
        Ok(Paired {
            probes: self.base.losses.len(),
            measured: self.changes.clone(),
            predicted: prediction.sums(groups, self.base.losses.len())?,
        })
    }
}
