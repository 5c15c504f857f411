//! The exact per-example gradients of one layer, one example at a time: for checks.

use super::fused::with_slice;
use super::gradient::{add, move_to_host, read_f32, HostUse};
use super::per_example::PerExample;
use candle_core::{bail, DType, Device, Result};

/// The gradients of all uses of a layer in a pass, before any sketch. It holds what [`PerExample`] holds, and makes
/// one example's whole gradient at a time.
pub(crate) struct ExactGradients {
    uses: Vec<Use>,
    batch: usize,
    parameters: usize,
}

enum Use {
    Whole(HostUse),
    Rows { ids: Vec<u32>, deltas: Vec<f32>, positions: usize, width: usize },
}

impl ExactGradients {
    /// Takes what [`Tap::per_example`](super::Tap::per_example) returned for each use.
    ///
    /// # Errors
    /// If the shapes do not fit a batch of `batch` examples and a layer of `parameters` numbers.
    pub(crate) fn new(uses: &[PerExample], parameters: usize, batch: usize) -> Result<Self> {
        let uses = uses.iter().map(|one| match one {
            PerExample::Rows { ids, deltas, rows } => {
                let (found, positions, width) = deltas.dims3()?;
                if found != batch || ids.dims() != [batch, positions] || rows * width != parameters {
                    bail!(
                        "rows of shape {:?} at ids of shape {:?} do not fit a batch of {batch}",
                        deltas.shape(),
                        ids.shape()
                    );
                }
                let ids = ids.to_device(&Device::Cpu)?.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()?;
                if let Some(id) = ids.iter().find(|id| **id as usize >= *rows) {
                    bail!("row {id} is outside a table of {rows} rows");
                }
                Ok(Use::Rows { ids, deltas: read_f32(deltas)?, positions, width })
            }
            other => Ok(Use::Whole(HostUse::new(other, batch, parameters)?)),
        });
        Ok(Self { uses: uses.collect::<Result<_>>()?, batch, parameters })
    }

    /// The whole gradient of one example, the sum over all uses. All zeros for an example that is not in the batch.
    pub(crate) fn example(&self, example: usize) -> Vec<f32> {
        let mut gradient = vec![0f32; self.parameters];
        for one in self.uses.iter().filter(|_| example < self.batch) {
            match one {
                Use::Whole(whole) => whole.add(example, &mut gradient),
                Use::Rows { ids, deltas, positions, width } => {
                    let own = example * positions..(example + 1) * positions;
                    let rows = deltas[own.start * width..own.end * width].chunks_exact((*width).max(1));
                    for (id, delta) in ids[own].iter().zip(rows) {
                        add(&mut gradient[*id as usize * width..][..*width], delta);
                    }
                }
            }
        }
        gradient
    }
}

/// The numbers of row `row` of a tensor whose first dimension is the batch, as f32.
pub(crate) fn read_row(tensor: &candle_core::Tensor, row: usize) -> Result<Vec<f32>> {
    with_slice(&move_to_host(&tensor.narrow(0, row, 1)?)?, |values| Ok(values.to_vec()))
}
