//! The models by candle_nn.

pub use candle_nn as nn;

#[path = "shapes/autoencoder.rs"]
pub mod autoencoder;
#[path = "shapes/cnn.rs"]
pub mod cnn;
#[path = "shapes/llama.rs"]
pub mod llama;
#[path = "shapes/mlp.rs"]
pub mod mlp;
#[path = "shapes/nanogpt.rs"]
pub mod nanogpt;
#[path = "shapes/sequence.rs"]
pub mod sequence;
#[path = "shapes/tagger.rs"]
pub mod tagger;
