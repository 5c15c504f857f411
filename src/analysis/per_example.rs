//! From visits to one number per example: the driver of all scores that look at each visit on its own.
//!
//! A score is an accumulator, [`PerExample`]; this file reads the columns that it names, leaves out what is not finite,
//! keeps one accumulator per example, and sorts.

use super::driver::{fold_each, Progress};
use super::sweep::Sweeps;
use super::{column, error::NO_GRADIENTS, AnalysisError, Basis, Order, Score, Window};
use crate::log::Column;
use crate::run::{Block, Damage, Run};
use std::cmp::Ordering;
use std::collections::HashMap;

/// One score of all examples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScoreTable {
    /// Which score it is.
    pub score: Score,
    /// Whether it stands on visits of the training or on sweeps at checkpoints, and which.
    pub basis: Basis,
    /// Visits that it stands on.
    pub visits: u64,
    /// Visits that were left out because a number of theirs was NaN or infinite.
    pub not_finite: u64,
    /// Visits that were left out because the example had no weight in the loss, so that its gradient could not be seen.
    pub unseen: u64,
    /// Visits inside the window that were left out because they were recorded without what the score is made of.
    pub missing: u64,
    /// Visits counted in `visits` whose gradient norm is an estimate from a sketch, not exact.
    pub estimated_norms: u64,
    /// One row per example, the most suspicious first; ties by example id, examples without a usable visit last.
    pub rows: Vec<ScoreRow>,
    /// Where the run stopped being readable, if it did; the score then stands on what came before.
    pub damage: Option<Damage>,
}

/// The score of one example.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScoreRow {
    /// Id of the example.
    pub example: u64,
    /// Visits that the score stands on.
    pub visits: u64,
    /// The score, NaN if there was no usable visit.
    pub score: f64,
    /// What the score says beside its number, in the order of [`Score::extras`].
    pub extras: Vec<Extra>,
    /// Visits of the example that were left out because a number of theirs was NaN or infinite.
    pub not_finite: u64,
    /// Label at the example's last visit inside the window, if labels were recorded.
    pub label: Option<u32>,
    /// Predicted class at the example's last visit inside the window, if predictions were recorded.
    pub prediction: Option<u32>,
}

/// A value that a score gives beside its number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Extra {
    /// A count.
    Count(u64),
    /// A number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// Nothing to say of this example.
    Nothing,
}

/// What a score gathers of one example.
pub(super) trait PerExample: Default {
    /// The columns that it is made of, all f32.
    const COLUMNS: &'static [Column];
    /// Whether a visit whose gradient could not be seen is left out. A score that multiplies by `c = 0` keeps it.
    const NEEDS_GRADIENT: bool = false;
    /// Whether more than one prediction a visit is an error.
    const ONE_PREDICTION: bool = false;
    /// Whether it says something of a sequence of visits, which sweeps are not.
    const NEEDS_VISITS: bool = false;

    /// Takes one visit: `values` in the order of `COLUMNS`, all finite.
    fn add(&mut self, values: &[f32]);

    /// The score. Called only if there was a visit.
    fn score(&self) -> f64;

    /// What stands beside it, in the order of [`Score::extras`]; also called if there was no visit.
    fn extras(&self) -> Vec<Extra> {
        Vec::new()
    }

    /// Among equal scores, the higher comes first.
    fn tie_break(&self) -> f64 {
        0.0
    }
}

/// The mean of one number a visit, summed in f64.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// NaN if nothing was added.
    pub(super) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum
    }
}

/// What was read of one block.
struct Visits {
    rows: usize,
    inside: Option<Vec<bool>>,
    /// `None` if the block lacks a column that the score is made of.
    columns: Option<VisitColumns>,
}

struct VisitColumns {
    examples: Vec<u64>,
    flags: Option<Vec<u8>>,
    values: Vec<Vec<f32>>,
    labels: Option<Vec<u32>>,
    predictions: Option<Vec<u32>>,
}

struct Gathered<A> {
    accumulator: A,
    visits: u64,
    not_finite: u64,
    label: Option<u32>,
    prediction: Option<u32>,
}

impl Visits {
    fn read<A: PerExample>(block: &Block, window: &Window, sweeps: &Sweeps) -> Result<Self, AnalysisError> {
        let inside = sweeps.rows(window, block)?;
        let rows = inside.as_ref().map_or(block.rows(), |inside| inside.iter().filter(|i| **i).count());
        // A sweep takes no step: its examples count in full, whatever the batch of the replay was (Pruthi et al. 2020, TracInCP).
        let is_one = |column| window.is_on_sweeps() && matches!(column, Column::Clip | Column::Coefficient);
        if A::COLUMNS.iter().any(|&needed| !is_one(needed) && !block.has(needed)) {
            return Ok(Self { rows, inside, columns: None });
        }
        let examples = column::u64s(block, Column::Example)?;
        if A::ONE_PREDICTION {
            let positions = column::optional(block, Column::Positions, column::u32s)?.unwrap_or_default();
            let several = positions.iter().enumerate().find(|(row, positions)| {
                **positions > 1 && inside.as_ref().is_none_or(|inside| inside.get(*row) == Some(&true))
            });
            if let Some((row, &positions)) = several {
                return Err(AnalysisError::SeveralPredictions { example: examples[row], positions });
            }
        }
        let values = |&column: &Column| match is_one(column) {
            true => Ok(vec![1.0; block.rows()]),
            false => column::f32s(block, column),
        };
        let values = A::COLUMNS.iter().map(values).collect::<Result<_, _>>()?;
        let columns = Some(VisitColumns {
            examples,
            flags: column::optional(block, Column::Flags, column::u8s)?,
            values,
            labels: column::optional(block, Column::Label, column::u32s)?,
            predictions: column::optional(block, Column::Prediction, column::u32s)?,
        });
        Ok(Self { rows, inside, columns })
    }
}

/// Computes the score of all examples with a visit inside the window.
pub(super) fn score_examples<A: PerExample>(
    run: &Run,
    score: Score,
    window: &Window,
    progress: Progress<'_>,
) -> Result<ScoreTable, AnalysisError> {
    if A::NEEDS_VISITS && window.is_on_sweeps() {
        return Err(AnalysisError::NotOnSweeps { score: score.name() });
    }
    let sweeps = Sweeps::find(run, window)?;
    let mut gathered: Vec<Gathered<A>> = Vec::new();
    let mut examples: Vec<u64> = Vec::new();
    let mut index: HashMap<u64, usize> = HashMap::new();
    let mut table = ScoreTable {
        score,
        basis: sweeps.basis(),
        visits: 0,
        not_finite: 0,
        unseen: 0,
        missing: 0,
        estimated_norms: 0,
        rows: Vec::new(),
        damage: None,
    };
    let uses_norm = A::COLUMNS.contains(&Column::SquaredNorm);
    // Where an example does not count by its coefficient, a gradient that was not seen is not zero but missing.
    let needs_gradient = A::NEEDS_GRADIENT || uses_norm && window.is_on_sweeps();
    let mut values = vec![0f32; A::COLUMNS.len()];

    let fold = |visits: Visits| {
        let Some(columns) = visits.columns else {
            table.missing += visits.rows as u64;
            return Ok(());
        };
        for (row, &example) in columns.examples.iter().enumerate() {
            if visits.inside.as_ref().is_some_and(|inside| !inside[row]) {
                continue;
            }
            let slot = *index.entry(example).or_insert_with(|| {
                examples.push(example);
                gathered.push(Gathered {
                    accumulator: A::default(),
                    visits: 0,
                    not_finite: 0,
                    label: None,
                    prediction: None,
                });
                gathered.len() - 1
            });
            let entry = &mut gathered[slot];
            entry.label = columns.labels.as_ref().map(|labels| labels[row]).or(entry.label);
            entry.prediction = columns.predictions.as_ref().map(|p| p[row]).or(entry.prediction);
            let flags = columns.flags.as_ref().map_or(0, |flags| flags[row]);
            for (value, column) in values.iter_mut().zip(&columns.values) {
                *value = column[row];
            }
            if flags & Column::FLAG_NOT_FINITE != 0 || values.iter().any(|value| !value.is_finite()) {
                entry.not_finite += 1;
                table.not_finite += 1;
            } else if needs_gradient && flags & Column::FLAG_NO_WEIGHT != 0 {
                table.unseen += 1;
            } else {
                entry.accumulator.add(&values);
                entry.visits += 1;
                table.visits += 1;
                table.estimated_norms += u64::from(uses_norm && flags & Column::FLAG_NORM_ESTIMATED != 0);
            }
        }
        Ok(())
    };
    let keep = |block: &Block| window.is_on(block) && window.touches(block);
    let damage = fold_each(run, progress, keep, |block| Visits::read::<A>(block, window, &sweeps), fold)?;

    table.damage = damage;
    if gathered.is_empty() && table.missing > 0 {
        return Err(missing(score, A::COLUMNS));
    }
    sort_into(&mut table, examples, gathered);
    Ok(table)
}

fn sort_into<A: PerExample>(table: &mut ScoreTable, examples: Vec<u64>, gathered: Vec<Gathered<A>>) {
    let mut keyed: Vec<(f64, ScoreRow)> = examples
        .into_iter()
        .zip(gathered)
        .map(|(example, entry)| {
            let score = if entry.visits > 0 { entry.accumulator.score() } else { f64::NAN };
            let row = ScoreRow {
                example,
                visits: entry.visits,
                score,
                extras: entry.accumulator.extras(),
                not_finite: entry.not_finite,
                label: entry.label,
                prediction: entry.prediction,
            };
            (entry.accumulator.tie_break(), row)
        })
        .collect();
    let order = table.score.order();
    keyed.sort_by(|(tie_a, a), (tie_b, b)| {
        suspicious_first(order, a.score, b.score)
            .then_with(|| suspicious_first(Order::HighestFirst, *tie_a, *tie_b))
            .then_with(|| a.example.cmp(&b.example))
    });
    table.rows = keyed.into_iter().map(|(_, row)| row).collect();
}

/// A total order in which NaN comes last whichever end comes first.
pub(super) fn suspicious_first(order: Order, a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        // Adding zero makes -0 and 0 the same, which `total_cmp` would tell apart.
        (false, false) => match order {
            Order::HighestFirst => (b + 0.0).total_cmp(&(a + 0.0)),
            Order::LowestFirst => (a + 0.0).total_cmp(&(b + 0.0)),
        },
    }
}

fn missing(score: Score, columns: &[Column]) -> AnalysisError {
    let (what, how) = if columns.contains(&Column::SquaredNorm) {
        ("gradients", NO_GRADIENTS)
    } else {
        let what = match columns {
            [Column::Margin, ..] => "margins",
            [Column::El2n, ..] => "error norms",
            [Column::Confidence, ..] => "confidences",
            [Column::Correct, ..] => "record of which predictions were right",
            _ => "losses",
        };
        (what, "they come with a classification loss: record it with `pass.cross_entropy`")
    };
    AnalysisError::Missing { score: score.name(), what, how }
}
