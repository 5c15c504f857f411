//! The layers of `candle_transformers::models::with_tracing`, which its model files use, recorded.
//!
//! A copied model file needs these lines in the place of its own:
//!
//! ```
//! use gradlog::nn as candle_nn; // `candle_nn::Dropout`, `candle_nn::ops::softmax_last_dim`, ...
//! use gradlog::nn::with_tracing::{layer_norm, linear, Embedding, LayerNorm, Linear};
//! # let _ = (layer_norm::<f64>, linear, candle_nn::seq);
//! # fn takes(_: Embedding, _: LayerNorm, _: Linear) {}
//! ```
//!
//! There are no spans of `tracing` here, and no `QMatMul`: quantized weights are not trained.

use super::embedding;
use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

pub use super::{conv2d, layer_norm, linear, linear_b, linear_no_bias, Conv2d, LayerNorm, Linear};

/// Rows of a table by their numbers, with the constructors of `with_tracing::Embedding`.
#[derive(Debug, Clone)]
pub struct Embedding(embedding::Embedding);

impl Embedding {
    /// An embedding of `d1` rows of width `d2`, with the variable `weight` of `vb`.
    ///
    /// # Errors
    /// candle's error.
    pub fn new(d1: usize, d2: usize, vb: VarBuilder<'_>) -> Result<Self> {
        embedding::embedding(d1, d2, vb).map(Self)
    }

    /// An embedding of a table, `[rows, width]`.
    ///
    /// # Errors
    /// candle's error, if the table has not two dimensions.
    pub fn from_weights(weights: Tensor) -> Result<Self> {
        let (_, width) = weights.dims2()?;
        Ok(Self(embedding::Embedding::new(weights, width)))
    }

    /// The table, `[rows, width]`.
    pub fn embeddings(&self) -> &Tensor {
        self.0.embeddings()
    }
}

impl Module for Embedding {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.0.forward(ids)
    }
}

/// The RMS norm, with the constructor of `with_tracing::RmsNorm`.
#[derive(Debug, Clone)]
pub struct RmsNorm(super::RmsNorm);

impl RmsNorm {
    /// An RMS norm of width `size`, with the variable `weight` of `vb`.
    ///
    /// # Errors
    /// candle's error.
    pub fn new(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        super::rms_norm(size, eps, vb).map(Self)
    }

    /// The same as `forward`, which has a backward here.
    ///
    /// # Errors
    /// candle's error.
    pub fn forward_diff(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}
