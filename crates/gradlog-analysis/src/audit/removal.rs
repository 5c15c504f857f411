//! The run once more for each of some groups of examples: without the group, and with half of its weight.

use super::retrain::train;
use super::{AuditError, Change, Retrain, Trained};

/// A weight that differs from 1 by little more than rounding does, in f32 as well.
const ALMOST_ONE: f64 = 1.0 - 1.0 / (1 << 20) as f64;

/// What was measured; the fields are those of [`LeaveOneOut`](super::LeaveOneOut).
pub(super) struct Removal {
    pub base: Trained,
    pub noise: f64,
    pub changes: Vec<f64>,
    pub half_changes: Vec<f64>,
}

impl Removal {
    pub(super) fn measure(seed: u64, groups: &[&[u64]], retrain: &mut Retrain<'_>) -> Result<Self, AuditError> {
        let Some(first) = groups.first().filter(|_| groups.iter().all(|group| !group.is_empty())) else {
            return Err(AuditError::Empty { what: "no example is left out", how: "name some, drawn at random" });
        };
        let base = train(retrain, seed, &Change::Nothing, None)?;
        let mut changed = |examples: &[u64], weight: f64| -> Result<Vec<f64>, AuditError> {
            let other = train(retrain, seed, &Change::Weighted { examples, weight }, Some(base.losses.len()))?;
            Ok(other.losses.iter().zip(&base.losses).map(|(other, base)| other - base).collect())
        };
        let (mut changes, mut half_changes) = (Vec::new(), Vec::new());
        for group in groups {
            changes.extend(changed(group, 0.0)?);
            half_changes.extend(changed(group, 0.5)?);
        }
        let noise = root_mean_square(&changed(&first[..1], ALMOST_ONE)?) / root_mean_square(&changes);
        Ok(Self { base, noise, changes, half_changes })
    }
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
}
