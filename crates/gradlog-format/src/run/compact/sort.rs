//! Sorts rows into buckets, with a bound on the bytes that are held.

use super::error::CompactError;
use super::files::{compressor, Folder};
use super::rows::Rows;
use super::CompactOptions;
use crate::log::{example_bucket, BlockBuilder, BlockKind, Compressor};

/// A bucket's block is written when it has this many bytes, whatever room there is.
const BLOCK_BYTES: usize = 4 << 20;
/// Or this many rows.
const BLOCK_ROWS: u32 = 1 << 16;
const MEMORY_BYTES_MIN: usize = 1 << 20;

/// The buffers of all buckets.
pub(super) struct Sorter<'a> {
    folder: &'a Folder,
    memory_bytes: usize,
    /// Of each bucket, rows that are not written yet.
    buffers: Vec<Option<BlockBuilder>>,
    held_bytes: usize,
    /// Rows of a block by bucket, kept for its memory.
    by_bucket: Vec<Vec<usize>>,
    /// Blocks of several workers, of which some rows wait for those of others.
    waiting: Vec<Waiting>,
    compressor: Option<Compressor>,
    body: Vec<u8>,
}

/// A block of one worker.
struct Waiting {
    rows: Rows,
    rank: u32,
    next: usize,
}

impl Waiting {
    fn step(&self) -> u64 {
        self.rows.steps.as_ref().and_then(|steps| steps.get(self.next)).copied().unwrap_or(u64::MAX)
    }
}

impl<'a> Sorter<'a> {
    pub fn new(folder: &'a Folder, options: &CompactOptions) -> Self {
        let count = options.buckets as usize;
        Self {
            folder,
            memory_bytes: options.memory_bytes.max(MEMORY_BYTES_MIN),
            buffers: (0..count).map(|_| None).collect(),
            held_bytes: 0,
            by_bucket: vec![Vec::new(); count],
            waiting: Vec::new(),
            compressor: None,
            body: Vec::new(),
        }
    }

    /// Writes rows that belong to no bucket, in front of all buckets.
    pub fn add_common(&mut self, rows: &Rows) -> Result<(), CompactError> {
        let mut builder = BlockBuilder::new(rows.kind);
        let all: Vec<usize> = rows.all().collect();
        rows.append(&mut builder, &all, None);
        self.write(0, &mut builder)
    }

    /// Adds rows of a sweep.
    pub fn add_sweeps(&mut self, rows: Rows) -> Result<(), CompactError> {
        let all = rows.all();
        self.add(&rows, all)
    }

    /// Adds visits: in the order of their steps, and of one step in that of the ranks.
    pub fn add_visits(&mut self, rows: Rows) -> Result<(), CompactError> {
        let Some(rank) = rows.worker else {
            let all = rows.all();
            return self.add(&rows, all);
        };
        // Whatever comes from here on, from whichever worker, is of this step or later.
        self.release(Some(rows.first_step))?;
        self.waiting.push(Waiting { rows, rank, next: 0 });
        Ok(())
    }

    /// Adds the waiting rows of steps before `limit`, or all, a step at a time.
    fn release(&mut self, limit: Option<u64>) -> Result<(), CompactError> {
        loop {
            self.waiting.retain(|block| block.next < block.rows.count);
            // Blocks of one rank stand in the order in which they came, and of equals the first is the least.
            let least = (0..self.waiting.len()).min_by_key(|at| (self.waiting[*at].step(), self.waiting[*at].rank));
            let Some(at) = least.filter(|at| limit.is_none_or(|limit| self.waiting[*at].step() < limit)) else {
                return Ok(());
            };
            let mut block = self.waiting.remove(at);
            let step = block.step();
            let first = block.next;
            while block.next < block.rows.count && block.step() == step {
                block.next += 1;
            }
            let added = first..block.next;
            self.add(&block.rows, added)?;
            self.waiting.insert(at, block);
        }
    }

    fn add(&mut self, rows: &Rows, which: std::ops::Range<usize>) -> Result<(), CompactError> {
        let Some(examples) = &rows.examples else { return Ok(()) };
        let count = self.buffers.len() as u32;
        let mut touched = Vec::new();
        for row in which {
            let bucket = example_bucket(examples[row], count) as usize;
            if self.by_bucket[bucket].is_empty() {
                touched.push(bucket);
            }
            self.by_bucket[bucket].push(row);
        }
        for bucket in touched {
            let mut own = std::mem::take(&mut self.by_bucket[bucket]);
            self.buffer(rows, bucket, &own)?;
            own.clear();
            self.by_bucket[bucket] = own;
        }
        while self.held_bytes > self.memory_bytes {
            // The longest buffers make the longest blocks.
            let longest = self.buffers.iter().flatten().map(BlockBuilder::raw_bytes).max().unwrap_or(0);
            for bucket in 0..self.buffers.len() {
                let bytes = self.buffers[bucket].as_ref().map_or(0, BlockBuilder::raw_bytes);
                if bytes > 0 && bytes >= longest / 2 && self.held_bytes > self.memory_bytes / 2 {
                    self.flush(bucket)?;
                }
            }
        }
        Ok(())
    }

    /// Adds rows to the buffer of a bucket. Within a block steps never fall, and all rows have the same columns.
    /// Blocks of sweeps are read as they were written, so their rows are of one step already.
    fn buffer(&mut self, rows: &Rows, bucket: usize, own: &[usize]) -> Result<(), CompactError> {
        let first = own.first().and_then(|row| rows.steps.as_ref().map(|steps| steps[*row]));
        let fits = |builder: &BlockBuilder| {
            let last = builder.steps().map(|(_, last)| last);
            // A block of a sweep has rows of one checkpoint.
            let is_next = if rows.kind == BlockKind::Sweeps { last == first } else { last <= first };
            builder.kind() == rows.kind && (last.is_none() || is_next)
        };
        if self.buffers[bucket].as_ref().is_some_and(|builder| !fits(builder)) {
            self.flush(bucket)?;
        }
        let before = self.buffers[bucket].as_ref().map_or(0, BlockBuilder::raw_bytes);
        let builder = self.buffers[bucket].get_or_insert_with(|| BlockBuilder::new(rows.kind));
        let mut after = before;
        if rows.append(builder, own, Some(bucket as u32)) {
            after = builder.raw_bytes();
            self.held_bytes += after - before;
        } else {
            self.flush(bucket)?;
            let mut builder = BlockBuilder::new(rows.kind);
            rows.append(&mut builder, own, Some(bucket as u32));
            self.held_bytes += builder.raw_bytes();
            self.buffers[bucket] = Some(builder);
        }
        let long = self.buffers[bucket].as_ref().is_some_and(|builder| builder.rows() >= BLOCK_ROWS);
        if long || after >= BLOCK_BYTES {
            self.flush(bucket)?;
        }
        Ok(())
    }

    /// Writes what a bucket holds. Its memory is given back: thousands of buckets would keep thousands of buffers.
    fn flush(&mut self, bucket: usize) -> Result<(), CompactError> {
        let Some(mut builder) = self.buffers[bucket].take() else { return Ok(()) };
        self.held_bytes = self.held_bytes.saturating_sub(builder.raw_bytes());
        self.write(bucket as u32 + 1, &mut builder)
    }

    fn write(&mut self, segment: u32, builder: &mut BlockBuilder) -> Result<(), CompactError> {
        if builder.rows() == 0 {
            return Ok(());
        }
        let mut own = match self.compressor.take() {
            Some(own) => own,
            None => compressor(&self.folder.path)?,
        };
        let written = self.folder.append(segment, builder, (&mut own, &mut self.body));
        self.compressor = Some(own);
        written
    }

    /// Writes all that is held.
    pub fn finish(mut self) -> Result<(), CompactError> {
        self.release(None)?;
        (0..self.buffers.len()).try_for_each(|bucket| self.flush(bucket))
    }
}
