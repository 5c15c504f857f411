//! The blocks of a run by their headers: what a table is planned from.

use gradlog_analysis::Window;
use gradlog_arrow::Record;
use gradlog_format::log::example_bucket;
use gradlog_format::run::{Block, Damage, ReadError, Run, RunState};
use std::ops::Range;

/// What the header of a block says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockOutline {
    record: Record,
    sequence: u64,
    pub rows: u64,
    pub steps: (u64, u64),
    pub epochs: (u32, u32),
    /// Whether these are those of the rows that count.
    pub is_exact: bool,
}

/// All blocks of a run that are rows of a table.
///
/// It takes some 60 bytes a block, and a block has thousands of rows.
#[derive(Debug, Clone)]
pub(crate) struct Outline {
    blocks: Vec<BlockOutline>,
    /// Number of the block behind the last.
    end: u64,
    /// Where the run stops being readable, if it does.
    pub damage: Option<Damage>,
    /// Of a run of several workers: the numbers of its blocks depend on what all of them have written.
    pub state: Option<RunState>,
}

/// A stretch of blocks that are read one after another, and in one bucket if there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub bucket: Option<u32>,
    pub blocks: Range<u64>,
    /// Rows of the table in these blocks.
    pub rows: u64,
}

impl Outline {
    /// Reads the headers of all blocks.
    pub fn read(run: &Run) -> Result<Self, ReadError> {
        let (mut blocks, mut end) = (Vec::new(), 0);
        let mut scan = run.scan();
        for block in scan.by_ref() {
            end = block.sequence() + 1;
            if let Some(record) = Record::ALL.into_iter().find(|record| record.holds(&block)) {
                blocks.push(BlockOutline::new(record, &block));
            }
        }
        let damage = scan.damage()?.cloned();
        let state = if run.parts().is_empty() || damage.is_some() { None } else { Some(run.state()?) };
        Ok(Self { blocks, end, damage, state })
    }

    /// The blocks before block `end`.
    pub fn before(&self, end: u64) -> Self {
        let blocks = self.blocks.iter().copied().filter(|block| block.sequence < end).collect();
        let damage = self.damage.clone().filter(|damage| damage.block.is_none_or(|block| block < end));
        Self { blocks, end: self.end.min(end), damage, state: self.state }
    }

    /// The blocks of a table.
    pub fn of(&self, record: Record) -> impl Iterator<Item = &BlockOutline> {
        self.blocks.iter().filter(move |block| block.record == record)
    }

    /// The blocks of a table in which wanted rows can be, by their headers, as at most `parts` lists of stretches of
    /// nearly as many rows. No stretch crosses the end of a bucket.
    pub fn parts(
        &self,
        run: &Run,
        record: Record,
        window: &Window,
        examples: Option<&[u64]>,
        parts: usize,
    ) -> Vec<Vec<Stretch>> {
        let firsts = run.buckets().map_or(&[][..], |buckets| buckets.first_blocks.as_slice());
        let bucket_of = |sequence: u64| match firsts {
            // Names of probe sets come before the buckets, and a probe cannot be read without its set.
            [first, .., last] if record.is_of_examples() && (*first..*last).contains(&sequence) => {
                Some(firsts.partition_point(|first| *first <= sequence) as u32 - 1)
            }
            _ => None,
        };
        let count = firsts.len().saturating_sub(1) as u32;
        let is_wanted = |block: &&BlockOutline| {
            let in_bucket = |bucket: u32| {
                examples.is_none_or(|ids| ids.iter().any(|example| example_bucket(*example, count) == bucket))
            };
            block.rows > 0 && block.overlaps(window) && bucket_of(block.sequence).is_none_or(in_bucket)
        };
        let wanted: Vec<&BlockOutline> = self.of(record).filter(is_wanted).collect();
        let total: u64 = wanted.iter().map(|block| block.rows).sum();
        let mut made: Vec<Vec<Stretch>> = Vec::new();
        let (mut done, mut before) = (0u64, None);
        for block in wanted {
            let part = (u128::from(done) * parts.max(1) as u128 / u128::from(total.max(1))) as usize;
            let (bucket, stretch) = (bucket_of(block.sequence), block.sequence..block.sequence + 1);
            let is_new = before != Some(part);
            before = Some(part);
            if is_new {
                made.push(Vec::new());
            }
            if let Some(list) = made.last_mut() {
                match list.last_mut() {
                    Some(last) if last.bucket == bucket => last.blocks.end = stretch.end,
                    _ => list.push(Stretch { bucket, blocks: stretch, rows: 0 }),
                }
            }
            done += block.rows;
        }
        made.iter_mut().flatten().for_each(|stretch| stretch.rows = self.rows_in(record, &stretch.blocks));
        made
    }

    /// The blocks of a table in some stretches, which rise, that a window touches.
    pub fn inside(&self, record: Record, stretches: &[&Stretch], window: &Window) -> Vec<&BlockOutline> {
        let of_stretch = |stretch: &&Stretch| {
            let first = self.blocks.partition_point(|block| block.sequence < stretch.blocks.start);
            let last = self.blocks.partition_point(|block| block.sequence < stretch.blocks.end);
            first..last.max(first)
        };
        let blocks = stretches.iter().flat_map(|stretch| &self.blocks[of_stretch(stretch)]);
        blocks.filter(|block| block.record == record && block.rows > 0 && block.overlaps(window)).collect()
    }

    /// Rows of a table in some blocks, wanted or not.
    fn rows_in(&self, record: Record, blocks: &Range<u64>) -> u64 {
        let first = self.blocks.partition_point(|block| block.sequence < blocks.start);
        let inside = self.blocks[first..].iter().take_while(|block| block.sequence < blocks.end);
        inside.filter(|block| block.record == record).map(|block| block.rows).sum()
    }
}

impl BlockOutline {
    fn new(record: Record, block: &Block) -> Self {
        Self {
            record,
            sequence: block.sequence(),
            rows: block.rows() as u64,
            steps: block.steps(),
            epochs: block.epochs(),
            is_exact: block.is_whole(),
        }
    }

    fn overlaps(&self, window: &Window) -> bool {
        let steps = window.steps.as_ref().is_none_or(|steps| self.steps.0 < steps.end && self.steps.1 >= steps.start);
        let epochs =
            window.epochs.as_ref().is_none_or(|epochs| self.epochs.0 < epochs.end && self.epochs.1 >= epochs.start);
        steps && epochs
    }

    /// Whether all rows lie inside.
    pub fn is_inside(&self, window: &Window) -> bool {
        let steps = window.steps.as_ref().is_none_or(|s| self.steps.0 >= s.start && self.steps.1 < s.end);
        let epochs = window.epochs.as_ref().is_none_or(|e| self.epochs.0 >= e.start && self.epochs.1 < e.end);
        steps && epochs
    }
}
