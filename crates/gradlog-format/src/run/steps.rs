//! The steps of a run of several workers. Each worker wrote a row for every step; a reader sees one row.

use super::block::{Block, United};
use super::directory::Directory;
use super::error::ReadError;
use super::file::SegmentFile;
use crate::log::{BlockBuilder, BlockHeader, BlockKind, Cells, Column, Compressor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The columns of a step that hold floats, with the number that stands for an absent one. For Clip that is 1. For the
/// others NaN says that nothing was told.
const FLOATS: [(Column, f32); 7] = [
    (Column::LearningRate, f32::NAN),
    (Column::Clip, 1.0),
    (Column::Momentum, f32::NAN),
    (Column::WeightDecay, f32::NAN),
    (Column::Beta1, f32::NAN),
    (Column::Beta2, f32::NAN),
    (Column::Epsilon, f32::NAN),
];

/// The values of a step in the order of [`FLOATS`]. `None` was not told.
type Floats = [Option<f32>; 7];

/// A step, made from the rows of the workers so far.
#[derive(Debug, Clone)]
struct Step {
    /// The lowest rank that has a row of it. Everything but the batch size is from that row.
    rank: u32,
    epoch: u32,
    floats: Floats,
    wall_clock_ms: Option<u64>,
    /// Rule of the optimizer, and its count of steps.
    rule: Option<u8>,
    taken: Option<u64>,
    /// Visits whose gradients the step summed, over all workers.
    batch_size: Option<u32>,
}

/// Merges the workers' rows to one row a step.
#[derive(Debug)]
pub(super) struct StepSums {
    steps: BTreeMap<u64, Step>,
    /// For each part, the first step of which it may still have a row. `None` if it has ended.
    next: Vec<Option<u64>>,
    /// The segment that a row was last read from.
    segment: Option<Arc<SegmentFile>>,
    /// Bytes of the blocks that were read since the last merged block.
    bytes: u64,
}

impl StepSums {
    /// Rows of a merged block.
    pub(super) const BLOCK_ROWS: usize = 4096;
    /// The most steps that are held. A part without steps must not make memory grow without bound.
    ///
    /// If one worker's log is more steps ahead of another's than this, batch sizes are not complete.
    const HELD_MAX: usize = 1 << 20;

    pub(super) fn new(parts: usize) -> Self {
        Self { steps: BTreeMap::new(), next: vec![Some(0); parts], segment: None, bytes: 0 }
    }

    /// Adds the rows of a Steps block. Checks the whole block first.
    pub(super) fn add_rows(&mut self, part: usize, rank: u32, block: &Block) -> Result<(), ReadError> {
        block.check()?;
        self.segment = Some(block.segment.clone());
        self.bytes = self.bytes.saturating_add(block.bytes());
        let steps = block.u64s(Column::Step)?;
        let epochs = optional(block, Column::Epoch, Block::u32s)?;
        let sizes = optional(block, Column::BatchSize, Block::u32s)?;
        let clocks = optional(block, Column::WallClock, Block::u64s)?;
        let rules = optional(block, Column::UpdateRule, Block::u8s)?;
        let taken = optional(block, Column::StepsTaken, Block::u64s)?;
        let mut floats = Vec::with_capacity(FLOATS.len());
        for (column, _) in FLOATS {
            floats.push(optional(block, column, Block::f32s)?);
        }
        for (row, &number) in steps.iter().enumerate() {
            let new = Step {
                rank,
                epoch: value_in_row(&epochs, row).unwrap_or(0),
                floats: std::array::from_fn(|i| {
                    // NaN says that the optimizer of this step did not tell the number.
                    let may_be_untold = !matches!(FLOATS[i].0, Column::LearningRate | Column::Clip);
                    value_in_row(&floats[i], row).filter(|value| !(may_be_untold && value.is_nan()))
                }),
                wall_clock_ms: value_in_row(&clocks, row),
                rule: value_in_row(&rules, row).filter(|rule| *rule != 0),
                taken: value_in_row(&taken, row),
                batch_size: value_in_row(&sizes, row),
            };
            let Some(step) = self.steps.get_mut(&number) else {
                self.steps.insert(number, new);
                continue;
            };
            let batch_size = match (step.batch_size, new.batch_size) {
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
                (a, b) => a.or(b),
            };
            if new.rank < step.rank {
                *step = new;
            }
            step.batch_size = batch_size;
        }
        if let (Some(last), Some(Some(next))) = (steps.last(), self.next.get_mut(part)) {
            *next = (*next).max(last.saturating_add(1));
        }
        Ok(())
    }

    /// Notes that a part has ended and has no more rows.
    pub(super) fn end_part(&mut self, part: usize) {
        if let Some(next) = self.next.get_mut(part) {
            *next = None;
        }
    }

    /// Makes a block of the first complete steps, if there are at least `rows` of them. A step is complete once no part
    /// can have another row of it.
    pub(super) fn take_block(&mut self, rows: usize) -> Option<Block> {
        let complete = self.next.iter().flatten().min().copied();
        let ready: Vec<u64> = match complete {
            Some(end) => self.steps.range(..end).map(|(step, _)| *step).take(Self::BLOCK_ROWS).collect(),
            None => self.steps.keys().copied().take(Self::BLOCK_ROWS).collect(),
        };
        let ready = if self.steps.len() > Self::HELD_MAX {
            self.steps.keys().copied().take(Self::BLOCK_ROWS).collect()
        } else if ready.len() >= rows.max(1) {
            ready
        } else {
            return None;
        };
        let steps: Vec<(u64, Step)> = ready.into_iter().filter_map(|n| Some((n, self.steps.remove(&n)?))).collect();
        let mut builder = BlockBuilder::new(BlockKind::Steps);
        builder.u64s(Column::Step, steps.iter().map(|(number, _)| *number));
        builder.u32s(Column::Epoch, steps.iter().map(|(_, step)| step.epoch));
        for (i, (column, absent)) in FLOATS.into_iter().enumerate() {
            if steps.iter().any(|(_, step)| step.floats[i].is_some()) {
                builder.f32s(column, steps.iter().map(|(_, step)| step.floats[i].unwrap_or(absent)));
            }
        }
        if steps.iter().any(|(_, step)| step.rule.is_some()) {
            let rules = steps.iter().map(|(_, step)| step.rule.unwrap_or(0));
            builder.column(Column::UpdateRule, Cells::U8, 1).extend(rules);
        }
        if steps.iter().any(|(_, step)| step.taken.is_some()) {
            builder.u64s(Column::StepsTaken, steps.iter().map(|(_, step)| step.taken.unwrap_or(0)));
        }
        if steps.iter().any(|(_, step)| step.batch_size.is_some()) {
            builder.u32s(Column::BatchSize, steps.iter().map(|(_, step)| step.batch_size.unwrap_or(0)));
        }
        if steps.iter().all(|(_, step)| step.wall_clock_ms.is_some()) {
            builder.u64s(Column::WallClock, steps.iter().filter_map(|(_, step)| step.wall_clock_ms));
        }
        for (number, step) in &steps {
            builder.advance(1, *number, step.epoch);
        }
        unwritten_block(&mut builder, self.segment.clone()?, std::mem::take(&mut self.bytes))
    }
}

/// A block that is in no file. It replaces blocks of `bytes` bytes that are.
pub(super) fn unwritten_block(builder: &mut BlockBuilder, segment: Arc<SegmentFile>, bytes: u64) -> Option<Block> {
    let mut compressor = Compressor::new(1).ok()?;
    let mut body = Vec::new();
    let header = builder.seal(0, &mut compressor, &mut body).ok()?;
    let header = BlockHeader::parse(&header).ok()?;
    let directory = Arc::new(Directory::parse(body.get(..header.directory_bytes())?, header.bytes).ok()?);
    let header = BlockHeader { bytes, ..header };
    let united = United { sequence: 0, rank: None, sets: Arc::default(), made: Some(Arc::new(body)) };
    Some(Block { segment, offset: 0, header, directory, kept: None, united: Some(united) })
}

type Read<T> = fn(&Block, Column) -> Result<Vec<T>, ReadError>;

/// A column of a block. `None` if the block lacks it. One of a newer version is an error: absent would mean that
/// nothing was told.
fn optional<T>(block: &Block, column: Column, read: Read<T>) -> Result<Option<Vec<T>>, ReadError> {
    block.has(column).then(|| read(block, column)).transpose()
}

fn value_in_row<T: Copy>(values: &Option<Vec<T>>, row: usize) -> Option<T> {
    values.as_ref().and_then(|values| values.get(row).copied())
}
