//! DistilBERT with a classifier of the whole text behind it.

use crate::data::{FILL, LENGTH};
use crate::distilbert::{Config, DistilBertModel};
use anyhow::Result;
use candle_core::{Tensor, D};
use gradlog::nn::{linear, Linear, Module, VarBuilder};

const CLASSES: usize = 2;
/// The numbers behind those of the words: what a text begins with, and what hides a word.
pub const CLS: usize = 0;
pub const MASK: usize = 1;

/// What stands in the `config.json` of a published model.
pub fn config(words: usize) -> Result<Config> {
    Ok(serde_json::from_value(serde_json::json!({
        "model_type": "distilbert",
        "vocab_size": words + 2,
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 128,
        "activation": "gelu",
        "max_position_embeddings": LENGTH + 1,
        "initializer_range": 0.02,
        "pad_token_id": FILL,
    }))?)
}

pub struct Classifier {
    body: DistilBertModel,
    head: Linear,
    words: usize,
}

impl Classifier {
    pub fn load(vb: VarBuilder<'_>, config: &Config) -> candle_core::Result<Self> {
        Ok(Self {
            body: DistilBertModel::load(vb.pp("distilbert"), config)?,
            head: linear(config.dim, CLASSES, vb.pp("classifier"))?,
            words: config.vocab_size - 2,
        })
    }

    /// Word numbers `[batch, words]` to logits `[batch, 2]`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (x, hidden) = begin(x, self.words)?;
        self.head.forward(&self.body.forward(&x, &hidden)?.narrow(1, 0, 1)?.squeeze(1)?)
    }
}

/// Puts [`CLS`] before each text. Also returns which places nothing may look at, `[batch, 1, 1, places]`.
pub fn begin(x: &Tensor, words: usize) -> candle_core::Result<(Tensor, Tensor)> {
    let first = Tensor::full((words + CLS) as u32, (x.dim(0)?, 1), x.device())?;
    let x = Tensor::cat(&[&first, x], D::Minus1)?;
    let hidden = x.eq(FILL)?.unsqueeze(1)?.unsqueeze(1)?;
    Ok((x, hidden))
}
