//! The models by candle_nn, with those of its own functions that have a backward.

pub mod nn {
    //! candle_nn with its slow ways, which are made of ops with a backward.

    use candle_core::{Result, Tensor, D};
    pub use candle_nn::*;

    pub mod ops {
        use super::*;
        pub use candle_nn::ops::*;

        pub fn softmax_last_dim(x: &Tensor) -> Result<Tensor> {
            candle_nn::ops::softmax(x, D::Minus1)
        }
    }

    pub mod rotary_emb {
        pub use candle_nn::rotary_emb::rope_slow as rope;
    }

    /// A row of a picture: the gradients of candle's own `conv1d` are wrong (docs/candle-faults.md, 4 and 5).
    #[derive(Debug, Clone)]
    pub struct Conv1d(candle_nn::Conv1d);

    impl Module for Conv1d {
        fn forward(&self, x: &Tensor) -> Result<Tensor> {
            let Conv1dConfig { padding, stride, dilation, groups, .. } = *self.0.config();
            let kernel = self.0.weight().unsqueeze(2)?;
            let y = x.unsqueeze(2)?.conv2d(&kernel, padding, stride, dilation, groups)?;
            let y = y.narrow(2, padding, 1)?.squeeze(2)?;
            match self.0.bias() {
                Some(bias) => y.broadcast_add(&bias.unsqueeze(1)?),
                None => Ok(y),
            }
        }
    }

    pub fn conv1d(i: usize, o: usize, k: usize, config: Conv1dConfig, vb: VarBuilder) -> Result<Conv1d> {
        candle_nn::conv1d(i, o, k, config, vb).map(Conv1d)
    }

    #[derive(Debug, Clone)]
    pub struct LayerNorm(candle_nn::LayerNorm);

    impl Module for LayerNorm {
        fn forward(&self, x: &Tensor) -> Result<Tensor> {
            match self.0.bias() {
                Some(bias) => candle_nn::ops::layer_norm_slow(x, self.0.weight(), bias, self.0.eps() as f32),
                None => self.0.forward(x),
            }
        }
    }

    #[derive(Debug, Clone)]
    pub struct RmsNorm(candle_nn::RmsNorm);

    impl Module for RmsNorm {
        fn forward(&self, x: &Tensor) -> Result<Tensor> {
            candle_nn::ops::rms_norm_slow(x, self.0.weight(), self.0.eps() as f32)
        }
    }

    pub fn layer_norm(size: usize, eps: f64, vb: VarBuilder) -> Result<LayerNorm> {
        candle_nn::layer_norm(size, eps, vb).map(LayerNorm)
    }

    pub fn rms_norm(size: usize, eps: f64, vb: VarBuilder) -> Result<RmsNorm> {
        candle_nn::rms_norm(size, eps, vb).map(RmsNorm)
    }
}

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
