//! Leave one out, in the same run: same seed, same batches, the example's weight set to zero; and how far anything
//! could have predicted what comes of it.

use super::retrain::train;
use super::{AuditError, Change, Paired, Prediction, Retrain, Trained};

/// A weight that differs from 1 by little more than rounding does, in f32 as well.
const ALMOST_ONE: f64 = 1.0 - 1.0 / (1 << 20) as f64;

/// What leaving out each of some examples does to each probe.
///
/// With another seed the difference would be that of the seeds: an example is one of thousands. In the same run it is
/// what the example did, if the training is smooth. Where steps are so large that trainings which differ a little come
/// apart, taking half of an example's weight away changes the losses as much as taking all of it, and otherwise: no
/// derivative says anything of that. [`LeaveOneOut::ceiling`] and [`LeaveOneOut::noise`] tell; lower the learning rate
/// then.
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
        let Some(first) = examples.first() else {
            return Err(AuditError::Empty { what: "no example is left out", how: "name some, drawn at random" });
        };
        let base = train(retrain, seed, &Change::Nothing, None)?;
        let mut changed = |example: u64, weight: f64| -> Result<Vec<f64>, AuditError> {
            let change = Change::Weighted { examples: &[example], weight };
            let other = train(retrain, seed, &change, Some(base.losses.len()))?;
            Ok(other.losses.iter().zip(&base.losses).map(|(other, base)| other - base).collect())
        };
        let (mut changes, mut half_changes) = (Vec::new(), Vec::new());
        for example in examples {
            changes.extend(changed(*example, 0.0)?);
            half_changes.extend(changed(*example, 0.5)?);
        }
        let noise = root_mean_square(&changed(*first, ALMOST_ONE)?) / root_mean_square(&changes);
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
        let probes = self.base.losses.len();
        if prediction.probes() != probes {
            return Err(AuditError::Probes {
                what: "the prediction".into(),
                given: prediction.probes(),
                expected: probes,
            });
        }
        let pairs = self.examples.iter().flat_map(|example| (0..probes).map(move |probe| (*example, probe)));
        let predicted = pairs.map(|(example, probe)| prediction.score(example, probe)).collect::<Result<_, _>>()?;
        Ok(Paired { probes, measured: self.changes.clone(), predicted })
    }
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
}
