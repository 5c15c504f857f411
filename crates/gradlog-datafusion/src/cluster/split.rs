//! How many workers read a leaf, and which partitions each of them reads.

use super::parts::PartsExec;
use crate::influence::InfluenceExec;
use crate::record_scan::RecordScanExec;
use crate::scores::ScoresExec;
use datafusion::error::Result;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DistributedLeafExec, ScaleUpLeafNodeEvent,
    ScaleUpLeafNodeEventResponse,
};
use std::sync::Arc;

/// A leaf of gradlog goes to as many workers as it has partitions. One with a single partition stays whole: the nodes
/// above it rely on seeing all of its rows.
pub(super) fn tasks(event: DesiredTaskCountEvent<'_>) -> Option<Result<DesiredTaskCountEventResponse>> {
    deal(event.plan, 1)?;
    Some(Ok(match event.plan.output_partitioning().partition_count() {
        0 | 1 => DesiredTaskCountEventResponse::maximum(1),
        partitions => DesiredTaskCountEventResponse::desired(partitions),
    }))
}

/// Makes of a leaf one for each task.
pub(super) fn scale_up(event: ScaleUpLeafNodeEvent<'_>) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
    let leaves = deal(event.plan, event.task_count)?;
    if event.task_count < 2 {
        return None;
    }
    let dealt = DistributedLeafExec::try_new(event.plan.clone(), leaves);
    Some(dealt.map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf))))
}

/// The same leaf for some tasks: each partition is in one of them. `None` if it is not a leaf of gradlog.
pub(super) fn deal(plan: &Arc<dyn ExecutionPlan>, tasks: usize) -> Option<Vec<Arc<dyn ExecutionPlan>>> {
    fn all<T: ExecutionPlan + 'static>(nodes: Vec<T>) -> Option<Vec<Arc<dyn ExecutionPlan>>> {
        Some(nodes.into_iter().map(|node| Arc::new(node) as Arc<dyn ExecutionPlan>).collect())
    }
    if let Some(scan) = plan.downcast_ref::<RecordScanExec>() {
        return all(scan.deal(tasks));
    }
    if let Some(scores) = plan.downcast_ref::<ScoresExec>() {
        return all(scores.deal(tasks));
    }
    if let Some(influence) = plan.downcast_ref::<InfluenceExec>() {
        return all(influence.deal(tasks));
    }
    all(plan.downcast_ref::<PartsExec>()?.deal(tasks))
}
