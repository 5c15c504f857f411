//! From visits to one number for each example: the driver of all scores that look at each visit on its own.
//!
//! A score is an accumulator, [`PerExample`]. This file reads the rows that count by its rule, keeps one accumulator
//! for each example, and sorts. Labels are read afterwards ([`crate::rows::last_labels`]).

use super::per_example::PerExample;
use super::score::Score;
use super::shards::{Shard, Visits};
use super::table::{Extras, ScoreRow, ScoreTable};
use crate::error::{is_written_elsewhere, no_gradients, NO_RATES, RATES};
use crate::rows::adam_norms::AdamNorms;
use crate::rows::basis::Uses;
use crate::rows::driver::{blocks_in_flight, fold_groups, fold_in_step_order, ReadTo};
use crate::rows::last_labels::{last_labels, Blocks, Labels, Place};
use crate::rows::layer_norms::LayerNorms;
use crate::rows::layer_rates::LayerRates;
use crate::rows::reader::{RowReader, WantedGradient};
use crate::rows::rule::RowRule;
use crate::rows::sweep::Sweeps;
use crate::rows::sweep::Untrained::{Counts, JoinsIfNamed};
use crate::Progress;
use crate::{AnalysisError, Basis, LeftOut, Window};
use gradlog_format::log::{Column, Manifest};
use gradlog_format::run::{Block, Buckets, Damage, ReadError, Run};
use rayon::prelude::*;
use std::ops::Range;

/// Which rows a score is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub window: &'a Window,
    /// The metric of Adam, for a score that goes by it.
    pub adam: Option<&'a AdamNorms>,
}

/// Computes the score of all examples with a visit inside the window.
///
/// Each thread takes some of the examples and sees their visits in the order of the file, so that sums do not depend on
/// how many threads there are.
pub(super) fn score_examples<A: PerExample>(
    run: &Run,
    score: Score,
    from: &Rows<'_>,
    progress: &Progress,
) -> Result<ScoreTable, AnalysisError> {
    let window = from.window;
    if A::NEEDS_VISITS && window.is_on_sweeps() {
        return Err(AnalysisError::NotOnSweeps { score: score.name() });
    }
    let uses = Uses::of_rule(&A::RULE);
    // A sum over checkpoints is a sum over steps; a mean takes each checkpoint for itself.
    let sweeps = Sweeps::find(run, window, if uses == Uses::Steps { JoinsIfNamed } else { Counts })?;
    let basis = Basis::of(run, window, sweeps.rows(), uses)?;
    let basis = if from.adam.is_some() { basis.with_norms_in_metric() } else { basis };
    match score_before::<A>(run, (score, &basis), from, (&sweeps, None), progress)? {
        Scored::Table(table) => Ok(*table),
        // Labels that cannot be read are damage like any other: nothing is made of their block, nor of what follows it.
        Scored::LabelsDamaged(damage) => {
            let before = (&sweeps, Some(&damage));
            match score_before::<A>(run, (score, &basis), from, before, &Progress::default())? {
                Scored::Table(table) => Ok(ScoreTable { damage: Some(damage), ..*table }),
                Scored::LabelsDamaged(damage) => Err(ReadError::Damaged(damage).into()),
            }
        }
    }
}

enum Scored {
    Table(Box<ScoreTable>),
    LabelsDamaged(Damage),
}

/// The scores, of blocks before some damage.
fn score_before<A: PerExample>(
    run: &Run,
    (score, basis): (Score, &Basis),
    from: &Rows<'_>,
    (sweeps, before): (&Sweeps, Option<&Damage>),
    progress: &Progress,
) -> Result<Scored, AnalysisError> {
    let mut table = ScoreTable {
        score,
        basis: basis.clone(),
        visits: 0,
        left_out: sweeps.left_out(),
        estimated_norms: 0,
        rows: Vec::new(),
        damage: None,
    };
    let rates = match A::RULE.numbers.contains(&Column::SquaredNorm) {
        true => LayerRates::read(run)?,
        false => LayerRates::default(),
    };
    let end = before.and_then(|damage| damage.block).unwrap_or(u64::MAX);
    if run.buckets().is_none() {
        if let Some(damage) = add_rows::<A>(run, from, (sweeps, &rates, end), progress, &mut table)? {
            return Ok(Scored::LabelsDamaged(damage));
        }
    } else {
        // All visits of an example are in one bucket: what is gathered of the examples of one fits the cache.
        for bucket in run.read_buckets() {
            let bucket = run.bucket(bucket);
            if let Some(damage) = add_rows::<A>(&bucket, from, (sweeps, &rates, end), progress, &mut table)? {
                return Ok(Scored::LabelsDamaged(damage));
            }
            if table.damage.is_some() {
                break;
            }
        }
    }
    if table.left_out.missing + table.left_out.without_rate > 0
        && table.rows.is_empty()
        && !others_have(run, from.window, &A::RULE)
    {
        let lacking = lacking(run, from.window, A::RULE.numbers);
        return Err(missing_error(score, run.manifest(), Uses::of_rule(&A::RULE), &lacking));
    }
    table.basis = basis.clone().with_left_out(&table.left_out);
    score.sort(&mut table.rows);
    Ok(Scored::Table(Box::new(table)))
}

/// Adds the examples of a run or of a bucket to the table. Returns the damage of labels, if there is any.
fn add_rows<A: PerExample>(
    run: &Run,
    &Rows { window, adam }: &Rows<'_>,
    (sweeps, rates, end): (&Sweeps, &LayerRates, u64),
    progress: &Progress,
    table: &mut ScoreTable,
) -> Result<Option<Damage>, AnalysisError> {
    let mut shards = Shard::<A>::all(run.buckets().map_or(1, Buckets::count));
    let bits = shards.len().trailing_zeros();
    let mut left_out = LeftOut::default();
    let reader = RowReader { window, sweeps, rule: A::RULE, gradient: WantedGradient::None };
    let uses_rates = A::RULE.numbers.contains(&Column::LearningRate);
    let layers = LayerNorms { rates, manifest: run.manifest(), uses_rates, on_sweeps: window.is_on_sweeps() };
    let keep = |block: &Block| window.is_on(block) && window.touches(block) && block.sequence() < end;
    let mut numbers = Blocks::default();
    // No score of sweeps depends on their order, and a replay takes checkpoints in any.
    let ReadTo(damage) = if run.parts().is_empty() || window.is_on_sweeps() {
        let fold = |(): &(), blocks: Vec<Visits>| {
            blocks.iter().for_each(|visits| visits.rows.count_gap(&mut left_out));
            let blocks: Vec<(u32, Visits)> = blocks.into_iter().map(|v| (numbers.number(v.block), v)).collect();
            let add = |shard: &mut Shard<A>| blocks.iter().for_each(|(n, visits)| shard.add(visits, *n, 0..usize::MAX));
            shards.par_iter_mut().for_each(add);
            Ok(())
        };
        let read = |(): &(), block: &Block| Visits::read(&reader, (&layers, adam), block, bits);
        // At each group all threads wait for the slowest, which tells where a block is read in a tenth of a
        // millisecond.
        fold_groups(run, progress, 3 * blocks_in_flight(), keep, |_| Ok(()), read, fold)?
    } else {
        // Rows of several workers' blocks lie between each other in steps.
        let fold = |visits: &Visits, rows: Range<usize>| {
            if rows.start == 0 {
                visits.rows.count_gap(&mut left_out);
            }
            let number = numbers.number(visits.block);
            shards.iter_mut().for_each(|shard| shard.add(visits, number, rows.clone()));
            Ok(())
        };
        fold_in_step_order(run, progress, keep, |block| Visits::read(&reader, (&layers, adam), block, bits), fold)?
    };

    shards.iter().for_each(|shard| left_out.add(&shard.left_out));
    table.left_out.add(&left_out);
    table.visits += shards.iter().map(|shard| shard.visits).sum::<u64>();
    table.estimated_norms += shards.iter().map(|shard| shard.estimated_norms).sum::<u64>();
    table.damage = damage;
    let places: Vec<Place> = shards.iter().flat_map(|shard| shard.gathered.iter().map(|entry| entry.last)).collect();
    match last_labels(run, &numbers, &places) {
        Ok(labels) => add_examples(table, shards, labels),
        Err(AnalysisError::Read(ReadError::Damaged(damage))) => return Ok(Some(damage)),
        Err(other) => return Err(other),
    }
    Ok(None)
}

fn add_examples<A: PerExample>(table: &mut ScoreTable, shards: Vec<Shard<A>>, labels: Vec<Labels>) {
    let entries = shards.into_iter().flat_map(|mut shard| {
        let examples = shard.examples.into_iter().zip(shard.gathered).enumerate();
        examples.map(move |(slot, (example, entry))| (example, entry, shard.not_finite.remove(&slot).unwrap_or(0)))
    });
    let score = table.score;
    let rows = entries.zip(labels).map(|((example, entry, not_finite), labels)| {
        let visits = entry.accumulator.visits();
        ScoreRow {
            example,
            visits,
            score: if visits > 0 { entry.accumulator.score() } else { f64::NAN },
            extras: Extras::new(score.extras(), entry.accumulator.extras()),
            not_finite,
            label: labels.label,
            prediction: labels.prediction,
        }
    });
    table.rows.extend(rows);
}

/// Whether this is a share of the examples, and some block of the window has what the score is made of: then it is
/// that of the others.
fn others_have(run: &Run, window: &Window, rule: &RowRule) -> bool {
    let given = |column: Column| column == Column::Clip || window.is_on_sweeps() && column == Column::Coefficient;
    let has_all = |block: &Block| rule.numbers.iter().all(|column| given(*column) || block.has(*column));
    window.share.is_some()
        && run.scan().filter(|block| window.is_on(block) && window.touches(block)).any(|block| has_all(&block))
}

/// Of these columns, those that a block of the window lacks.
fn lacking(run: &Run, window: &Window, columns: &[Column]) -> Vec<Column> {
    let mut blocks = run.scan().filter(|block| window.is_on(block) && window.touches(block));
    let lacks = |block: &Block| {
        let given = |column: Column| column == Column::Clip || window.is_on_sweeps() && column == Column::Coefficient;
        columns.iter().copied().filter(|column| !given(*column) && !block.has(*column)).collect::<Vec<_>>()
    };
    blocks.find_map(|block| Some(lacks(&block)).filter(|lacking| !lacking.is_empty())).unwrap_or_default()
}

fn missing_error(score: Score, manifest: &Manifest, uses: Uses, lacking: &[Column]) -> AnalysisError {
    let (what, how) = match (lacking, uses) {
        ([Column::LearningRate, ..], _) => (RATES, NO_RATES),
        ([Column::Coefficient, ..], _) => ("weights of its visits in the loss", NOT_GRADLOG),
        (_, Uses::Gradients | Uses::Steps) => (score.made_of(), no_gradients(manifest)),
        (_, Uses::Outputs) if is_written_elsewhere(manifest) => (score.made_of(), CLASSES_ELSEWHERE),
        (_, Uses::Outputs) => (score.made_of(), CLASSES),
    };
    AnalysisError::Missing { score: score.name(), what, how }
}

/// What comes with a classification loss alone.
const CLASSES: &str =
    "they come with a classification loss: record it with `pass.cross_entropy`, or give the logits to `pass.logits` (error \
     norms of a regression come with `pass.mse`)";
/// The same for a run that was written from Python.
const CLASSES_ELSEWHERE: &str =
    "give `logits` or `probabilities`, and `labels`, with each step (of a regression, `targets` and `outputs` give error \
     norms)";
/// What every recorder of gradlog writes.
const NOT_GRADLOG: &str = "every recorder of gradlog writes them, so another program wrote this run";
