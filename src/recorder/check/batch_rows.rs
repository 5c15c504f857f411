//! The rows of a batch that a check runs: all of them, or one.

use candle_core::{bail, Result, Tensor};

/// The rows of the batch that [`Recorder::check_gradients`](crate::Recorder::check_gradients) runs: all of them, or one
/// example alone. The closure takes its inputs and targets through it.
#[derive(Debug, Clone)]
pub struct BatchRows {
    positions: Vec<usize>,
    ids: Vec<u64>,
    batch: usize,
}

impl BatchRows {
    pub(super) fn all(ids: &[u64]) -> Self {
        Self { positions: (0..ids.len()).collect(), ids: ids.to_vec(), batch: ids.len() }
    }

    pub(super) fn one(ids: &[u64], position: usize) -> Self {
        Self { positions: vec![position], ids: vec![ids[position]], batch: ids.len() }
    }

    /// The rows of `tensor`, whose first dimension is the batch.
    ///
    /// # Errors
    /// candle's error, if the first dimension is not the batch.
    pub fn of(&self, tensor: &Tensor) -> Result<Tensor> {
        match *tensor.dims() {
            [batch, ..] if batch == self.batch => {}
            _ => bail!(
                "a check of {} ids got a tensor of shape {:?}: give tensors with the batch as first dimension",
                self.batch,
                tensor.shape()
            ),
        }
        match self.positions[..] {
            [position] => tensor.narrow(0, position, 1)?.force_contiguous(),
            _ => Ok(tensor.clone()),
        }
    }

    /// The values of the rows, of a list with one value for each example of the batch: for weights and ids of your own.
    /// Values that the list lacks are left out.
    pub fn pick<T: Clone>(&self, values: &[T]) -> Vec<T> {
        self.positions.iter().filter_map(|position| values.get(*position).cloned()).collect()
    }

    /// The ids of the rows.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// The places of the rows in the batch, from 0.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether there is no row. There always is one.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }
}
