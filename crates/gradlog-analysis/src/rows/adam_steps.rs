//! The steps of a run whose optimizer told that it is Adam: at which rate a gradient acts in the end.

use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column, UpdateRule};
use gradlog_format::run::{Block, ReadError, Run};
use std::collections::BTreeMap;

/// What a step of Adam told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdamStep {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// `t` of the bias correction.
    pub taken: u64,
}

/// The steps of a run whose optimizer is Adam or AdamW.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AdamSteps(pub(crate) BTreeMap<u64, AdamStep>);

impl AdamSteps {
    /// Reads the steps of a run. `None` unless all of them were steps of one optimizer, Adam or AdamW, which may have
    /// begun anew.
    pub(crate) fn read(run: &Run) -> Result<Option<Self>, AnalysisError> {
        let mut steps: BTreeMap<u64, AdamStep> = BTreeMap::new();
        for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Steps)) {
            match read_block(&block, &mut steps) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                // Who reads the visits meets the same damage.
                Err(ReadError::Damaged(_)) => break,
                Err(other) => return Err(other.into()),
            }
        }
        Ok((!steps.is_empty() && are_of_one_optimizer(&steps)).then_some(Self(steps)))
    }
}

/// Of each step, the rate at which its gradient acts.
///
/// The gradient of step `t` enters the first moment, and acts through it at `t` and at the steps after it:
///
/// ```text
/// η_eff(t) = Σ_{s≥t} η_s (1−β₁) β₁^(s−t) / (1−β₁^s)
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AdamRates {
    rates: BTreeMap<u64, f64>,
    /// Steps that were the first of an optimizer.
    first: Vec<u64>,
}

impl AdamRates {
    /// As [`AdamSteps::read`].
    pub(crate) fn read(run: &Run) -> Result<Option<Self>, AnalysisError> {
        Ok(AdamSteps::read(run)?.map(|AdamSteps(steps)| Self::of(&steps)))
    }

    fn of(steps: &BTreeMap<u64, AdamStep>) -> Self {
        let mut rates = BTreeMap::new();
        // What a unit of the first moment at the later step moves from then on.
        let mut later: Option<(u64, AdamStep, f64)> = None;
        for (&number, step) in steps.iter().rev() {
            let taken = i32::try_from(step.taken).unwrap_or(i32::MAX);
            let now = step.learning_rate / (1.0 - step.beta1.powi(taken));
            let kept = match &later {
                // A count that begins anew is another optimizer, with moments of its own.
                Some((at, next, moved)) if next.taken > step.taken => {
                    next.beta1.powi(i32::try_from(at - number).unwrap_or(i32::MAX)) * moved
                }
                _ => 0.0,
            };
            let moved = now + kept;
            rates.insert(number, (1.0 - step.beta1) * moved);
            later = Some((number, *step, moved));
        }
        let first = steps.iter().filter(|(_, step)| step.taken == 1).map(|(number, _)| *number).collect();
        Self { rates, first }
    }

    /// Steps that were the first of an optimizer: before them it has no moments.
    pub(crate) fn first_steps(&self) -> impl Iterator<Item = u64> + '_ {
        self.first.iter().copied()
    }

    /// `η_eff` of a step; 0 for one whose row is missing.
    pub(crate) fn at(&self, step: u64) -> f64 {
        self.rates.get(&step).copied().unwrap_or(0.0)
    }
}

/// Whether the count of steps grows by 1 with each step, or falls because the optimizer began anew or took up an older
/// state. If two optimizers take turns, the count stays or jumps. Each has moments of its own, so a gradient of one
/// does not act through the other.
fn are_of_one_optimizer(steps: &BTreeMap<u64, AdamStep>) -> bool {
    steps.iter().zip(steps.iter().skip(1)).all(|((at, step), (later, next))| {
        next.taken == 1 || next.taken < step.taken || next.taken - step.taken == later - at
    })
}

/// Adds the steps of a block. Returns whether all of them were of Adam.
fn read_block(block: &Block, steps: &mut BTreeMap<u64, AdamStep>) -> Result<bool, ReadError> {
    let Some(rules) = column::optional(block, Column::UpdateRule, column::u8s)? else { return Ok(block.rows() == 0) };
    if !rules.iter().all(|rule| UpdateRule::from_code(*rule).is_some_and(UpdateRule::has_moments)) {
        return Ok(false);
    }
    let numbers = column::u64s(block, Column::Step)?;
    let rates = column::f32s(block, Column::LearningRate)?;
    let (Some(beta1), Some(beta2), Some(epsilon), Some(taken)) = (
        column::optional(block, Column::Beta1, column::f32s)?,
        column::optional(block, Column::Beta2, column::f32s)?,
        column::optional(block, Column::Epsilon, column::f32s)?,
        column::optional(block, Column::StepsTaken, column::u64s)?,
    ) else {
        return Ok(false);
    };
    for (row, number) in numbers.into_iter().enumerate() {
        let step = AdamStep {
            learning_rate: f64::from(rates[row]),
            beta1: f64::from(beta1[row]),
            beta2: f64::from(beta2[row]),
            epsilon: f64::from(epsilon[row]),
            taken: taken[row],
        };
        let is_share = |beta: f64| (0.0..1.0).contains(&beta);
        let are_sound = is_share(step.beta1) && is_share(step.beta2) && step.epsilon >= 0.0;
        if !(are_sound && step.taken > 0 && step.learning_rate.is_finite()) {
            return Ok(false);
        }
        steps.insert(number, step);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(learning_rate: f64, taken: u64) -> AdamStep {
        AdamStep { learning_rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, taken }
    }

    #[test]
    fn a_gradient_acts_at_all_later_steps() {
        let rate = |t: u64| 0.1 / t as f64;
        let steps: BTreeMap<u64, AdamStep> = (1..=6).map(|t| (t + 10, step(rate(t), t))).collect();
        let rates = AdamRates::of(&steps);
        for t in 1..=6u64 {
            let right: f64 =
                (t..=6).map(|s| rate(s) * 0.1 * 0.9f64.powi((s - t) as i32) / (1.0 - 0.9f64.powi(s as i32))).sum();
            assert!((rates.at(t + 10) - right).abs() < 1e-15, "{t}: {} {right}", rates.at(t + 10));
        }
        assert_eq!(rates.at(3), 0.0);
        assert!(are_of_one_optimizer(&steps));
        let counts = |counts: &[u64]| {
            let steps = (0..).zip(counts).map(|(number, taken)| (number, step(0.1, *taken))).collect();
            are_of_one_optimizer(&steps)
        };
        assert!(counts(&[1, 2, 3, 1, 2]) && counts(&[7, 8, 5, 6]), "begun anew, and an older state");
        assert!(!counts(&[1, 1, 2, 2]) && !counts(&[4, 5, 1, 6, 2]), "two optimizers in turn");
        // The moments begin anew.
        let both: BTreeMap<u64, AdamStep> = [(0, step(0.5, 1)), (1, step(0.5, 1))].into();
        assert!((AdamRates::of(&both).at(0) - 0.5).abs() < 1e-15);
    }
}
