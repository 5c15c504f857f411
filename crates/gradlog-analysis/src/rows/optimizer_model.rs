//! The optimizer that an answer takes the steps for, and what the run says of it.

use super::window::Window;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{Column, UpdateRule};
use gradlog_format::run::{Block, ReadError};
use std::collections::BTreeMap;
use std::fmt;

/// What an answer takes for the optimizer, and what the run says of it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct OptimizerModel {
    /// Whether momentum and weight decay are modeled. If not, each step is taken as one of plain SGD.
    pub models_momentum: bool,
    /// Recorded steps inside the window.
    pub steps: u64,
    /// Of these, steps of which the optimizer did not tell the momentum.
    pub steps_without_momentum: u64,
    /// Of these, steps of which the optimizer did not tell the weight decay.
    pub steps_without_weight_decay: u64,
    /// Where momentum is modeled, steps of which the optimizer did not tell the count, so that the velocity is taken
    /// to go on.
    pub steps_without_count: u64,
    /// The largest momentum that the optimizer told; 0 if it told none.
    pub momentum: f32,
    /// The largest weight decay that it told; 0 if it told none.
    pub weight_decay: f32,
    /// Rule of the steps, if the optimizer told it and all have the same.
    pub rule: Option<UpdateRule>,
    /// Whether probes are multiplied by `1/(√v̂ + ε)` of Adam's second moments at their times, and rates are those at
    /// which a gradient acts through the first moment.
    pub models_moments: bool,
    /// Whether the steps of Adam are unrolled, with moments that are made of the recorded visits.
    pub unrolls_moments: bool,
    /// Whether norms of visits are in the metric of Adam: of second moments of at most 64 steps before, or of the
    /// checkpoint in a sweep.
    pub models_norms: bool,
}

impl fmt::Display for OptimizerModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { momentum, weight_decay, steps, .. } = *self;
        let (no_momentum, no_decay) = (self.steps_without_momentum == steps, self.steps_without_weight_decay == steps);
        let is_modeled = self.models_moments || self.models_norms;
        let rule = self.rule.filter(|rule| rule.has_moments()).map(|rule| rule.to_string());
        // Steps of both, in turn, are of no one rule.
        if let Some(rule) = rule.or_else(|| is_modeled.then(|| "Adam and AdamW".to_owned())) {
            if self.unrolls_moments && no_decay {
                let untold = "the weight decay was not told: it is taken as 0";
                return write!(f, "{rule}, moments of the recorded visits, {untold}");
            }
            if self.unrolls_moments {
                return write!(f, "{rule} with weight decay up to {weight_decay}, moments of the recorded visits");
            }
            return match (self.models_moments, self.models_norms) {
                (true, false) => write!(f, "{rule}, second moments of the probe's time"),
                (false, true) => write!(f, "{rule}, second moments of at most 64 steps before"),
                (true, true) => {
                    write!(f, "{rule}, second moments of the probe's time, in norms of at most 64 steps before")
                }
                (false, false) => write!(f, "plain SGD: {rule} not modeled"),
            };
        }
        let untold = self.steps_without_momentum.max(self.steps_without_weight_decay);
        let nesterov = if self.rule == Some(UpdateRule::NesterovSgd) { "Nesterov " } else { "" };
        if self.models_momentum {
            // A new optimizer begins with an empty velocity. Without its count, nothing tells it from the old one.
            let goes_on = if momentum > 0.0 && self.steps_without_count > 0 {
                ", the momentum taken to go on through the run"
            } else {
                ""
            };
            return match (no_momentum, no_decay) {
                (true, true) => {
                    f.write_str("SGD, the optimizer's momentum and weight decay were not told: both are taken as 0")
                }
                (true, false) => {
                    write!(f, "SGD with weight decay up to {weight_decay}, the momentum was not told: it is taken as 0")
                }
                (false, true) => {
                    write!(
                        f,
                        "SGD with {nesterov}momentum up to {momentum}, the weight decay was not told: it is taken as 0{goes_on}"
                    )
                }
                (false, false) => {
                    write!(
                        f,
                        "SGD with {nesterov}momentum up to {momentum} and weight decay up to {weight_decay}{goes_on}"
                    )
                }
            };
        }
        if steps == 0 || no_momentum && no_decay {
            return f.write_str("plain SGD: the optimizer told nothing of momentum and weight decay");
        }
        let missed = [(momentum, "momentum"), (weight_decay, "weight decay")];
        let missed: Vec<String> = missed
            .into_iter()
            .filter(|(value, _)| *value != 0.0)
            .map(|(value, name)| format!("{name} up to {value}"))
            .collect();
        match missed.as_slice() {
            [] => f.write_str("plain SGD, momentum 0 and weight decay 0")?,
            missed => write!(f, "plain SGD: {} not modeled", missed.join(" and "))?,
        }
        match untold {
            0 => Ok(()),
            untold => write!(f, " (not told for {untold} of {steps} steps)"),
        }
    }
}

/// What the optimizer told of a step.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    momentum: Option<f32>,
    weight_decay: Option<f32>,
    rule: Option<UpdateRule>,
}

impl OptimizerModel {
    /// Plain SGD, beside what the optimizer told of each step.
    pub(super) fn of(told: &BTreeMap<u64, Told>) -> Self {
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
        let untold = |is_told: fn(&Told) -> bool| told.values().filter(|told| !is_told(told)).count() as u64;
        let first = told.values().next().and_then(|told| told.rule);
        Self {
            models_momentum: false,
            steps: told.len() as u64,
            steps_without_momentum: untold(|told| told.momentum.is_some()),
            steps_without_weight_decay: untold(|told| told.weight_decay.is_some()),
            steps_without_count: 0,
            momentum: largest(&mut told.values().filter_map(|told| told.momentum)),
            weight_decay: largest(&mut told.values().filter_map(|told| told.weight_decay)),
            rule: first.filter(|_| told.values().all(|told| told.rule == first)),
            models_moments: false,
            unrolls_moments: false,
            models_norms: false,
        }
    }
}

/// Reads what the optimizer told of the steps of a block, as far as they lie inside the window of visits. Sweeps take
/// the rates of their checkpoints, which are those of any step.
pub(super) fn read_steps(block: &Block, window: &Window, told: &mut BTreeMap<u64, Told>) -> Result<(), AnalysisError> {
    if !window.is_on_sweeps() && !window.touches(block) {
        return Ok(());
    }
    let read = |block: &Block| -> Result<_, ReadError> {
        let optional = |column| column::optional(block, column, column::f32s);
        let epochs = column::optional(block, Column::Epoch, column::u32s)?;
        let (momenta, decays) = (optional(Column::Momentum)?, optional(Column::WeightDecay)?);
        let rules = column::optional(block, Column::UpdateRule, column::u8s)?;
        Ok((column::u64s(block, Column::Step)?, epochs, momenta, decays, rules))
    };
    let (steps, epochs, momenta, decays, rules) = match read(block) {
        Ok(read) => read,
        // Nothing is known of these steps.
        Err(ReadError::Damaged(_)) => {
            let (first, last) = block.steps();
            told.extend((first..=last).take(block.rows()).map(|step| (step, Told::default())));
            return Ok(());
        }
        Err(other) => return Err(other.into()),
    };
    let value = |values: &Option<Vec<f32>>, row: usize| {
        values.as_ref().and_then(|values| values.get(row).copied()).filter(|value| !value.is_nan())
    };
    for (row, step) in steps.into_iter().enumerate() {
        let epoch = epochs.as_ref().and_then(|epochs| epochs.get(row).copied());
        let inside = window.has_step(step) && epoch.is_none_or(|epoch| window.has_epoch(epoch));
        if inside || window.is_on_sweeps() {
            let rule = rules.as_ref().and_then(|rules| UpdateRule::from_code(*rules.get(row)?));
            let (momentum, weight_decay) = (value(&momenta, row), value(&decays, row));
            told.insert(step, Told { momentum, weight_decay, rule });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_optimizer_in_words() {
        let told = |momentum, weight_decay| OptimizerModel { steps: 4, momentum, weight_decay, ..Default::default() };
        let silent = OptimizerModel { steps_without_momentum: 4, steps_without_weight_decay: 4, ..told(0.0, 0.0) };
        let half = OptimizerModel { steps_without_momentum: 2, ..told(0.9, 0.0) };
        let modeled = |model: &OptimizerModel| OptimizerModel { models_momentum: true, ..model.clone() };
        let adam = |model: &OptimizerModel, models_moments| OptimizerModel {
            rule: Some(UpdateRule::AdamW),
            models_moments,
            ..model.clone()
        };
        let in_norms = |model: OptimizerModel| OptimizerModel { models_norms: true, ..model };
        for (model, said) in [
            (OptimizerModel::default(), "plain SGD: the optimizer told nothing of momentum and weight decay"),
            (silent.clone(), "plain SGD: the optimizer told nothing of momentum and weight decay"),
            (told(0.0, 0.0), "plain SGD, momentum 0 and weight decay 0"),
            (told(0.9, 0.0), "plain SGD: momentum up to 0.9 not modeled"),
            (told(0.9, 0.5), "plain SGD: momentum up to 0.9 and weight decay up to 0.5 not modeled"),
            (half.clone(), "plain SGD: momentum up to 0.9 not modeled (not told for 2 of 4 steps)"),
            (
                modeled(&OptimizerModel { steps_without_count: 4, ..told(0.9, 0.5) }),
                "SGD with momentum up to 0.9 and weight decay up to 0.5, the momentum taken to go on through the run",
            ),
            (modeled(&told(0.0, 0.5)), "SGD with momentum up to 0 and weight decay up to 0.5"),
            (adam(&silent, false), "plain SGD: AdamW not modeled"),
            (adam(&silent, true), "AdamW, second moments of the probe's time"),
            (in_norms(adam(&silent, false)), "AdamW, second moments of at most 64 steps before"),
            (
                in_norms(adam(&silent, true)),
                "AdamW, second moments of the probe's time, in norms of at most 64 steps before",
            ),
            (modeled(&silent), "SGD, the optimizer's momentum and weight decay were not told: both are taken as 0"),
        ] {
            assert_eq!(model.to_string(), said);
        }
    }
}
