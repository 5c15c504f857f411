//! The plan node of influence: the integer kernel over the visits, with the probes in the plan.

use super::asked::AskedInfluence;
use crate::leaf::leaf_methods;
use crate::rows::{properties, short_list, stream, RowSink};
use crate::shares::Shares;
use crate::RunTables;
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, EmptyRecordBatchStream, ExecutionPlan, PlanProperties};
use std::fmt;
use std::sync::Arc;

/// Measures influence. A partition has a share of the examples, and gives the strongest of its own.
#[derive(Debug)]
pub(crate) struct InfluenceExec {
    pub tables: RunTables,
    pub asked: Arc<AskedInfluence>,
    pub shares: Shares,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl InfluenceExec {
    pub fn new(tables: RunTables, asked: Arc<AskedInfluence>, shares: Shares) -> Self {
        let properties = properties(asked.schema.clone(), shares.partitions());
        Self { tables, asked, shares, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The same node for some processes, of which each has some of the shares.
    #[cfg(feature = "cluster")]
    pub fn deal(&self, tasks: usize) -> Vec<Self> {
        let of_task = |shares| Self::new(self.tables.clone(), self.asked.clone(), shares);
        self.shares.deal(tasks).into_iter().map(of_task).collect()
    }
}

impl DisplayAs for InfluenceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (run, asked) = (self.tables.run().dir().display(), &self.asked);
        write!(f, "InfluenceExec: set={}, probes={}", asked.set, short_list(&asked.probes))?;
        match asked.top {
            Some(top) => write!(f, ", top={top}")?,
            None => write!(f, ", top=all")?,
        }
        write!(f, ", run={run}{}, shares={}", asked.options, self.shares)
    }
}

impl ExecutionPlan for InfluenceExec {
    leaf_methods!("InfluenceExec");

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(share) = self.shares.get(partition) else { return internal_err!("no partition {partition}") };
        let Some(share) = share else { return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema()))) };
        let of_node = (self.metrics.clone(), partition);
        let (tables, asked) = (self.tables.clone(), self.asked.clone());
        let answer = move |sink: &mut RowSink| asked.answer(&tables, share, sink);
        Ok(stream(self.schema(), (&self.asked.columns, None), of_node, answer))
    }
}
