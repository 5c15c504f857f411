//! `Embedding`: a linear layer with one-hot inputs. Its gradient touches only the rows that the example looked up.

use super::per_example::PerExample;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{bail, Module, Result, Tensor};
use candle_nn::Embedding;

impl Tap for Embedding {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        let parameters = vec![Parameter::new("weight", self.embeddings())];
        Ok(LayerSpec { kind: "embedding", parameters, factors: None, bias: false })
    }

    fn plain_forward(&self, ids: &Tensor) -> Result<Tensor> {
        Module::forward(self, ids)
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }

    fn per_example(&self, ids: &Tensor, delta: &Tensor) -> Result<PerExample> {
        let (rows, width) = self.embeddings().dims2()?;
        let Some(&batch) = ids.dims().first() else {
            bail!("an embedding's ids must have the batch as first dimension, not the shape {:?}", ids.shape());
        };
        let positions = ids.elem_count() / batch.max(1);
        Ok(PerExample::Rows {
            ids: ids.contiguous()?.reshape((batch, positions))?,
            deltas: delta.contiguous()?.reshape((batch, positions, width))?,
            rows,
        })
    }
}
