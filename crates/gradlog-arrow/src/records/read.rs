//! Reads the rows of a log as record batches: one batch for each block, in the order of the run.

use super::cell::Names;
use super::gradients::StoredGradients;
use super::tables::{holds, ColumnOf, Record};
use super::{cards, lists};
use crate::TableError;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use gradlog_analysis::{Progress, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::column::{u32s, u64s};
use gradlog_format::run::{Block, Damage, ReadError, Run};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Blocks that are decoded at a time, for each thread.
const BLOCKS_PER_THREAD: usize = 2;
/// A group of blocks is closed when it says that it inflates to this much.
const GROUP_BYTES_MAX: u64 = 256 << 20;

/// Asks for a table of a log.
///
/// Rows are those that count: visits of a stretch that the training took again after a resumption are not among them.
/// Visits without a usable gradient are, with their flags.
///
/// ```no_run
/// use gradlog_analysis::Window;
/// use gradlog_arrow::{Record, RecordQuestion};
/// # fn main() -> Result<(), gradlog_arrow::TableError> {
/// # let run = gradlog_format::run::Run::open("runs/mnist")?;
/// let columns = ["example", "epoch", "loss"];
/// let question = RecordQuestion::new(Record::Visits).columns(columns).window(Window::epochs(3..));
/// let read = question.read(&run, |batch| {
///     println!("{} rows", batch.num_rows());
///     Ok(())
/// })?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RecordQuestion {
    record: Record,
    columns: Option<Vec<String>>,
    with_gradients: bool,
    window: Window,
    /// Sorted.
    examples: Option<Vec<u64>>,
    blocks: Option<Range<u64>>,
    group_blocks: Option<usize>,
    progress: Progress,
}

/// How the reading of a table ended.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RecordsRead {
    /// Rows that were handed over.
    pub rows: u64,
    /// Blocks of which columns were read. Of a table that is made of a list, none.
    pub blocks: u64,
    /// Rows of the blocks that the question is about, whether they were handed over or not.
    pub rows_there: u64,
    /// Rows with a gradient column of another form than in the first block, which is null.
    pub other_layers: u64,
    /// Where the run stopped being readable, if it did.
    pub damage: Option<Damage>,
}

/// A question whose names are checked.
pub(super) struct Plan {
    record: Record,
    columns: Vec<ColumnOf>,
    gradients: Option<StoredGradients>,
    pub schema: SchemaRef,
}

impl RecordQuestion {
    /// All columns of all rows of a table, without gradients.
    pub fn new(record: Record) -> Self {
        Self {
            record,
            columns: None,
            with_gradients: false,
            window: Window::default(),
            examples: None,
            blocks: None,
            group_blocks: None,
            progress: Progress::default(),
        }
    }

    /// Only these columns, in this order. Columns that are not asked for are not read.
    #[must_use]
    pub fn columns<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.columns = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// The rows of these epochs and steps only. The window's source does not matter here.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// The rows of these examples only. A block without any of them is read no further than its ids.
    #[must_use]
    pub fn examples(mut self, examples: impl IntoIterator<Item = u64>) -> Self {
        let mut examples: Vec<u64> = examples.into_iter().collect();
        examples.sort_unstable();
        examples.dedup();
        self.examples = Some(examples);
        self
    }

    /// The rows of the blocks with these numbers only ([`Block::sequence`]). The scan ends at the last of them, so that
    /// damage behind it is not seen. A table that is made of a list has no blocks, and comes whole.
    #[must_use]
    pub fn blocks(mut self, blocks: Range<u64>) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// Decodes one block after the other, for a caller that reads several parts of a table at the same time.
    #[must_use]
    pub fn one_after_another(mut self) -> Self {
        self.group_blocks = Some(1);
        self
    }

    /// Adds the gradients behind the other columns, as they are stored: the bytes of each vector, its scale, the
    /// numbers kept apart, and what rounding left open. The metadata of each column says how to read it: `encoding`,
    /// `width`, `origin` and the `seed` of its projection. FORMAT.md has the formulas ("Sketches").
    #[must_use]
    pub fn stored_gradients(mut self) -> Self {
        self.with_gradients = true;
        self
    }

    /// Reports the bytes that were read to the same place as `progress`.
    #[must_use]
    pub fn share_progress(mut self, progress: &Progress) -> Self {
        self.progress = progress.clone();
        self
    }

    /// The columns and their types. Those that the log describes have a `description` in their metadata. The metadata
    /// of the schema has the run's id, the version that wrote it, and its seed.
    ///
    /// # Errors
    /// [`TableError::NoColumn`] or [`TableError::Twice`] for names that do not fit, [`TableError::NoGradients`] for a
    /// table without gradients, [`TableError::NoExamples`] for examples of a table of something else,
    /// [`TableError::NoWindow`] for a window on cards.
    pub fn schema(&self, run: &Run) -> Result<SchemaRef, TableError> {
        Ok(self.plan(run)?.schema)
    }

    /// Reads the table and hands it over batch by batch, in the order of the run. A batch has the rows of one block.
    ///
    /// # Errors
    /// Those of [`RecordQuestion::schema`]; what `each` says; [`TableError::Read`] if the file system refuses, or for a
    /// column that a newer version wrote. Damage is not an error: what came before it is handed over.
    ///
    /// # Cost
    /// One pass over the columns that are asked for. Memory: the inflated columns of two blocks for each thread.
    pub fn read(
        &self,
        run: &Run,
        each: impl FnMut(RecordBatch) -> Result<(), TableError>,
    ) -> Result<RecordsRead, TableError> {
        self.read_plan(run, &self.plan(run)?, each)
    }

    pub(super) fn plan(&self, run: &Run) -> Result<Plan, TableError> {
        let all = self.record.columns();
        let columns = match &self.columns {
            None => all,
            Some(names) => choose(self.record, &all, names)?,
        };
        if self.with_gradients && !self.record.has_gradients() {
            return Err(TableError::NoGradients(self.record.name()));
        }
        if self.examples.is_some() && !self.record.is_of_examples() {
            return Err(TableError::NoExamples(self.record.name()));
        }
        if self.record == Record::Cards && (self.window.epochs.is_some() || self.window.steps.is_some()) {
            return Err(TableError::NoWindow(self.record.name()));
        }
        let first = |block: &Block| holds(self.record, block) && self.window.touches(block);
        let gradients = self.with_gradients.then(|| StoredGradients::find(run, first)).transpose()?;
        let mut fields: Vec<Field> = columns.iter().map(field).collect();
        fields.extend(gradients.iter().flat_map(StoredGradients::fields));
        let manifest = run.manifest();
        let id: String = manifest.run_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let metadata = [
            ("gradlog.record", self.record.name().to_owned()),
            ("gradlog.run_id", id),
            ("gradlog.version", manifest.version.clone()),
            ("gradlog.seed", manifest.seed.to_string()),
        ];
        let metadata: HashMap<String, String> =
            metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        Ok(Plan { record: self.record, columns, gradients, schema })
    }

    pub(super) fn read_plan(
        &self,
        run: &Run,
        plan: &Plan,
        mut each: impl FnMut(RecordBatch) -> Result<(), TableError>,
    ) -> Result<RecordsRead, TableError> {
        let mut read = RecordsRead::default();
        if plan.record.kind().is_none() {
            let all = lists::read(plan.record, run)?;
            read.rows_there = all.num_rows() as u64;
            let batch = self.inside(all)?;
            read.rows = batch.num_rows() as u64;
            each(plan.choose(&batch)?)?;
            return Ok(read);
        }
        let group_blocks = self.group_blocks.unwrap_or(BLOCKS_PER_THREAD * rayon::current_num_threads()).max(1);
        let wanted = self.blocks.clone().unwrap_or(0..u64::MAX);
        let mut ended = false;
        let mut scan = run.scan();
        let mut sets: Vec<String> = Vec::new();
        loop {
            if self.progress.is_stopped() {
                return Err(TableError::Ended);
            }
            let (mut group, mut bytes) = (Vec::with_capacity(group_blocks), 0u64);
            while !ended && group.len() < group_blocks && bytes < GROUP_BYTES_MAX {
                let Some(block) = scan.next() else { break };
                if block.sequence() >= wanted.end {
                    ended = true;
                    break;
                }
                let has_sets = matches!(plan.record, Record::Probes | Record::Cards);
                if has_sets && block.kind() == Some(BlockKind::ProbeSet) {
                    let (number, name) = block.probe_set()?;
                    if number as usize == sets.len() {
                        sets.push(name);
                    }
                }
                let is_wanted = holds(plan.record, &block) && block.sequence() >= wanted.start;
                read.rows_there += if is_wanted { block.rows() as u64 } else { 0 };
                if is_wanted && self.window.touches(&block) && block.rows() > 0 {
                    bytes = bytes.saturating_add(block.inflated_bytes());
                    group.push(block);
                } else {
                    self.progress.report(block.bytes());
                }
            }
            if group.is_empty() {
                let is_before = |damage: &&Damage| damage.block.is_none_or(|block| block < wanted.end);
                read.damage = if ended { None } else { scan.damage()?.filter(is_before).cloned() };
                return Ok(read);
            }
            let names = Names { sets: &sets, layers: &run.manifest().layers };
            read.blocks += group.len() as u64;
            let made: Vec<Result<(RecordBatch, u64), TableError>> = match group.as_slice() {
                [block] => vec![self.read_block(plan, block, names)],
                blocks => blocks.par_iter().map(|block| self.read_block(plan, block, names)).collect(),
            };
            for made in made {
                match made {
                    Ok((batch, other_layers)) => {
                        read.rows += batch.num_rows() as u64;
                        read.other_layers += other_layers;
                        if batch.num_rows() > 0 {
                            each(batch)?;
                        }
                    }
                    // What follows a damaged block is not trusted, so a table is always that of a prefix.
                    Err(TableError::Read(ReadError::Damaged(damage))) => {
                        read.damage = Some(damage);
                        return Ok(read);
                    }
                    Err(other) => return Err(other),
                }
            }
        }
    }

    fn read_block(&self, plan: &Plan, block: &Block, names: Names<'_>) -> Result<(RecordBatch, u64), TableError> {
        if plan.record == Record::Cards {
            let batch = plan.choose(&cards::read(block, names)?)?;
            self.progress.report(block.bytes());
            return Ok((batch, 0));
        }
        let marks = self.marks(block)?;
        if marks.as_ref().is_some_and(|marks| marks.true_count() == 0) {
            self.progress.report(block.bytes());
            return Ok((RecordBatch::new_empty(plan.schema.clone()), 0));
        }
        let mut arrays: Vec<ArrayRef> =
            plan.columns.iter().map(|column| column.cell.read(block, names)).collect::<Result<_, _>>()?;
        let mut other_layers = 0;
        if let Some(gradients) = &plan.gradients {
            let (columns, others) = gradients.read(block)?;
            arrays.extend(columns);
            other_layers = others;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(block.rows()));
        let batch = RecordBatch::try_new_with_options(plan.schema.clone(), arrays, &options)?;
        let batch = match marks {
            Some(marks) => filter_record_batch(&batch, &marks)?,
            None => batch,
        };
        self.progress.report(block.bytes());
        Ok((batch, other_layers))
    }

    /// Which rows are wanted: inside the window, and of the examples. `None` if all are.
    fn marks(&self, block: &Block) -> Result<Option<BooleanArray>, TableError> {
        let mut marks: Option<Vec<bool>> = None;
        if let Some(wanted) = &self.examples {
            let examples = u64s(block, Column::Example)?;
            marks = Some(examples.iter().map(|example| wanted.binary_search(example).is_ok()).collect());
        }
        if !self.window.encloses(block) && marks.as_ref().is_none_or(|marks| marks.contains(&true)) {
            let rows = u64s(block, Column::Step)?.into_iter().zip(u32s(block, Column::Epoch)?);
            let inside = rows.map(|(step, epoch)| self.window.contains(step, epoch));
            marks = Some(match marks {
                Some(marks) => marks.into_iter().zip(inside).map(|(mark, inside)| mark && inside).collect(),
                None => inside.collect(),
            });
        }
        Ok(marks.map(BooleanArray::from))
    }

    /// The rows of a list that lie inside the window.
    fn inside(&self, batch: RecordBatch) -> Result<RecordBatch, TableError> {
        use arrow_array::cast::AsArray;
        use arrow_array::types::{UInt32Type, UInt64Type};
        let (Some(steps), Some(epochs)) = (batch.column_by_name("step"), batch.column_by_name("epoch")) else {
            return Ok(batch);
        };
        let (steps, epochs) = (steps.as_primitive::<UInt64Type>(), epochs.as_primitive::<UInt32Type>());
        let rows = steps.values().iter().zip(epochs.values());
        let inside: BooleanArray = rows.map(|(step, epoch)| Some(self.window.contains(*step, *epoch))).collect();
        Ok(filter_record_batch(&batch, &inside)?)
    }
}

impl Plan {
    /// The columns of the question, of a batch that has all.
    fn choose(&self, batch: &RecordBatch) -> Result<RecordBatch, TableError> {
        let places: Result<Vec<usize>, _> = self.columns.iter().map(|c| batch.schema().index_of(c.name)).collect();
        let chosen = batch.project(&places?)?.columns().to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), chosen, &options)?)
    }
}

fn field(column: &ColumnOf) -> Field {
    let metadata = HashMap::from([("description".to_owned(), column.meaning.to_owned())]);
    let data_type: DataType = column.cell.data_type();
    Field::new(column.name, data_type, column.cell.is_nullable()).with_metadata(metadata)
}

fn choose(record: Record, all: &[ColumnOf], names: &[String]) -> Result<Vec<ColumnOf>, TableError> {
    let mut chosen: Vec<ColumnOf> = Vec::with_capacity(names.len());
    for name in names {
        let Some(column) = all.iter().find(|column| column.name == name) else {
            let there: Vec<&str> = all.iter().map(|column| column.name).collect();
            return Err(TableError::NoColumn { table: record.name(), column: name.clone(), there: there.join(", ") });
        };
        if chosen.iter().any(|other| other.name == column.name) {
            return Err(TableError::Twice(name.clone()));
        }
        chosen.push(*column);
    }
    Ok(chosen)
}
