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
    /// Whether every row inside the window counts, as nearly always: then none is judged by itself.
    all_count: bool,
    /// `None` if no row of the block counts.
    of_shards: Option<ShardRows>,
}

/// The rows of a block inside the window, by shard.
struct ShardRows {
    examples: Vec<u64>,
    /// `None` if there is one shard, and every row lies inside.
    sorted: Option<SortedRows>,
}

struct SortedRows {
    /// The rows of each shard together, in the order of the file.
    rows: Vec<u32>,
    /// Where the rows of each shard begin, and their end.
    starts: Vec<usize>,
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
        let of_shards = match rows.gap {
            Some(_) => None,
            None => Some(ShardRows::new(column::u64s(block, Column::Example)?, &rows.inside, bits)),
        };
        let has_labels = block.has(Column::Label) || block.has(Column::Prediction);
        let all_count = rows.all_count();
        Ok(Self { block: block.identity(), has_labels, rows, all_count, of_shards })
    }
}

impl ShardRows {
    fn new(examples: Vec<u64>, inside: &Inside, bits: u32) -> Self {
        let sorted = match (bits, inside.marks()) {
            (0, None) => None,
            (_, None) => Some(SortedRows::new(0..examples.len() as u32, &examples, bits)),
            (_, Some(marks)) => {
                let inside = |row: &u32| marks.get(*row as usize) == Some(&true);
                Some(SortedRows::new((0..examples.len() as u32).filter(inside), &examples, bits))
            }
        };
        Self { examples, sorted }
    }
}

impl SortedRows {
    /// Sorting them here spares each shard a guess at every row whether the row is its own.
    fn new(rows: impl Iterator<Item = u32> + Clone, examples: &[u64], bits: u32) -> Self {
        let shard = |row: u32| (examples[row as usize] & ((1 << bits) - 1)) as usize;
        let mut starts = vec![0usize; (1 << bits) + 1];
        rows.clone().for_each(|row| starts[shard(row) + 1] += 1);
        for number in 0..1 << bits {
            starts[number + 1] += starts[number];
        }
        let (mut places, mut sorted) = (starts.clone(), vec![0u32; starts[1 << bits]]);
        for row in rows {
            let place = &mut places[shard(row)];
            sorted[*place] = row;
            *place += 1;
        }
        Self { rows: sorted, starts }
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

/// To read a visit takes more than twice as long as to add it to its example. So a thread that adds keeps two busy
/// that read. A single shard needs no sorting.
const THREADS_A_SHARD: usize = 3;

/// The longest table of a shard, in entries.
const DENSE_MAX: usize = 1 << 22;

/// Of so many buckets, each has one id to a cache line of a table, and the table is cleared for every bucket. A hash
/// map has the bucket's examples alone.
const BUCKETS_WITHOUT_TABLE: u32 = 16;

impl<A: PerExample> Shard<A> {
    /// As many as keep pace with the threads that read, for the examples of one of `buckets` buckets.
    pub(super) fn all(buckets: u32) -> Vec<Self> {
        let dense_max = if buckets < BUCKETS_WITHOUT_TABLE { DENSE_MAX } else { 0 };
        let bits = rayon::current_num_threads().div_ceil(THREADS_A_SHARD).next_power_of_two().trailing_zeros();
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
        match self.dense.get(place) {
            Some(&entry) if entry > 0 => entry as usize - 1,
            _ => self.find_or_add(example, place),
        }
    }

    /// Where an example is that is new or not in the table.
    #[inline(never)]
    fn find_or_add(&mut self, example: u64, place: usize) -> usize {
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
        let Some(ShardRows { examples, sorted }) = &visits.of_shards else { return };
        match sorted {
            Some(sorted) => {
                let rows = sorted.stretch_rows(self.number, stretch);
                self.add_rows(visits, number, examples, rows.iter().map(|row| *row as usize));
            }
            None => self.add_rows(visits, number, examples, stretch.start..stretch.end.min(examples.len())),
        }
    }

    fn add_rows(&mut self, visits: &Visits, number: u32, examples: &[u64], rows: impl Iterator<Item = usize>) {
        let count = A::RULE.numbers.len();
        let mut columns = [&[][..]; NUMBERS_MAX];
        columns.iter_mut().zip(&visits.rows.numbers).for_each(|(to, column)| *to = column);
        let values_of = |row: usize| {
            let mut values = [0f32; NUMBERS_MAX];
            let of_row = columns.iter().map(|column| column.get(row).copied().unwrap_or(0.0));
            values[..count].iter_mut().zip(of_row).for_each(|(value, number)| *value = number);
            values
        };
        let place = |row: usize| Place { block: number, row: row as u32 };
        if !visits.all_count {
            for row in rows {
                self.judge(visits, place(row), examples[row], &values_of(row)[..count]);
            }
            return;
        }
        let mut counted = 0;
        for row in rows {
            let slot = self.slot(examples[row]);
            let entry = &mut self.gathered[slot];
            if visits.has_labels {
                entry.last = place(row);
            }
            entry.accumulator.add(&values_of(row)[..count]);
            counted += 1;
        }
        self.visits += counted;
    }

    /// Adds a visit, if it counts.
    fn judge(&mut self, visits: &Visits, place: Place, example: u64, values: &[f32]) {
        let BlockRows { flags, positions, leaves_out_unseen, .. } = &visits.rows;
        let row = place.row as usize;
        let slot = self.slot(example);
        let entry = &mut self.gathered[slot];
        let has_prediction = positions.as_ref().is_none_or(|positions| positions[row] > 0);
        if visits.has_labels && has_prediction {
            entry.last = place;
        }
        let flags = flags.as_ref().map_or(0, |flags| flags[row]);
        let finite = values.iter().all(|value| value.is_finite());
        match verdict(flags, has_prediction, finite, *leaves_out_unseen) {
            Verdict::Counts => {
                entry.accumulator.add(values);
                self.visits += 1;
                let is_norm =
                    |column: &Column| matches!(column, Column::SquaredNorm | Column::PreconditionedSquaredNorm);
                let uses_norm = A::RULE.numbers.iter().any(is_norm);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::layer_rates::LayerRates;
    use crate::rows::reader::WantedGradient;
    use crate::rows::sweep::Sweeps;
    use crate::scores::{forgetting::Forgetting, loss::Loss};
    use crate::Window;
    use gradlog_testing::{run_of, visits, Draws};

    /// Rows of which all count, added at once and judged one by one: the same sums, in one shard and in several.
    fn check<A: PerExample>(threads: usize) {
        let recorded = visits(&mut Draws(5), 60, 3, 8);
        let run = run_of(&recorded, 16).run();
        let (window, sweeps, rates) = (Window::default(), Sweeps::default(), LayerRates::default());
        let reader = RowReader { window: &window, sweeps: &sweeps, rule: A::RULE, gradient: WantedGradient::None };
        let layers = LayerNorms { rates: &rates, manifest: run.manifest(), uses_rates: false, on_sweeps: false };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut fast, mut judged) = pool.install(|| (Shard::<A>::all(1), Shard::<A>::all(1)));
        assert_eq!(fast.len(), threads.div_ceil(THREADS_A_SHARD).next_power_of_two());
        let bits = fast.len().trailing_zeros();
        for (number, block) in (0..).zip(run.scan().filter(|block| window.is_on(block))) {
            let mut visits = Visits::read(&reader, (&layers, None), &block, bits).unwrap();
            assert!(visits.all_count);
            fast.iter_mut().for_each(|shard| shard.add(&visits, number, 0..usize::MAX));
            visits.all_count = false;
            judged.iter_mut().for_each(|shard| shard.add(&visits, number, 0..usize::MAX));
        }
        assert_eq!(fast.iter().map(|shard| shard.visits).sum::<u64>(), recorded.len() as u64);
        for (fast, judged) in fast.iter().zip(&judged) {
            assert_eq!((&fast.examples, fast.visits), (&judged.examples, judged.visits));
            for (fast, judged) in fast.gathered.iter().zip(&judged.gathered) {
                assert_eq!(fast.last, judged.last);
                assert_eq!(fast.accumulator.score().to_bits(), judged.accumulator.score().to_bits());
            }
        }
    }

    #[test]
    fn rows_that_all_count_need_not_be_judged() {
        for threads in [1, 2, 8] {
            check::<Forgetting>(threads);
            check::<Loss>(threads);
        }
    }
}
