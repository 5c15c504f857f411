//! The codec that DataFusion asks for what it does not know itself.

use super::nodes;
use super::runs::Runs;
use super::wire::Node;
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use std::sync::Arc;

/// Writes and reads the plan nodes of gradlog. Aggregate functions travel by their names, and are those of the session
/// that reads them.
#[derive(Debug)]
pub(super) struct NodeCodec {
    runs: Arc<Runs>,
}

impl NodeCodec {
    pub fn new(runs: Arc<Runs>) -> Self {
        Self { runs }
    }
}

impl PhysicalExtensionCodec for NodeCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let node = Node::read(bytes)?;
        // Opening a run reads the headers of its blocks.
        tokio::task::block_in_place(|| nodes::decode(node, inputs, &self.runs))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        match nodes::encode(node.as_ref())? {
            Some(found) => Ok(found.write(bytes)?),
            None => internal_err!("{} cannot be sent to a worker", node.name()),
        }
    }
}
