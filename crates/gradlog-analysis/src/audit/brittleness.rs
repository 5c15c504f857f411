//! Brittleness: how few of its strongest proponents must go until a prediction changes (Ilyas et al. 2022, arXiv
//! 2202.00622, §4.1, as the benchmarks of TRAK have it).

use super::retrain::{leave_out, train};
use super::statistics::{Bootstrap, Measured};
use super::{AuditError, Change, Prediction, Retrain, Trained};

/// For some probes that the model gets right, after how many removed proponents it no longer does.
/// [`BrittlenessPlan::measure`] makes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Brittleness {
    /// The probes, by position.
    pub probes: Vec<usize>,
    /// How many proponents were taken away, ascending.
    pub counts: Vec<usize>,
    /// Of each probe, the least of the counts that changed its prediction; `None` if none did.
    pub flipped_at: Vec<Option<usize>>,
}

/// Whose proponents to remove, from which run, and how many of them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct BrittlenessPlan<'a> {
    seed: u64,
    base: &'a Trained,
    examples: &'a [u64],
    counts: &'a [usize],
    probes: Option<&'a [usize]>,
}

impl<'a> BrittlenessPlan<'a> {
    /// `base` is what came of training on all `examples` with `seed`. `counts` are numbers of removed proponents.
    #[must_use]
    pub fn new(seed: u64, base: &'a Trained, examples: &'a [u64], counts: &'a [usize]) -> Self {
        Self { seed, base, examples, counts, probes: None }
    }

    /// Asks about these probes only, by position. The default is all of them.
    #[must_use]
    pub fn probes(mut self, probes: &'a [usize]) -> Self {
        self.probes = Some(probes);
        self
    }

    /// For each of the probes that `base` gets right, trains on all examples but its strongest proponents, with more
    /// and more of them gone, until the model is wrong on it: at most `probes × counts` trainings.
    ///
    /// # Errors
    /// [`AuditError::Empty`] if `base` gets none of them right; [`AuditError::Probes`] if the prediction or a training
    /// knows another number of probes than `base`; as [`LeaveOneOut::measure`](super::LeaveOneOut::measure) for a
    /// training that fails.
    pub fn measure(&self, prediction: &Prediction, retrain: &mut Retrain<'_>) -> Result<Brittleness, AuditError> {
        let Self { seed, base, examples, counts, .. } = *self;
        let expected = base.right.len();
        if prediction.probes() != expected {
            return Err(AuditError::Probes { what: "the prediction".into(), given: prediction.probes(), expected });
        }
        let right = |probe: &usize| base.right.get(*probe) == Some(&true);
        let probes: Vec<usize> = match self.probes {
            Some(probes) => probes.iter().copied().filter(right).collect(),
            None => (0..expected).filter(right).collect(),
        };
        if probes.is_empty() {
            let how = "only a prediction that is right can be made wrong: take other probes";
            return Err(AuditError::Empty { what: "the model gets none of the probes right", how });
        }
        let mut counts = counts.to_vec();
        counts.sort_unstable();
        let mut flipped_at = Vec::with_capacity(probes.len());
        for probe in &probes {
            let mut found = None;
            for count in &counts {
                let kept = leave_out(examples, &prediction.proponent_ids(*probe, *count));
                if !train(retrain, seed, &Change::Only(&kept), Some(expected))?.right[*probe] {
                    found = Some(*count);
                    break;
                }
            }
            flipped_at.push(found);
        }
        Ok(Brittleness { probes, counts, flipped_at })
    }
}

impl Brittleness {
    /// Which share of the probes of all `parts`, which are mostly seeds, had changed when `count` proponents were gone.
    /// Higher: the method finds what matters. The interval draws the probes of each part again.
    pub fn share_flipped(parts: &[Brittleness], count: usize, bootstrap: Bootstrap) -> Measured {
        let sizes: Vec<usize> = parts.iter().map(|part| part.probes.len()).collect();
        let all = sizes.iter().sum::<usize>() as f64;
        bootstrap.measure(&sizes, |drawn| {
            let flipped = |part: &Brittleness, drawn: &[usize]| {
                drawn.iter().filter(|probe| part.flipped_at[**probe].is_some_and(|at| at <= count)).count()
            };
            parts.iter().zip(drawn).map(|(part, drawn)| flipped(part, drawn)).sum::<usize>() as f64 / all
        })
    }
}
