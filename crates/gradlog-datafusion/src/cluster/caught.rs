//! A stage of a plan whose panics are errors, and whose errors of a run say of which worker they are.
//!
//! datafusion-distributed 4.0 ends the stream of a task that panics as if it were whole, and the client would take the
//! rows before that for all rows.

use super::runs::damaged;
use crate::SqlError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use datafusion_distributed::BroadcastExec;
use futures_util::StreamExt;
use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// The same stage, with errors for panics. `worker` is what they call this worker.
pub(super) fn caught(plan: Arc<dyn ExecutionPlan>, worker: &str) -> Result<Arc<dyn ExecutionPlan>> {
    // The engine takes such a node from the top, and sets another one there.
    if plan.is::<RepartitionExec>() || plan.is::<BroadcastExec>() {
        let below: Result<Vec<_>> = plan.children().into_iter().map(|child| caught(child.clone(), worker)).collect();
        return plan.replace_children(below?, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute));
    }
    Ok(Arc::new(CaughtExec { plan, worker: worker.to_owned() }))
}

/// Wraps another node. Code that asks for its type, its name or its children gets those of the wrapped one.
#[derive(Debug)]
struct CaughtExec {
    plan: Arc<dyn ExecutionPlan>,
    worker: String,
}

impl DisplayAs for CaughtExec {
    fn fmt_as(&self, form: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan.fmt_as(form, f)
    }
}

impl ExecutionPlan for CaughtExec {
    fn name(&self) -> &str {
        self.plan.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.plan.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.plan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.plan.children()
    }

    fn apply_expressions(
        &self,
        each: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.plan.apply_expressions(each)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        let plan = self.plan.clone().replace_children(children, options)?;
        Ok(Arc::new(Self { plan, worker: self.worker.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let worker = self.worker.clone();
        let begin = || self.plan.execute(partition, context);
        let stream = std::panic::catch_unwind(AssertUnwindSafe(begin))
            .unwrap_or_else(|panic| Err(panicked(&worker, panic.as_ref())))
            .map_err(|error| named(error, &worker))?;
        // A stream that panicked is not asked for more.
        let rows = AssertUnwindSafe(stream).catch_unwind().map(move |rows| {
            let rows = rows.unwrap_or_else(|panic| Err(panicked(&worker, panic.as_ref())));
            rows.map_err(|error| named(error, &worker))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.plan.metrics()
    }
}

/// An error of the copy of a run that a worker has, with the worker. An error that came from another worker is text.
fn named(error: DataFusionError, worker: &str) -> DataFusionError {
    let named = match SqlError::find(&error) {
        Some(SqlError::Damaged(damage)) => damaged(worker, damage),
        Some(found @ (SqlError::Read(_) | SqlError::Changed { .. })) => {
            SqlError::Cluster { what: format!("worker {worker}: {found}") }
        }
        _ => return error,
    };
    named.into()
}

/// The error for a panic, with what it was called with.
fn panicked(worker: &str, panic: &(dyn Any + Send)) -> DataFusionError {
    let text = panic.downcast_ref::<&str>().copied();
    let words = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why");
    DataFusionError::Execution(format!("worker {worker}: the query panicked: {words}"))
}
