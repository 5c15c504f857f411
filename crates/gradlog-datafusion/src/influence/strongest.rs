//! The plan node that merges the shares: of each probe, the strongest of all of them.

use crate::rows::properties;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{RecordBatch, UInt64Array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, PlanProperties,
};
use futures_util::{StreamExt, TryStreamExt};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Keeps of each probe the `top` examples that helped most, and the `top` that hurt most.
///
/// It holds `2·top` rows of each probe and share.
#[derive(Debug)]
pub(crate) struct StrongestExec {
    input: Arc<dyn ExecutionPlan>,
    top: usize,
    properties: Arc<PlanProperties>,
}

impl StrongestExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, top: usize) -> Self {
        let properties = properties(input.schema(), 1);
        Self { input, top, properties }
    }

    #[cfg(feature = "cluster")]
    pub fn top(&self) -> usize {
        self.top
    }
}

impl DisplayAs for StrongestExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StrongestExec: top={}", self.top)
    }
}

impl ExecutionPlan for StrongestExec {
    fn name(&self) -> &str {
        "StrongestExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) => Ok(Arc::new(Self::new(input, self.top))),
            None => Ok(self),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (schema, top) = (self.schema(), self.top);
        let input = self.input.execute(partition, context)?;
        let merged = async move {
            let batches: Vec<RecordBatch> = input.try_collect().await?;
            strongest(&concat_batches(&schema, &batches)?, top)
        };
        let stream = futures_util::stream::once(merged).boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

/// The strongest rows of each probe, in the order of `gradlog influence`.
fn strongest(rows: &RecordBatch, top: usize) -> Result<RecordBatch> {
    let examples = rows["example"].as_primitive::<UInt64Type>();
    let probes = rows["probe"].as_primitive::<UInt64Type>();
    let scores = rows["score"].as_primitive::<Float64Type>();
    let mut of_probe: BTreeMap<u64, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let (helped, hurt) = of_probe.entry(probes.value(row)).or_default();
        match scores.value(row).partial_cmp(&0.0) {
            Some(Ordering::Greater) => helped.push(row),
            Some(Ordering::Less) => hurt.push(row),
            _ => {}
        }
    }
    let order = |a: &usize, b: &usize| {
        let by_score = scores.value(*b).total_cmp(&scores.value(*a));
        by_score.then_with(|| examples.value(*a).cmp(&examples.value(*b)))
    };
    let mut kept: Vec<usize> = Vec::new();
    for (mut helped, mut hurt) in of_probe.into_values() {
        helped.sort_by(order);
        hurt.sort_by(order);
        kept.extend(helped.iter().take(top));
        kept.extend(&hurt[hurt.len().saturating_sub(top)..]);
    }
    let kept: UInt64Array = kept.into_iter().map(|row| row as u64).collect();
    Ok(take_record_batch(rows, &kept)?)
}
