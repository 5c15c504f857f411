//! The plan node that reads a table of the log: a partition reads a stretch of its blocks, or some buckets.

use crate::leaf::leaf_methods;
use crate::outline::{BlockOutline, Stretch};
use crate::wanted::Wanted;
use crate::{RunTables, SqlError};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{internal_err, ColumnStatistics, ScalarValue, Statistics};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use gradlog_arrow::{Record, RecordQuestion, TableError};
use std::fmt;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// Batches that wait to be taken, of each partition.
const AHEAD: usize = 2;

/// Reads a table of the log.
///
/// Memory of a partition is that of the columns of one block, and of the batches that wait.
#[derive(Debug)]
pub(crate) struct RecordScanExec {
    pub tables: RunTables,
    pub record: Record,
    pub wanted: Wanted,
    /// The most rows of a partition that anybody wants.
    pub limit: Option<usize>,
    pub parts: Vec<Vec<Stretch>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RecordScanExec {
    pub fn new(
        tables: RunTables,
        record: Record,
        schema: SchemaRef,
        wanted: Wanted,
        limit: Option<usize>,
        parts: usize,
    ) -> Self {
        let (window, examples) = (&wanted.window, wanted.examples.as_deref());
        let parts = match record.is_listed() {
            // A list is read whole.
            true => vec![vec![Stretch { bucket: None, blocks: 0..u64::MAX, rows: 0 }]],
            false => tables.outline().parts(tables.run(), record, window, examples, parts),
        };
        Self::of_parts(tables, record, schema, (wanted, limit), parts)
    }

    /// A node whose partitions read these stretches.
    pub fn of_parts(
        tables: RunTables,
        record: Record,
        schema: SchemaRef,
        (wanted, limit): (Wanted, Option<usize>),
        mut parts: Vec<Vec<Stretch>>,
    ) -> Self {
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(parts.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let (properties, metrics) = (Arc::new(properties), ExecutionPlanMetricsSet::new());
        Self { tables, record, wanted, limit, parts, properties, metrics }
    }

    /// The same node for some processes, of which each reads some partitions.
    #[cfg(feature = "cluster")]
    pub fn deal(&self, tasks: usize) -> Vec<Self> {
        let of_task = |parts| {
            let (tables, wanted) = (self.tables.clone(), (self.wanted.clone(), self.limit));
            Self::of_parts(tables, self.record, self.schema(), wanted, parts)
        };
        crate::shares::deal(&self.parts, tasks).into_iter().map(of_task).collect()
    }

    fn question(&self) -> RecordQuestion {
        let names: Vec<String> = self.schema().fields().iter().map(|field| field.name().clone()).collect();
        let question = RecordQuestion::new(self.record).columns(names).window(self.wanted.window.clone());
        match &self.wanted.examples {
            Some(examples) => question.examples(examples.iter().copied()),
            None => question,
        }
    }

    /// The blocks that a partition reads, or all, as far as headers tell; of a list none.
    fn blocks_of(&self, partition: Option<usize>) -> Vec<&BlockOutline> {
        let parts = match partition {
            Some(number) => self.parts.get(number..=number).unwrap_or_default(),
            None => self.parts.as_slice(),
        };
        let stretches: Vec<&Stretch> = parts.iter().flatten().collect();
        self.tables.outline().inside(self.record, &stretches, &self.wanted.window)
    }
}

/// Reads the stretches of a partition.
fn read(
    (tables, record): (&RunTables, Record),
    question: &RecordQuestion,
    stretches: &[Stretch],
    mut each: impl FnMut(RecordBatch) -> Result<(), TableError>,
    mut count: impl FnMut(u64),
) -> Result<(), SqlError> {
    for stretch in stretches {
        let question = question.clone().blocks(stretch.blocks.clone()).one_after_another();
        let read = match stretch.bucket {
            Some(bucket) => question.read(&tables.run().bucket(bucket), &mut each)?,
            None => question.read(tables.run(), &mut each)?,
        };
        count(read.blocks);
        tables.refuse_damage(read.damage.as_ref())?;
        if !record.is_listed() && read.rows_there != stretch.rows {
            return Err(tables.changed());
        }
    }
    tables.refuse_change()
}

/// Sends batches to the plan above, until that ends or has enough.
struct Handing {
    to: Sender<Result<RecordBatch>>,
    left: usize,
    metrics: BaselineMetrics,
}

impl Handing {
    fn hand(&mut self, batch: RecordBatch) -> Result<(), TableError> {
        let batch = batch.slice(0, batch.num_rows().min(self.left));
        self.left -= batch.num_rows();
        let batch = batch.record_output(&self.metrics);
        self.to.blocking_send(Ok(batch)).map_err(|_| TableError::Ended)?;
        if self.left == 0 {
            return Err(TableError::Ended);
        }
        Ok(())
    }
}

impl DisplayAs for RecordScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            self.properties.eq_properties.schema().fields().iter().map(|f| f.name().as_str()).collect();
        write!(f, "RecordScanExec: {}, run={}", self.record, self.tables.run().dir().display())?;
        write!(f, ", columns=[{}]", names.join(", "))?;
        if self.wanted.window != gradlog_analysis::Window::default() {
            write!(f, ", window={}", self.wanted.window)?;
        }
        if let Some(examples) = &self.wanted.examples {
            write!(f, ", examples={}", crate::rows::short_list(examples))?;
        }
        if let Some(limit) = self.limit {
            write!(f, ", limit={limit}")?;
        }
        let buckets = self.parts.iter().flatten().filter(|stretch| stretch.bucket.is_some()).count();
        write!(f, ", partitions={}", self.parts.len())?;
        if buckets > 0 {
            write!(f, ", buckets={buckets}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for RecordScanExec {
    leaf_methods!("RecordScanExec");

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(stretches) = self.parts.get(partition).cloned() else {
            return internal_err!("no partition {partition} of {}", self.parts.len());
        };
        let blocks_read = MetricBuilder::new(&self.metrics).counter("blocks_read", partition);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let mut stream = RecordBatchReceiverStream::builder(self.schema(), AHEAD);
        let mut handing = Handing { to: stream.tx(), left: self.limit.unwrap_or(usize::MAX), metrics };
        let (tables, record, question) = (self.tables.clone(), self.record, self.question());
        if handing.left > 0 {
            stream.spawn_blocking(move || {
                let done = handing.metrics.elapsed_compute().clone();
                let _timer = done.timer();
                let each = |batch| handing.hand(batch);
                match read((&tables, record), &question, &stretches, each, |blocks| blocks_read.add(blocks as usize)) {
                    // Nobody takes any more.
                    Err(SqlError::Table(TableError::Ended)) => Ok(()),
                    other => other.map_err(DataFusionError::from),
                }
            });
        }
        Ok(stream.build())
    }

    /// Rows are counted by the headers, and so are the least and greatest step and epoch. They are exact if headers
    /// say which rows count.
    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        if self.record.is_listed() {
            return Ok(Arc::new(statistics));
        }
        let blocks = self.blocks_of(args.partition());
        let rows: u64 = blocks.iter().map(|block| block.rows).sum();
        let all_inside = self.wanted.examples.is_none() && blocks.iter().all(|b| b.is_inside(&self.wanted.window));
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        statistics.num_rows = match (all_inside, self.limit) {
            (true, None) => Precision::Exact(rows),
            (_, limit) => Precision::Inexact(rows.min(limit.unwrap_or(usize::MAX))),
        };
        let are_exact = all_inside && self.limit.is_none() && blocks.iter().all(|block| block.is_exact);
        let told = |value| if are_exact { Precision::Exact(value) } else { Precision::Inexact(value) };
        for (field, column) in self.schema().fields().iter().zip(&mut statistics.column_statistics) {
            let ends = match field.name().as_str() {
                "step" => {
                    let ends = (blocks.iter().map(|b| b.steps.0).min(), blocks.iter().map(|b| b.steps.1).max());
                    (ends.0.map(ScalarValue::from), ends.1.map(ScalarValue::from))
                }
                "epoch" => {
                    let ends = (blocks.iter().map(|b| b.epochs.0).min(), blocks.iter().map(|b| b.epochs.1).max());
                    (ends.0.map(ScalarValue::from), ends.1.map(ScalarValue::from))
                }
                _ => continue,
            };
            if let (Some(least), Some(greatest)) = ends {
                let (min_value, max_value) = (told(least), told(greatest));
                *column = ColumnStatistics { min_value, max_value, null_count: Precision::Exact(0), ..column.clone() };
            }
        }
        Ok(Arc::new(statistics))
    }
}
