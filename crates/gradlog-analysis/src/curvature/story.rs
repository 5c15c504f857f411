//! What a walk back through the run needs to know beforehand.

use super::set::{CurvatureRow, CurvatureSet};
use super::subject::Subject;
use crate::influence::plan::index::Index;
use crate::rows::adam_steps::AdamSteps;
use crate::rows::driver::{fold_each, ReadTo};
use crate::Progress;
use crate::{rows::column, AnalysisError, Curvature, OptimizerChoice};
use gradlog_format::log::{BlockKind, Column, UpdateRule};
use gradlog_format::run::{Block, Damage};
use std::collections::BTreeMap;

/// What the log says of an optimizer step.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepRecord {
    pub learning_rate: f32,
    /// `None` where the optimizer did not tell it.
    pub momentum: Option<f32>,
    pub weight_decay: Option<f32>,
    /// `None` where the optimizer did not tell it.
    pub rule: Option<UpdateRule>,
    /// Steps of the optimizer since its velocity or its moments were empty, this one included. `None` where it did not
    /// tell it.
    pub steps_taken: Option<u64>,
}

/// What the walk back needs to know beforehand: which blocks are sound, and what the optimizer did.
pub(super) struct Story {
    pub blocks: Vec<Block>,
    pub steps: BTreeMap<u64, StepRecord>,
    pub dropped: u64,
    pub damage: Option<Damage>,
    pub rows: Option<SetRows>,
    /// The steps of Adam, if these are unrolled.
    pub adam: Option<AdamSteps>,
}

/// The rows of a curvature set by the time at which they were taken.
pub(super) struct SetRows {
    pub index: Index,
    pub times: BTreeMap<u64, Vec<CurvatureRow>>,
}

/// What one block says.
enum StoryBlock {
    Visits(Block),
    Steps(Vec<(u64, StepRecord)>),
    Dropped(u64),
}

fn read(block: &Block) -> Result<StoryBlock, AnalysisError> {
    match block.kind() {
        Some(BlockKind::Visits) => {
            // A block that is damaged in the middle would be found after those behind it have been used.
            block.check()?;
            Ok(StoryBlock::Visits(block.clone()))
        }
        Some(BlockKind::Steps) => {
            let steps = column::u64s(block, Column::Step)?;
            let rates = column::f32s(block, Column::LearningRate)?;
            let momenta = column::optional(block, Column::Momentum, column::f32s)?;
            let decays = column::optional(block, Column::WeightDecay, column::f32s)?;
            let rules = column::optional(block, Column::UpdateRule, column::u8s)?;
            let counts = column::optional(block, Column::StepsTaken, column::u64s)?;
            let told = |values: &Option<Vec<f32>>, row: usize| {
                values.as_ref().and_then(|values| values.get(row).copied()).filter(|value| !value.is_nan())
            };
            let record = |(row, step): (usize, u64)| {
                let (momentum, weight_decay) = (told(&momenta, row), told(&decays, row));
                let rule = rules.as_ref().and_then(|rules| UpdateRule::from_code(*rules.get(row)?));
                let steps_taken =
                    counts.as_ref().and_then(|counts| counts.get(row).copied()).filter(|count| *count > 0);
                (step, StepRecord { learning_rate: rates[row], momentum, weight_decay, rule, steps_taken })
            };
            Ok(StoryBlock::Steps(steps.into_iter().enumerate().map(record).collect()))
        }
        _ => Ok(StoryBlock::Dropped(column::u64s(block, Column::Dropped)?.iter().sum())),
    }
}

impl Story {
    pub(super) fn read(subject: &Subject<'_>, progress: &Progress) -> Result<Self, AnalysisError> {
        let run = subject.run;
        let adam = subject.adam.clone();
        let mut story = Self { blocks: Vec::new(), steps: BTreeMap::new(), dropped: 0, damage: None, rows: None, adam };
        let before = |block: &Block| {
            subject.index.damage.as_ref().is_none_or(|damage| damage.block.is_none_or(|at| block.sequence() < at))
        };
        let keep = |block: &Block| {
            matches!(block.kind(), Some(BlockKind::Visits | BlockKind::Steps | BlockKind::Gaps)) && before(block)
        };
        let ReadTo(damage) = fold_each(run, progress, keep, read, |block| {
            match block {
                StoryBlock::Visits(block) => story.blocks.push(block),
                StoryBlock::Steps(rows) => story.steps.extend(rows),
                StoryBlock::Dropped(count) => story.dropped = story.dropped.saturating_add(count),
            }
            Ok(())
        })?;
        story.damage = damage.or_else(|| subject.index.damage.clone());
        if subject.asked.question.optimizer == OptimizerChoice::PlainSgd {
            let plain = |step: &mut StepRecord| {
                (step.momentum, step.weight_decay, step.rule) = (Some(0.0), Some(0.0), Some(UpdateRule::Sgd));
            };
            story.steps.values_mut().for_each(plain);
        } else if story.adam.is_none() {
            check_sgd(&story.steps)?;
            check_one_sgd(&story.steps)?;
        } else {
            check_adam(&story.steps)?;
        }
        if let Curvature::Set(name) = &subject.asked.curvature {
            let CurvatureSet { index, rows } = CurvatureSet::read(subject, name, progress)?;
            story.damage = story.damage.or_else(|| index.damage.clone());
            let mut times: BTreeMap<u64, Vec<CurvatureRow>> = BTreeMap::new();
            for row in rows {
                times.entry(row.time).or_default().push(row);
            }
            story.rows = Some(SetRows { index, times });
        }
        Ok(story)
    }
}

/// Refuses steps of another rule than SGD.
fn check_sgd(steps: &BTreeMap<u64, StepRecord>) -> Result<(), AnalysisError> {
    let other = |rule: &UpdateRule| !matches!(rule, UpdateRule::Sgd | UpdateRule::NesterovSgd);
    let Some(rule) = steps.values().filter_map(|step| step.rule).find(other) else { return Ok(()) };
    let range = match rule.has_moments() {
        true => "one that tells its betas, epsilon and count of steps at each step, as `gradlog::optim` does, and alone: take the steps as plain SGD, or ask TracIn",
        false => "SGD with or without momentum, Nesterov momentum and weight decay, Adam or AdamW, which the adjoint models",
    };
    Err(AnalysisError::OutOfRange { what: "the optimizer", given: rule.to_string(), range: range.into() })
}

/// Refuses momentum that does not go on from the step before: two optimizers in turn, or an older state. The count of
/// one optimizer rises by 1 with each step, or begins anew.
fn check_one_sgd(steps: &BTreeMap<u64, StepRecord>) -> Result<(), AnalysisError> {
    let counted: Vec<(u64, u64)> =
        steps.iter().filter_map(|(step, record)| Some((*step, record.steps_taken?))).collect();
    let has_momentum = steps.values().any(|step| step.momentum.is_some_and(|momentum| momentum != 0.0));
    let is_next = |pair: &[(u64, u64)]| {
        let ((step, taken), (later, next)) = (pair[0], pair[1]);
        next == 1 || next.checked_sub(taken) == Some(later - step)
    };
    match counted.windows(2).find(|pair| has_momentum && !is_next(pair)) {
        None => Ok(()),
        Some(pair) => Err(AnalysisError::OutOfRange {
            what: "the optimizer's count of its steps",
            given: format!("{} at step {}, after {}", pair[1].1, pair[1].0, pair[0].1),
            range: "one that rises with each step or begins anew: another optimizer or an older state has a velocity of its own".into(),
        }),
    }
}

/// Refuses Adam with weight decay in the gradient: the moments then hold the weights, which the log does not.
fn check_adam(steps: &BTreeMap<u64, StepRecord>) -> Result<(), AnalysisError> {
    let decays = |step: &&StepRecord| step.rule == Some(UpdateRule::Adam) && step.weight_decay != Some(0.0);
    let Some(step) = steps.values().find(decays) else { return Ok(()) };
    Err(AnalysisError::OutOfRange {
        what: "the weight decay of Adam",
        given: step.weight_decay.map_or("not told".into(), |decay| decay.to_string()),
        range:
            "0: it is in the gradient, so the moments hold the weights, and the log does not; AdamW keeps them apart"
                .into(),
    })
}
