//! Answers of the analyzer as a stream of batches, and what plan nodes of answers have in common.

use crate::{RunTables, SqlError};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, RecordOutput};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{Partitioning, PlanProperties};
use gradlog_analysis::{AnalysisError, Progress};
use gradlog_arrow::{BatchBuilder, Value};
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// The most ids that a plan shows.
const IDS_SHOWN: usize = 10;

/// The properties of a node that gives its rows when it has all of them.
pub(crate) fn properties(schema: SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Final,
        Boundedness::Bounded,
    ))
}

/// The first ids of a list, and how many there are.
pub(crate) fn short_list(ids: &[u64]) -> String {
    let shown: Vec<String> = ids.iter().take(IDS_SHOWN).map(u64::to_string).collect();
    let more = if ids.len() > shown.len() { ", ..." } else { "" };
    format!("{} [{}{more}]", ids.len(), shown.join(", "))
}

/// Takes the rows of an answer and sends them as batches to the plan above.
pub(crate) struct RowSink {
    builder: BatchBuilder,
    /// The columns that are wanted, of those that rows have.
    projection: Option<Vec<usize>>,
    to: Sender<Result<RecordBatch>>,
    metrics: BaselineMetrics,
    /// The metrics of the node, and which partition this is.
    of_node: (ExecutionPlanMetricsSet, usize),
}

/// The name of the label in a node's metrics that holds words for who asked.
pub(crate) const SAID: &str = "said";

impl RowSink {
    pub fn add(&mut self, row: &[Value]) -> Result<(), SqlError> {
        let batch = self.builder.add(row)?;
        self.send(batch)
    }

    /// Keeps words for who asked: where the question was asked, or in a worker in the metrics, which go there.
    pub fn say(&self, tables: &RunTables, words: impl IntoIterator<Item = String>) {
        if !tables.are_of_worker() {
            return tables.say(words);
        }
        for word in words {
            MetricBuilder::new(&self.of_node.0).with_new_label(SAID, word).counter(SAID, self.of_node.1).add(1);
        }
    }

    fn send(&mut self, batch: Option<RecordBatch>) -> Result<(), SqlError> {
        let Some(batch) = batch else { return Ok(()) };
        let batch = match &self.projection {
            Some(columns) => batch.project(columns).map_err(gradlog_arrow::TableError::from)?,
            None => batch,
        };
        let batch = batch.record_output(&self.metrics);
        // If nobody takes them, the question is stopped.
        self.to.blocking_send(Ok(batch)).map_err(|_| AnalysisError::Stopped.into())
    }

    /// Stops a question when nobody takes its rows any more.
    pub fn progress(&self) -> Progress {
        let to = self.to.clone();
        Progress::new(|_| ()).stop_when(move || to.is_closed())
    }
}

/// Runs a question in a thread of its own. Its rows come as a stream.
pub(crate) fn stream(
    schema: SchemaRef,
    (columns, projection): (&[&'static str], Option<Vec<usize>>),
    of_node: (ExecutionPlanMetricsSet, usize),
    question: impl FnOnce(&mut RowSink) -> Result<(), SqlError> + Send + 'static,
) -> SendableRecordBatchStream {
    let mut stream = RecordBatchReceiverStream::builder(schema, 1);
    let builder = BatchBuilder::new(columns, []);
    let metrics = BaselineMetrics::new(&of_node.0, of_node.1);
    let mut sink = RowSink { builder, projection, to: stream.tx(), metrics, of_node };
    stream.spawn_blocking(move || {
        let done = sink.metrics.elapsed_compute().clone();
        let _timer = done.timer();
        let answered = question(&mut sink).and_then(|()| {
            let rest = sink.builder.take()?;
            sink.send(rest)
        });
        match answered {
            Err(SqlError::Analysis(AnalysisError::Stopped)) if sink.to.is_closed() => Ok(()),
            other => other.map_err(DataFusionError::from),
        }
    });
    stream.build()
}
