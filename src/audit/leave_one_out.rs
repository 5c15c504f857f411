//! Leave one out, in the same run: same seed, same batches, the example's weight set to zero.

use super::retrain::train;
use super::{AuditError, Change, Paired, Prediction, Retrain, Trained};

/// What leaving out each of some examples does to each probe.
///
/// With another seed the difference would be that of the seeds: an example is one of thousands. In the same run it is what
/// the example did, and as exact as the arithmetic.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LeaveOneOut {
    /// The seed of the run.
    pub seed: u64,
    /// The examples that were left out.
    pub examples: Vec<u64>,
    /// The run with all examples.
    pub base: Trained,
    /// How much of the changes is not the examples': the root mean square difference of two runs with all examples, in
    /// that of [`LeaveOneOut::changes`]. 0 where training is exactly repeatable. Near 1 the changes are noise, and nothing
    /// can predict them.
    pub noise: f64,
    /// `[examples, probes]`, row by row: the probe's loss without the example, minus that with it. Positive: it helped.
    pub changes: Vec<f64>,
}

impl LeaveOneOut {
    /// Trains `2 + examples.len()` times.
    ///
    /// # Errors
    /// [`AuditError::Empty`] without examples, [`AuditError::Training`], [`AuditError::NotFinite`] or [`AuditError::Probes`] for a
    /// training that fails.
    pub fn measure(seed: u64, examples: &[u64], retrain: &mut Retrain<'_>) -> Result<Self, AuditError> {
        if examples.is_empty() {
            return Err(AuditError::Empty { what: "no example is left out", how: "name some, drawn at random" });
        }
        let base = train(retrain, seed, &Change::Nothing, None)?;
        let mut changes = Vec::with_capacity(examples.len() * base.losses.len());
        for example in examples {
            let without = train(retrain, seed, &Change::LeftOut(&[*example]), Some(base.losses.len()))?;
            changes.extend(without.losses.iter().zip(&base.losses).map(|(without, with)| without - with));
        }
        let repeated = train(retrain, seed, &Change::Nothing, Some(base.losses.len()))?;
        let differences: Vec<f64> =
            repeated.losses.iter().zip(&base.losses).map(|(again, base)| again - base).collect();
        let noise = root_mean_square(&differences) / root_mean_square(&changes);
        Ok(Self { seed, examples: examples.to_vec(), base, noise, changes })
    }

    /// Beside what a method predicts.
    ///
    /// # Errors
    /// [`AuditError::Probes`] if it knows another number of probes, [`AuditError::NoScore`] where it says nothing.
    pub fn against(&self, prediction: &Prediction) -> Result<Paired, AuditError> {
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
