//! The plan node of influence: the integer kernel over the visits, with the probes in the plan.

use super::asked::AskedInfluence;
use crate::leaf::leaf_methods;
use crate::rows::{properties, short_list, stream, RowSink};
use crate::{RunTables, SqlError};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use gradlog_analysis::ExampleShare;
use std::fmt;
use std::sync::Arc;

/// Measures influence. A partition has a share of the examples, and gives the strongest of its own.
#[derive(Debug)]
pub(super) struct InfluenceExec {
    tables: RunTables,
    asked: Arc<AskedInfluence>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl InfluenceExec {
    pub fn new(tables: RunTables, asked: Arc<AskedInfluence>) -> Self {
        let properties = properties(asked.schema.clone(), tables.shares() as usize);
        Self { tables, asked, properties, metrics: ExecutionPlanMetricsSet::new() }
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
        write!(f, ", run={run}{}, shares={}", asked.options, self.tables.shares())
    }
}

impl ExecutionPlan for InfluenceExec {
    leaf_methods!("InfluenceExec");

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let share = ExampleShare::new(partition as u32 + 1, self.tables.shares()).map_err(SqlError::from)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (tables, asked) = (self.tables.clone(), self.asked.clone());
        let answer = move |sink: &mut RowSink| asked.answer(&tables, share, sink);
        Ok(stream(self.schema(), (&self.asked.columns, None), metrics, answer))
    }
}
