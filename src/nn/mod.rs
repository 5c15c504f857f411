//! candle_nn's layers, which record themselves: the same names and signatures, so that a model's code does not change.
//!
//! Replace `candle_nn` by `gradlog::nn` in the model's `use` lines, and build the model inside
//! [`Taps::collect`](crate::Taps::collect):
//!
//! ```
//! use candle_core::{DType, Device, Module, Tensor};
//! use gradlog::nn::{linear, seq, Optimizer, VarBuilder, VarMap, SGD}; // was candle_nn
//! use gradlog::{Config, Recorder, Taps};
//!
//! # let dir = std::env::temp_dir().join(format!("gradlog-nn-doc-{}", std::process::id()));
//! # let (x, y) = (Tensor::randn(0f32, 1., (2, 4), &Device::Cpu)?, Tensor::new(&[0u32, 2], &Device::Cpu)?);
//! let variables = VarMap::new();
//! let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let (model, taps) = Taps::collect(|| {
//!     let hidden = linear(4, 8, vb.pp("hidden"))?; // recorded as `hidden`
//!     candle_core::Result::Ok(seq().add(hidden).add_fn(|x| x.relu()).add(linear(8, 3, vb.pp("out"))?))
//! })?;
//! taps.declare_model(&variables);
//! let mut optimizer = SGD::new(variables.all_vars(), 0.1)?;
//! let mut recorder = Recorder::create(&dir, &taps, Config::default())?;
//! let mut pass = recorder.pass(&[17, 4])?;
//! let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
//! pass.backward_step(&mut optimizer, &loss)?;
//! recorder.finish()?;
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What differs from candle_nn 0.11
//!
//! * Layers run as one op with its own backward, on the CPU in f32, whether or not anything records.
//! * [`LayerNorm`], [`RmsNorm`], [`ops::softmax_last_dim`], [`ops::layer_norm`], [`ops::rms_norm`] and [`rotary_emb`]
//!   have a backward. In candle_nn the gradient ends there without a warning.
//! * [`ConvTranspose1d`] has a backward, and the right output for several examples. candle_nn's has neither.
//! * [`LSTM`] and [`GRU`] run all steps as one op. [`Elman`] is a plain recurrent layer, which candle_nn lacks.
//! * `Debug` of a layer prints its kind and not its numbers.
//! * [`BatchNorm`] in training mode is candle's. [`Config::on_batch_norm`](crate::Config::on_batch_norm) decides
//!   whether it is refused. In evaluation mode its weight and bias are recorded.
//!
//! [`lora`] has what candle_nn lacks: a frozen layer with a small trained correction.
//!
//! All else is candle_nn's own item: activations, losses, optimizers, `VarBuilder`, caches.
//!
//! # Which layers are recorded
//!
//! Those that are built on the calling thread while [`Taps::collect`](crate::Taps::collect) runs, and that have a
//! trained variable. Use candle_nn's own type for a layer that must not be recorded. A layer that is built outside
//! `collect` computes the same and is not recorded.

pub mod activation;
pub mod batch_norm;
mod built;
pub mod conv;
pub mod embedding;
pub mod group_norm;
pub mod layer_norm;
pub mod learned_tensor;
pub mod linear;
pub mod lora;
pub mod ops;
pub mod rnn;
pub mod rotary_emb;
pub mod with_tracing;

pub use activation::{prelu, Activation, PReLU};
pub use batch_norm::{batch_norm, BatchNorm, BatchNormConfig};
pub use candle_nn::{
    attention, cpu_flash_attention, encoding, func, func_t, init, kv_cache, loss, moe, optim, sampling, seq,
    sequential, var_builder, var_map, varlen_attention, AdamW, Dropout, Func, FuncT, Init, Module, ModuleT, Optimizer,
    ParamsAdamW, Sequential, VarBuilder, VarMap, SGD,
};
pub use conv::{
    conv1d, conv1d_no_bias, conv2d, conv2d_no_bias, conv_transpose1d, conv_transpose1d_no_bias, conv_transpose2d,
    conv_transpose2d_no_bias, Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig,
    ConvTranspose2d, ConvTranspose2dConfig,
};
pub use embedding::{embedding, Embedding};
pub use group_norm::{group_norm, GroupNorm};
pub use layer_norm::{layer_norm, layer_norm_no_bias, rms_norm, LayerNorm, LayerNormConfig, RmsNorm};
pub use learned_tensor::{learned_tensor, LearnedTensor};
pub use linear::{linear, linear_b, linear_no_bias, Linear};
pub use lora::{lora_linear, lora_linear_no_bias, LoraConfig, LoraLinear};
pub use rnn::{elman, gru, lstm, Elman, ElmanConfig, GRUConfig, LSTMConfig, GRU, LSTM, RNN};
