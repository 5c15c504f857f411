//! From visits to one number per example: the driver of all scores that look at each visit on its own.
//!
//! A score is an accumulator, [`PerExample`]; this file reads the columns that it names, leaves out what is not finite,
//! keeps one accumulator per example, and sorts. Labels are asked for afterwards ([`crate::rows::last_labels`]).

use crate::rows::driver::{blocks_in_flight, fold_groups, fold_in_step_order, Progress, ReadTo};
use crate::rows::last_labels::{last_labels, Blocks, Identity, Labels, Place};
use crate::rows::sweep::Sweeps;
use crate::{error::NO_GRADIENTS, rows::column, AnalysisError, Basis, Order, Score, Window};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, Damage, ReadError, Run};
use rayon::prelude::*;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

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
    /// Visits that were left out because the example had no weight in the loss, so that its gradient could not be seen, or because
    /// all its targets were ignored, so that nothing was predicted.
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
    /// Label at the example's last visit inside the window that has a label or a prediction.
    pub label: Option<u32>,
    /// Predicted class at the same visit.
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

/// The most columns that a score is made of.
const COLUMNS_MAX: usize = 4;

/// What a score gathers of one example.
pub(crate) trait PerExample: Default + Send {
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

    /// How many it took.
    fn visits(&self) -> u64;

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
pub(crate) struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    pub(crate) fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// NaN if nothing was added.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

/// What was read of one block.
struct Visits {
    block: Identity,
    /// Whether it holds labels or predictions.
    has_labels: bool,
    /// How many there are inside the window.
    rows: usize,
    /// `None` if the block lacks a column that the score is made of.
    columns: Option<VisitColumns>,
}

struct VisitColumns {
    /// Rows inside the window, those of each shard together, in the order of the file.
    rows: Vec<u32>,
    /// Where each shard's begin, and their end.
    starts: Vec<usize>,
    examples: Vec<u64>,
    flags: Option<Vec<u8>>,
    /// How many predictions each visit made, if not all made one: one without any has no label either.
    positions: Option<Vec<u32>>,
    values: Vec<Vec<f32>>,
}

/// What is known of one example. Each visit finds it somewhere else in memory, so it is half a cache line and never in two.
#[repr(align(32))]
struct Gathered<A> {
    accumulator: A,
    /// Its last visit with a label or a prediction.
    last: Place,
}

impl Visits {
    fn read<A: PerExample>(block: &Block, window: &Window, sweeps: &Sweeps, bits: u32) -> Result<Self, AnalysisError> {
        let inside = sweeps.rows(window, block)?;
        let has_labels = block.has(Column::Label) || block.has(Column::Prediction);
        let told = |rows, columns| Self { block: block.identity(), has_labels, rows, columns };
        let rows = inside.as_ref().map_or(block.rows(), |inside| inside.iter().filter(|i| **i).count());
        // A sweep takes no step: its examples count in full, whatever the batch of the replay was (Pruthi et al. 2020, TracInCP).
        let is_one = |column| window.is_on_sweeps() && matches!(column, Column::Clip | Column::Coefficient);
        if A::COLUMNS.iter().any(|&needed| !is_one(needed) && !block.has(needed)) {
            return Ok(told(rows, None));
        }
        let examples = column::u64s(block, Column::Example)?;
        let positions = column::optional(block, Column::Positions, column::u32s)?;
        if A::ONE_PREDICTION {
            let several = positions.iter().flatten().enumerate().find(|(row, positions)| {
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
        let (of_shards, starts) = by_shard(&examples, inside.as_deref(), bits);
        let columns = Some(VisitColumns {
            rows: of_shards,
            starts,
            examples,
            flags: column::optional(block, Column::Flags, column::u8s)?,
            positions,
            values,
        });
        Ok(told(rows, columns))
    }
}

/// The rows inside the window, shard after shard. Sorting them here spares each shard a guess at every row whether it is its own.
fn by_shard(examples: &[u64], inside: Option<&[bool]>, bits: u32) -> (Vec<u32>, Vec<usize>) {
    let shard = |example: u64| (example & ((1 << bits) - 1)) as usize;
    let rows = || (0u32..).zip(examples).filter(|(row, _)| inside.is_none_or(|inside| inside[*row as usize]));
    let mut starts = vec![0usize; (1 << bits) + 1];
    rows().for_each(|(_, &example)| starts[shard(example) + 1] += 1);
    for number in 0..1 << bits {
        starts[number + 1] += starts[number];
    }
    let (mut places, mut sorted) = (starts.clone(), vec![0u32; starts[1 << bits]]);
    for (row, &example) in rows() {
        let place = &mut places[shard(example)];
        sorted[*place] = row;
        *place += 1;
    }
    (sorted, starts)
}

/// The examples of one thread: those with the same last bits in their id.
struct Shard<A> {
    number: usize,
    /// How many bits tell the shards apart.
    bits: u32,
    /// Whether a visit whose gradient was not seen is left out.
    needs_gradient: bool,
    /// Where an example is in `gathered`, plus one, by the rest of its id; 0 for none.
    dense: Vec<u32>,
    /// The same for ids too large for a table.
    sparse: foldhash::HashMap<u64, u32>,
    examples: Vec<u64>,
    gathered: Vec<Gathered<A>>,
    /// Of the few examples that had any, by their place in `gathered`, visits that were left out as not finite.
    not_finite_of: HashMap<usize, u64>,
    visits: u64,
    not_finite: u64,
    unseen: u64,
    estimated_norms: u64,
}

/// The longest table of a shard, in entries.
const DENSE_MAX: usize = 1 << 22;

impl<A: PerExample> Shard<A> {
    /// As many as keep all threads busy.
    fn all(window: &Window) -> Vec<Self> {
        // Where an example does not count by its coefficient, a gradient that was not seen is not zero but missing.
        let needs_gradient = A::NEEDS_GRADIENT || A::COLUMNS.contains(&Column::SquaredNorm) && window.is_on_sweeps();
        let bits = rayon::current_num_threads().next_power_of_two().trailing_zeros();
        let shard = |number| Self {
            number,
            bits,
            needs_gradient,
            dense: Vec::new(),
            sparse: foldhash::HashMap::default(),
            examples: Vec::new(),
            gathered: Vec::new(),
            not_finite_of: HashMap::new(),
            visits: 0,
            not_finite: 0,
            unseen: 0,
            estimated_norms: 0,
        };
        (0..1 << bits).map(shard).collect()
    }

    #[inline]
    fn slot(&mut self, example: u64) -> usize {
        let place = usize::try_from(example >> self.bits).unwrap_or(usize::MAX);
        let entry = if place < DENSE_MAX {
            if place >= self.dense.len() {
                self.dense.resize((2 * place).clamp(1024, DENSE_MAX), 0);
            }
            &mut self.dense[place]
        } else {
            self.sparse.entry(example).or_insert(0)
        };
        if *entry == 0 {
            self.examples.push(example);
            self.gathered.push(Gathered { accumulator: A::default(), last: Place::NONE });
            *entry = self.examples.len() as u32;
        }
        *entry as usize - 1
    }

    /// Adds its share of the visits in some rows of a block, which goes by a number.
    fn add(&mut self, visits: &Visits, number: u32, rows: Range<usize>) {
        let Some(columns) = &visits.columns else { return };
        let uses_norm = A::COLUMNS.contains(&Column::SquaredNorm);
        let mut values = [0f32; COLUMNS_MAX];
        let values = &mut values[..A::COLUMNS.len()];
        // Its rows rise, so that those of a stretch lie together.
        let own = &columns.rows[columns.starts[self.number]..columns.starts[self.number + 1]];
        let first = own.partition_point(|row| (*row as usize) < rows.start);
        let last = own.partition_point(|row| (*row as usize) < rows.end);
        for &row in &own[first..last] {
            let place = Place { block: number, row };
            let row = row as usize;
            let slot = self.slot(columns.examples[row]);
            let entry = &mut self.gathered[slot];
            let predicted = columns.positions.as_ref().is_none_or(|positions| positions[row] > 0);
            if visits.has_labels && predicted {
                entry.last = place;
            }
            let flags = columns.flags.as_ref().map_or(0, |flags| flags[row]);
            for (value, column) in values.iter_mut().zip(&columns.values) {
                *value = column[row];
            }
            let finite = values.iter().all(|value| value.is_finite());
            if flags & Column::FLAG_NOT_FINITE != 0 || predicted && !finite {
                *self.not_finite_of.entry(slot).or_default() += 1;
                self.not_finite += 1;
            } else if !finite || self.needs_gradient && flags & Column::FLAG_NO_WEIGHT != 0 {
                self.unseen += 1;
            } else {
                entry.accumulator.add(values);
                self.visits += 1;
                self.estimated_norms += u64::from(uses_norm && flags & Column::FLAG_NORM_ESTIMATED != 0);
            }
        }
    }
}

/// Computes the score of all examples with a visit inside the window.
///
/// Each thread takes some of the examples and sees their visits in the order of the file, so that sums do not depend on how
/// many threads there are.
pub(crate) fn score_examples<A: PerExample>(
    run: &Run,
    score: Score,
    window: &Window,
    progress: Progress<'_>,
) -> Result<ScoreTable, AnalysisError> {
    if A::NEEDS_VISITS && window.is_on_sweeps() {
        return Err(AnalysisError::NotOnSweeps { score: score.name() });
    }
    let sweeps = Sweeps::find(run, window)?;
    match score_before::<A>(run, score, window, (&sweeps, None), progress)? {
        Scored::Table(table) => Ok(table),
        // Labels that cannot be read are damage like any other: nothing is made of their block, nor of what follows it.
        Scored::LabelsDamaged(damage) => {
            match score_before::<A>(run, score, window, (&sweeps, Some(&damage)), &|_| {})? {
                Scored::Table(table) => Ok(ScoreTable { damage: Some(damage), ..table }),
                Scored::LabelsDamaged(damage) => Err(ReadError::Damaged(damage).into()),
            }
        }
    }
}

enum Scored {
    Table(ScoreTable),
    LabelsDamaged(Damage),
}

/// The scores, of blocks before some damage.
fn score_before<A: PerExample>(
    run: &Run,
    score: Score,
    window: &Window,
    (sweeps, before): (&Sweeps, Option<&Damage>),
    progress: Progress<'_>,
) -> Result<Scored, AnalysisError> {
    let mut shards = Shard::<A>::all(window);
    let bits = shards.len().trailing_zeros();
    let mut missing_visits = 0;
    let end = before.and_then(|damage| damage.block).unwrap_or(u64::MAX);
    let keep = |block: &Block| window.is_on(block) && window.touches(block) && block.sequence() < end;
    let mut numbers = Blocks::default();
    // No score of sweeps depends on their order, and a replay takes checkpoints in any.
    let ReadTo(damage) = if run.parts().is_empty() || window.is_on_sweeps() {
        let fold = |(): &(), blocks: Vec<Visits>| {
            let without = blocks.iter().filter(|visits| visits.columns.is_none());
            missing_visits += without.map(|visits| visits.rows as u64).sum::<u64>();
            let blocks: Vec<(u32, Visits)> = blocks.into_iter().map(|v| (numbers.number(v.block), v)).collect();
            let add = |shard: &mut Shard<A>| blocks.iter().for_each(|(n, visits)| shard.add(visits, *n, 0..usize::MAX));
            shards.par_iter_mut().for_each(add);
            Ok(())
        };
        let read = |(): &(), block: &Block| Visits::read::<A>(block, window, sweeps, bits);
        // At each group all threads wait for the slowest, which tells where a block is read in a tenth of a millisecond.
        fold_groups(run, progress, 3 * blocks_in_flight(), keep, |_| Ok(()), read, fold)?
    } else {
        // Rows of several workers' blocks lie between each other in steps.
        let fold = |visits: &Visits, rows: Range<usize>| {
            if visits.columns.is_none() && rows.start == 0 {
                missing_visits += visits.rows as u64;
            }
            let number = numbers.number(visits.block);
            shards.iter_mut().for_each(|shard| shard.add(visits, number, rows.clone()));
            Ok(())
        };
        fold_in_step_order(run, progress, keep, |block| Visits::read::<A>(block, window, sweeps, bits), fold)?
    };

    let sum = |of: fn(&Shard<A>) -> u64| shards.iter().map(of).sum();
    let mut table = ScoreTable {
        score,
        basis: sweeps.basis(),
        visits: sum(|shard| shard.visits),
        not_finite: sum(|shard| shard.not_finite),
        unseen: sum(|shard| shard.unseen),
        missing: missing_visits,
        estimated_norms: sum(|shard| shard.estimated_norms),
        rows: Vec::new(),
        damage,
    };
    if shards.iter().all(|shard| shard.gathered.is_empty()) && table.missing > 0 {
        return Err(missing(score, A::COLUMNS));
    }
    let places: Vec<Place> = shards.iter().flat_map(|shard| shard.gathered.iter().map(|entry| entry.last)).collect();
    match last_labels(run, &numbers, &places) {
        Ok(labels) => sort_into(&mut table, shards, labels),
        Err(AnalysisError::Read(ReadError::Damaged(damage))) => return Ok(Scored::LabelsDamaged(damage)),
        Err(other) => return Err(other),
    }
    Ok(Scored::Table(table))
}

fn sort_into<A: PerExample>(table: &mut ScoreTable, shards: Vec<Shard<A>>, labels: Vec<Labels>) {
    let entries = shards.into_iter().flat_map(|mut shard| {
        let examples = shard.examples.into_iter().zip(shard.gathered).enumerate();
        examples.map(move |(slot, (example, entry))| (example, entry, shard.not_finite_of.remove(&slot).unwrap_or(0)))
    });
    let mut keyed: Vec<(f64, ScoreRow)> = entries
        .zip(labels)
        .map(|((example, entry, not_finite), labels)| {
            let visits = entry.accumulator.visits();
            let score = if visits > 0 { entry.accumulator.score() } else { f64::NAN };
            let row = ScoreRow {
                example,
                visits,
                score,
                extras: entry.accumulator.extras(),
                not_finite,
                label: labels.label,
                prediction: labels.prediction,
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
pub(crate) fn suspicious_first(order: Order, a: f64, b: f64) -> Ordering {
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
