//! Compares the losses of a replay with those that the training recorded at the same step, for the same examples.
//!
//! At the weights before a step, in training mode and on the same batch, a model gives the losses that the step
//! recorded. So equal losses prove that weights, data, model and loss are those of the training.

use super::message::{Batch, PassKind};
use super::state::State;
use gradlog_format::log::{BlockKind, Column, Mode};
use gradlog_format::run::{ReadError, Run};
use std::collections::HashMap;

/// Losses are called equal if they differ by at most this, times the recorded loss if that is above 1. Sums in another
/// order differ by less, and weights of another step by more.
const TOLERANCE: f32 = 1e-4;

/// How many recorded losses a replay has reproduced.
///
/// A swept example is compared if the training visited it at the step of the weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Reproduction {
    /// Swept examples that were compared.
    pub compared: u64,
    /// Of these, examples with the recorded loss, up to 1e-4 or 1e-4 times the loss.
    pub equal: u64,
    /// Of those with another loss, examples that were swept in training mode. In evaluation mode, dropout and batch
    /// statistics change losses rightly.
    pub different_in_training_mode: u64,
    /// The largest difference of two losses.
    pub largest_difference: f32,
}

impl Reproduction {
    /// Whether the replay reproduces the recorded losses. `None` if the log cannot tell: no swept example was visited
    /// at the step of the weights, or losses differ in evaluation mode alone.
    ///
    /// In training mode, random dropout and another batch under `BatchNorm` change losses as well.
    pub fn reproduces(&self) -> Option<bool> {
        match (self.compared, self.compared - self.equal, self.different_in_training_mode) {
            (0, _, _) => None,
            (_, 0, _) => Some(true),
            (_, _, 0) => None,
            _ => Some(false),
        }
    }

    fn compare(&mut self, recorded: &[f32], loss: f32, mode: Mode) {
        let difference = |recorded: &f32| match (recorded.is_nan() && loss.is_nan()) || *recorded == loss {
            true => 0.0,
            false => (recorded - loss).abs(),
        };
        let nearest = recorded.iter().min_by(|a, b| difference(a).total_cmp(&difference(b)));
        let Some((nearest, difference)) = nearest.map(|nearest| (*nearest, difference(nearest))) else { return };
        self.compared += 1;
        self.largest_difference = self.largest_difference.max(difference);
        if difference <= TOLERANCE * nearest.abs().max(1.0) {
            self.equal += 1;
        } else if mode == Mode::Training {
            self.different_in_training_mode += 1;
        }
    }
}

impl std::fmt::Display for Reproduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { compared, equal, largest_difference, .. } = self;
        match (compared, self.reproduces()) {
            (0, _) => f.write_str("no recorded loss to compare with"),
            (_, Some(true)) => write!(f, "reproduces all {compared} recorded losses"),
            (_, Some(false)) => write!(
                f,
                "reproduces only {equal} of {compared} recorded losses, by up to {largest_difference}: weights, data, model or \
                 loss are not those of the training, or the model is random"
            ),
            (_, None) => write!(f, "{equal} of {compared} losses in evaluation mode are those of the training"),
        }
    }
}

/// The losses that a run recorded at one step, by example.
#[derive(Debug, Clone, Default)]
pub(super) struct RecordedLosses {
    pub step: u64,
    by_example: HashMap<u64, Vec<f32>>,
}

impl RecordedLosses {
    /// Reads the visits of step `step`.
    pub(super) fn read(run: &Run, step: u64) -> Result<Self, ReadError> {
        let mut found = Self { step, ..Self::default() };
        let has_step = |(first, last): (u64, u64)| (first..=last).contains(&step);
        for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Visits) && has_step(block.steps())) {
            let (ids, steps) = (block.u64s(Column::Example)?, block.u64s(Column::Step)?);
            let losses = block.f32s(Column::Loss)?;
            for ((id, at), loss) in ids.into_iter().zip(steps).zip(losses) {
                if at == step {
                    found.by_example.entry(id).or_default().push(loss);
                }
            }
        }
        Ok(found)
    }
}

impl State {
    /// The ids and losses of a sweep's batch, if there are recorded losses to compare them with.
    pub(super) fn take_losses_to_compare(&self, batch: &Batch) -> Option<(Vec<u64>, Vec<f32>)> {
        let recorded = self.recorded_losses.as_ref().filter(|recorded| recorded.step == batch.step)?;
        let compares = batch.kind == PassKind::Sweep && !recorded.by_example.is_empty();
        compares.then(|| (batch.ids.clone(), batch.outputs.loss.clone()))
    }

    /// Compares losses of a sweep with the recorded ones.
    pub(super) fn compare_losses(&mut self, ids: &[u64], losses: &[f32]) {
        let (Some(recorded), Some(replayed)) = (&self.recorded_losses, self.replayed) else { return };
        for (id, loss) in ids.iter().zip(losses) {
            if let Some(own) = recorded.by_example.get(id) {
                self.reproduction.compare(own, *loss, replayed.mode);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_equal_up_to_rounding_and_a_difference_counts_in_training_mode() {
        let mut all = Reproduction::default();
        assert_eq!(all.reproduces(), None);
        all.compare(&[0.5], 0.500_05, Mode::Training);
        all.compare(&[7.0, 2_000.0], 2_000.1, Mode::Training);
        all.compare(&[f32::NAN], f32::NAN, Mode::Training);
        all.compare(&[f32::INFINITY], f32::INFINITY, Mode::Training);
        assert_eq!((all.compared, all.equal, all.reproduces()), (4, 4, Some(true)));
        all.compare(&[0.5], 0.501, Mode::Evaluation);
        assert_eq!((all.compared, all.equal, all.reproduces()), (5, 4, None));
        all.compare(&[0.5], 0.501, Mode::Training);
        assert_eq!((all.compared, all.equal, all.reproduces()), (6, 4, Some(false)));
        all.compare(&[0.5], f32::NAN, Mode::Training);
        assert_eq!((all.compared, all.equal, all.different_in_training_mode), (7, 4, 2));
        assert!(all.to_string().contains("only 4 of 7"), "{all}");
    }
}
