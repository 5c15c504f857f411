//! The steps of a run that several workers recorded: each wrote a row of its own for every step, and a reader sees one.

use super::block::{Block, United};
use super::directory::Directory;
use super::error::ReadError;
use super::file::SegmentFile;
use crate::log::{BlockBuilder, BlockHeader, BlockKind, Column, Compressor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the columns of a step other than its batch size say, in the order of [`FLOATS`].
type Floats = [Option<f32>; 4];

const FLOATS: [Column; 4] = [Column::LearningRate, Column::Clip, Column::Momentum, Column::WeightDecay];

/// A step as far as the workers have told of it.
#[derive(Debug, Clone)]
struct Step {
    /// The lowest rank that told of it, from which all but the batch size is.
    rank: u32,
    epoch: u32,
    floats: Floats,
    wall_clock_ms: Option<u64>,
    /// Visits whose gradients the step summed, over all workers.
    batch_size: Option<u32>,
}

/// The steps while the workers' rows come in.
#[derive(Debug)]
pub(super) struct StepSums {
    steps: BTreeMap<u64, Step>,
    /// Of each part, the first step that it may still tell of; `None` if it has ended.
    next: Vec<Option<u64>>,
    /// The segment that a row was last read from, and the bytes of the blocks that were read since a block was made.
    segment: Option<Arc<SegmentFile>>,
    bytes: u64,
}

impl StepSums {
    /// Rows of a block.
    pub(super) const BLOCK_ROWS: usize = 4096;
    /// The most steps that are held: a part that never tells of a step must not make memory grow without bound. It is
    /// as far ahead as one worker's log can be of another's in steps, and still give each step's row all of its
    /// batch size.
    const HELD_MAX: usize = 1 << 20;

    pub(super) fn new(parts: usize) -> Self {
        Self { steps: BTreeMap::new(), next: vec![Some(0); parts], segment: None, bytes: 0 }
    }

    /// Takes a block of rows of steps, which is checked whole.
    pub(super) fn take(&mut self, part: usize, rank: u32, block: &Block) -> Result<(), ReadError> {
        block.check()?;
        self.segment = Some(block.segment.clone());
        self.bytes = self.bytes.saturating_add(block.bytes());
        let steps = block.u64s(Column::Step)?;
        let epochs = optional(block, Column::Epoch, Block::u32s)?;
        let sizes = optional(block, Column::BatchSize, Block::u32s)?;
        let clocks = optional(block, Column::WallClock, Block::u64s)?;
        let mut floats = Vec::with_capacity(FLOATS.len());
        for column in FLOATS {
            floats.push(optional(block, column, Block::f32s)?);
        }
        for (row, &number) in steps.iter().enumerate() {
            let told = Step {
                rank,
                epoch: value_in_row(&epochs, row).unwrap_or(0),
                floats: std::array::from_fn(|i| {
                    // NaN is how a block says that the optimizer of this step did not tell it.
                    let untold =
                        |value: &f32| value.is_nan() && matches!(FLOATS[i], Column::Momentum | Column::WeightDecay);
                    value_in_row(&floats[i], row).filter(|value| !untold(value))
                }),
                wall_clock_ms: value_in_row(&clocks, row),
                batch_size: value_in_row(&sizes, row),
            };
            let Some(step) = self.steps.get_mut(&number) else {
                self.steps.insert(number, told);
                continue;
            };
            let batch_size = match (step.batch_size, told.batch_size) {
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
                (a, b) => a.or(b),
            };
            if told.rank < step.rank {
                *step = told;
            }
            step.batch_size = batch_size;
        }
        if let (Some(last), Some(Some(next))) = (steps.last(), self.next.get_mut(part)) {
            *next = (*next).max(last.saturating_add(1));
        }
        Ok(())
    }

    /// A part has ended.
    pub(super) fn end_part(&mut self, part: usize) {
        if let Some(next) = self.next.get_mut(part) {
            *next = None;
        }
    }

    /// A block of the steps that no part will tell more of, the first ones, if there are at least `rows`.
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
        for (i, column) in FLOATS.into_iter().enumerate() {
            if steps.iter().any(|(_, step)| step.floats[i].is_some()) {
                builder.f32s(column, steps.iter().map(|(_, step)| step.floats[i].unwrap_or(f32::NAN)));
            }
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

/// A block that stands in no file, and for the `bytes` of blocks that do.
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

/// A column of a block that has been checked whole.
fn optional<T>(block: &Block, column: Column, read: Read<T>) -> Result<Option<Vec<T>>, ReadError> {
    match block.has(column).then(|| read(block, column)).transpose() {
        // Its bytes are what was written, so it is of a type that this version does not write, and as good as absent.
        Err(ReadError::Damaged(_)) => Ok(None),
        other => other,
    }
}

fn value_in_row<T: Copy>(values: &Option<Vec<T>>, row: usize) -> Option<T> {
    values.as_ref().and_then(|values| values.get(row).copied())
}
