//! Training again: what is changed, what comes back, and what can go wrong.

use std::collections::HashSet;

/// What a training does otherwise than the recorded one.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Change<'a> {
    /// Nothing: the recorded run once more.
    Nothing,
    /// The same weights to begin with, the same order, the same batches; the losses of these examples are multiplied
    /// by `weight`, and 0 leaves them out. A mean still divides by the size of the whole batch, so that all others
    /// keep their weight.
    Weighted {
        /// Which examples.
        examples: &'a [u64],
        /// From 0 to 1.
        weight: f64,
    },
    /// These examples are all there are: batches are made of them alone, and an epoch is shorter.
    Only(&'a [u64]),
}

impl<'a> Change<'a> {
    /// These examples have no weight in the loss.
    pub fn leave_out(examples: &'a [u64]) -> Self {
        Change::Weighted { examples, weight: 0.0 }
    }

    /// By what an example's loss is multiplied. Goes through the list; for many examples make a set of it.
    pub fn weight(&self, example: u64) -> f64 {
        match self {
            Change::Weighted { examples, weight } if examples.contains(&example) => *weight,
            Change::Only(ids) if !ids.contains(&example) => 0.0,
            _ => 1.0,
        }
    }

    /// In words, for an error.
    pub(super) fn words(&self) -> String {
        match self {
            Change::Nothing => "all examples".into(),
            Change::Weighted { examples, weight } => {
                let which = match examples {
                    [one] => format!("example {one}"),
                    ids => format!("{} examples", ids.len()),
                };
                match weight {
                    0.0 => format!("{which} left out"),
                    weight => format!("{which} at {weight} of the weight"),
                }
            }
            Change::Only(ids) => format!("{} examples alone", ids.len()),
        }
    }
}

/// What a trained model makes of the probes, in one order for all trainings: that of the predictions they are compared
/// with.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The loss of each probe. Differences between trainings are small: take them in f64 where you can.
    pub losses: Vec<f64>,
    /// Whether the model is right on each.
    pub right: Vec<bool>,
}

/// What a training of the user's failed with.
pub type TrainingError = Box<dyn std::error::Error + Send + Sync>;

/// Trains a model from the beginning, with a seed for weights and order, under a change, and measures it on the probes.
///
/// The same seed and the same change must give the same model: then the difference between two trainings is the
/// change's.
pub type Retrain<'a> = dyn FnMut(u64, &Change<'_>) -> Result<Trained, TrainingError> + 'a;

/// Why there is no answer. The text includes the cause, so `source()` is `None`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The closure failed.
    #[error("training with seed {seed} and {change} failed: {cause}")]
    Training {
        /// Its seed.
        seed: u64,
        /// What was changed.
        change: String,
        /// What it failed with.
        cause: TrainingError,
    },
    /// A gradient of the model's could not be had.
    #[error("{what}: {cause}")]
    Gradient {
        /// Which.
        what: String,
        /// Why not.
        cause: TrainingError,
    },
    /// A loss is not a number.
    #[error(
        "training with seed {seed} and {change} gave probe {probe} the loss {loss}: it has diverged; lower the learning rate"
    )]
    NotFinite {
        /// Its seed.
        seed: u64,
        /// What was changed.
        change: String,
        /// Which probe, by position.
        probe: usize,
        /// Its loss.
        loss: f64,
    },
    /// Trainings, or a training and a prediction, know different numbers of probes.
    #[error("{what} has {given} probes and {expected} are expected: measure every training on the same probes, in one order")]
    Probes {
        /// What it is.
        what: String,
        /// How many it has.
        given: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A prediction has no score where one is needed.
    #[error(
        "the prediction has no score for example {example} on probe {probe}: was it visited, and inside the window?"
    )]
    NoScore {
        /// The example.
        example: u64,
        /// The probe, by position.
        probe: usize,
    },
    /// A prediction was made with another number of scores than examples and probes.
    #[error("{scores} scores for {examples} examples and {probes} probes: give one for each pair")]
    Scores {
        /// How many scores there are.
        scores: usize,
        /// How many examples.
        examples: usize,
        /// How many probes.
        probes: usize,
    },
    /// What was measured and what was predicted do not stand side by side.
    #[error(
        "{measured} measured and {predicted} predicted changes of {probes} probes: give as many of both, one for each training \
         and probe"
    )]
    Pairs {
        /// How many were measured.
        measured: usize,
        /// How many were predicted.
        predicted: usize,
        /// How many probes there are.
        probes: usize,
    },
    /// An influence does not have this probe.
    #[error("probe {id} is not among those that influence was measured on")]
    NoSuchProbe {
        /// Its id.
        id: u64,
    },
    /// There is nothing to measure.
    #[error("{what}: {how}")]
    Empty {
        /// What is missing.
        what: &'static str,
        /// What to do.
        how: &'static str,
    },
}

/// Trains once and checks what comes back. `probes` is how many there should be, if that is known.
pub(super) fn train(
    retrain: &mut Retrain<'_>,
    seed: u64,
    change: &Change<'_>,
    probes: Option<usize>,
) -> Result<Trained, AuditError> {
    let failed = |cause| AuditError::Training { seed, change: change.words(), cause };
    let trained = retrain(seed, change).map_err(failed)?;
    let expected = probes.unwrap_or(trained.losses.len());
    for given in [trained.losses.len(), trained.right.len()] {
        if given != expected {
            return Err(AuditError::Probes { what: format!("the training with {}", change.words()), given, expected });
        }
    }
    match trained.losses.iter().enumerate().find(|(_, loss)| !loss.is_finite()) {
        Some((probe, &loss)) => Err(AuditError::NotFinite { seed, change: change.words(), probe, loss }),
        None => Ok(trained),
    }
}

/// All examples but some, in their order.
pub(super) fn leave_out(examples: &[u64], gone: &[u64]) -> Vec<u64> {
    let gone: HashSet<u64> = gone.iter().copied().collect();
    examples.iter().copied().filter(|example| !gone.contains(example)).collect()
}
