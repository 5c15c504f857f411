//! The examples of a run, shared out among threads, and the loop that adds visits to them.

use super::per_example::PerExample;
use crate::rows::adam_norms::AdamNorms;
use crate::rows::column;
use crate::rows::inside::Inside;
use crate::rows::last_labels::{Identity, Place};
use crate::rows::layer_norms::LayerNorms;

use crate::rows::reader::{BlockRows, RowReader};
use crate::rows::rule::{verdict, Verdict};
use crate::{AnalysisError, LeftOut};
use gradlog_format::log::Column;
use gradlog_format::run::Block;
use std::collections::HashMap;
use std::ops::Range;

/// The most numbers that a score is made of.
const NUMBERS_MAX: usize = 4;

/// What was read of one block.
pub(super) struct Visits {
    pub block: Identity,
    /// Whether it holds labels or predictions.
    has_labels: bool,
    pub rows: BlockRows,
    /// `None` if no row of the block counts.
    sorted: Option<SortedRows>,
}

/// The rows of a block inside the window, sorted by shard.
struct SortedRows {
    /// The rows of each shard together, in the order of the file.
    rows: Vec<u32>,
    /// Where the rows of each shard begin, and their end.
    starts: Vec<usize>,
    examples: Vec<u64>,
}

impl Visits {
    pub(super) fn read(
        reader: &RowReader<'_>,
        (norms, adam): (&LayerNorms<'_>, Option<&AdamNorms>),
        block: &Block,
        bits: u32,
    ) -> Result<Self, AnalysisError> {
        let mut rows = reader.read(block)?;
        let numbers = reader.rule.numbers.iter().zip(&mut rows.numbers);
        for (_, values) in numbers.filter(|(column, _)| **column == Column::SquaredNorm) {
            norms.correct(block, values)?;
        }
        if let (Some(adam), None) = (adam, &rows.gap) {
            let numbers = reader.rule.numbers.iter().zip(&mut rows.numbers);
            for (_, rates) in numbers.filter(|(column, _)| **column == Column::LearningRate) {
                adam.set_rates(block, rates)?;
            }
            rows.keep_known(adam.known(block)?);
        }
        let sorted = match rows.gap {
            Some(_) => None,
            None => Some(SortedRows::new(column::u64s(block, Column::Example)?, &rows.inside, bits)),
        };
        let has_labels = block.has(Column::Label) || block.has(Column::Prediction);
        Ok(Self { block: block.identity(), has_labels, rows, sorted })
    }
}

impl SortedRows {
    /// Sorting them here spares each shard a guess at every row whether the row is its own.
    fn new(examples: Vec<u64>, inside: &Inside, bits: u32) -> Self {
        let (shard, inside) = (|example: u64| (example & ((1 << bits) - 1)) as usize, inside.marks());
        let rows = || (0u32..).zip(&examples).filter(|(row, _)| inside.is_none_or(|inside| inside[*row as usize]));
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
        Self { rows: sorted, starts, examples }
    }

    /// The rows of a shard within a stretch of the block. They rise, so they lie together.
    fn stretch_rows(&self, shard: usize, stretch: Range<usize>) -> &[u32] {
        let own = &self.rows[self.starts[shard]..self.starts[shard + 1]];
        let first = own.partition_point(|row| (*row as usize) < stretch.start);
        let last = own.partition_point(|row| (*row as usize) < stretch.end);
        &own[first..last]
    }
}

/// What is known of one example. Each visit finds it somewhere else in memory, so it is half a cache line and never in
/// two.
#[repr(align(32))]
pub(super) struct Gathered<A> {
    pub accumulator: A,
    /// Its last visit with a label or a prediction.
    pub last: Place,
}

/// The examples of one thread: those with the same last bits in their id.
pub(super) struct Shard<A> {
    number: usize,
    /// How many bits tell the shards apart.
    bits: u32,
    /// Where an example is in `gathered`, plus one, by the rest of its id; 0 for none.
    dense: Vec<u32>,
    /// The longest that `dense` may be.
    dense_max: usize,
    /// The same for ids too large for a table.
    sparse: foldhash::HashMap<u64, u32>,
    pub examples: Vec<u64>,
    pub gathered: Vec<Gathered<A>>,
    /// Of the few examples that had any, by their place in `gathered`, visits that were left out as not finite.
    pub not_finite: HashMap<usize, u64>,
    pub visits: u64,
    pub left_out: LeftOut,
    pub estimated_norms: u64,
}

/// The longest table of a shard, in entries.
const DENSE_MAX: usize = 1 << 22;

/// Of so many buckets, each has one id to a cache line of a table, and the table is cleared for every bucket. A hash
/// map has the bucket's examples alone.
const BUCKETS_WITHOUT_TABLE: u32 = 16;

impl<A: PerExample> Shard<A> {
    /// As many as keep all threads busy, for the examples of one of `buckets` buckets.
    pub(super) fn all(buckets: u32) -> Vec<Self> {
        let dense_max = if buckets < BUCKETS_WITHOUT_TABLE { DENSE_MAX } else { 0 };
        let bits = rayon::current_num_threads().next_power_of_two().trailing_zeros();
        let shard = |number| Self {
            number,
            bits,
            dense: Vec::new(),
            dense_max,
            sparse: foldhash::HashMap::default(),
            examples: Vec::new(),
            gathered: Vec::new(),
            not_finite: HashMap::new(),
            visits: 0,
            left_out: LeftOut::default(),
            estimated_norms: 0,
        };
        (0..1 << bits).map(shard).collect()
    }

    #[inline]
    fn slot(&mut self, example: u64) -> usize {
        let place = usize::try_from(example >> self.bits).unwrap_or(usize::MAX);
        let entry = if place < self.dense_max {
            if place >= self.dense.len() {
                self.dense.resize((2 * place).clamp(1024, self.dense_max), 0);
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
    pub(super) fn add(&mut self, visits: &Visits, number: u32, stretch: Range<usize>) {
        let Some(sorted) = &visits.sorted else { return };
        let BlockRows { numbers, flags, positions, leaves_out_unseen, .. } = &visits.rows;
        let is_norm = |column: &Column| matches!(column, Column::SquaredNorm | Column::PreconditionedSquaredNorm);
        let uses_norm = A::RULE.numbers.iter().any(is_norm);
        let mut values = [0f32; NUMBERS_MAX];
        let values = &mut values[..A::RULE.numbers.len()];
        for &row in sorted.stretch_rows(self.number, stretch) {
            let place = Place { block: number, row };
            let row = row as usize;
            let slot = self.slot(sorted.examples[row]);
            let entry = &mut self.gathered[slot];
            let has_prediction = positions.as_ref().is_none_or(|positions| positions[row] > 0);
            if visits.has_labels && has_prediction {
                entry.last = place;
            }
            let flags = flags.as_ref().map_or(0, |flags| flags[row]);
            for (value, column) in values.iter_mut().zip(numbers) {
                *value = column[row];
            }
            let finite = values.iter().all(|value| value.is_finite());
            match verdict(flags, has_prediction, finite, *leaves_out_unseen) {
                Verdict::Counts => {
                    entry.accumulator.add(values);
                    self.visits += 1;
                    self.estimated_norms += u64::from(uses_norm && flags & Column::FLAG_NORM_ESTIMATED != 0);
                }
                left_out => {
                    if left_out == Verdict::NotFinite {
                        *self.not_finite.entry(slot).or_default() += 1;
                    }
                    self.left_out.count(left_out);
                }
            }
        }
    }
}
