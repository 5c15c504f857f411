//! Embeddings, as in `candle_nn::embedding`.

use super::built::built_layer;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

built_layer! {
    /// Rows of a table by their numbers. `candle_nn::Embedding`, recorded.
    ///
    /// Shapes: ids are `[batch, ..]`, the table is `[rows, width]`, the output is `[batch, .., width]`.
    Embedding(candle_nn::Embedding)
}

impl Embedding {
    /// Makes a layer of a table, `[rows, hidden_size]`.
    pub fn new(embeddings: Tensor, hidden_size: usize) -> Self {
        candle_nn::Embedding::new(embeddings, hidden_size).into()
    }

    /// The table, `[rows, hidden_size]`.
    pub fn embeddings(&self) -> &Tensor {
        self.inner().embeddings()
    }

    /// Numbers in a row.
    pub fn hidden_size(&self) -> usize {
        self.inner().hidden_size()
    }
}

/// An embedding with the variable `weight` of `vb`.
///
/// # Errors
/// candle's error.
pub fn embedding(in_size: usize, out_size: usize, vb: VarBuilder<'_>) -> Result<Embedding> {
    Ok(Embedding::at(&vb, candle_nn::embedding(in_size, out_size, vb.clone())?))
}
