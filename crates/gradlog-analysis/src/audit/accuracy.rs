//! Accuracy after pruning or cleaning: is what was trained on a part as good as what was trained on all?

use super::retrain::train;
use super::statistics::{Bootstrap, Measured};
use super::{AuditError, Change, Retrain};

/// Which probes the models of several seeds got right.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accuracy {
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Of each seed, each probe.
    pub right: Vec<Vec<bool>>,
}

impl Accuracy {
    /// Trains once with each seed on the examples that `keep` names for it; `None` is all of them.
    ///
    /// # Errors
    /// [`AuditError::Empty`] without seeds; as [`LeaveOneOut::measure`](super::LeaveOneOut::measure) for a training
    /// that fails.
    pub fn measure(
        seeds: &[u64],
        mut keep: impl FnMut(u64) -> Option<Vec<u64>>,
        retrain: &mut Retrain<'_>,
    ) -> Result<Self, AuditError> {
        let mut right: Vec<Vec<bool>> = Vec::with_capacity(seeds.len());
        for seed in seeds {
            let kept = keep(*seed);
            let change = kept.as_ref().map_or(Change::Nothing, |kept| Change::Only(kept));
            right.push(train(retrain, *seed, &change, right.first().map(Vec::len))?.right);
        }
        if right.is_empty() {
            return Err(AuditError::Empty { what: "no seed to train with", how: "give at least one" });
        }
        Ok(Self { seeds: seeds.to_vec(), right })
    }

    /// The share of probes that the models get right, mean over seeds. The interval draws probes and seeds again.
    pub fn share(&self, bootstrap: Bootstrap) -> Measured {
        self.mean_over(bootstrap, |model, probe| f64::from(u8::from(self.right[model][probe])))
    }

    /// By how much this is better than another, with the same probes and seeds: drawn together, so that what is hard
    /// for both does not widen the interval.
    ///
    /// # Errors
    /// [`AuditError::Probes`] if the two are not of the same probes and seeds.
    pub fn gain_over(&self, other: &Accuracy, bootstrap: Bootstrap) -> Result<Measured, AuditError> {
        let (given, expected) = (other.right.iter().map(Vec::len).sum(), self.right.iter().map(Vec::len).sum());
        if given != expected || self.seeds != other.seeds {
            return Err(AuditError::Probes { what: "the other accuracy, over all seeds,".into(), given, expected });
        }
        let one = |right: bool| f64::from(u8::from(right));
        Ok(self.mean_over(bootstrap, |model, probe| one(self.right[model][probe]) - one(other.right[model][probe])))
    }

    fn mean_over(&self, bootstrap: Bootstrap, value: impl Fn(usize, usize) -> f64) -> Measured {
        let probes = self.right.first().map_or(0, Vec::len);
        bootstrap.measure(&[self.right.len(), probes], |drawn| {
            let pairs = drawn[0].iter().flat_map(|model| drawn[1].iter().map(|probe| value(*model, *probe)));
            pairs.sum::<f64>() / (drawn[0].len() * drawn[1].len()) as f64
        })
    }
}
