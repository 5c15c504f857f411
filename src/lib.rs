//! The flight recorder for gradient descent: gradlog writes down, for every example that SGD visits, a small sketch of that
//! example's own gradient, its loss and the model's prediction. Afterwards, with no retraining, the log says which training
//! examples taught the model what it does, which are mislabeled, and which are never learned.
//!
//! # Wrapping a loop
//!
//! One line for each layer, five in the loop:
//!
//! ```
//! use candle_core::{DType, Device, Module, Tensor};
//! use candle_nn::{linear, Optimizer, VarBuilder, VarMap, SGD};
//! use gradlog::{Config, Recorder, Taps};
//!
//! # let dir = std::env::temp_dir().join(format!("gradlog-doc-{}", std::process::id()));
//! # let batches = vec![(vec![0u64, 1], Tensor::randn(0f32, 1., (2, 4), &Device::Cpu)?, Tensor::new(&[0u32, 2], &Device::Cpu)?)];
//! let variables = VarMap::new();
//! let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let taps = Taps::new();
//! let model = taps.tap("fc", linear(4, 3, vb.pp("fc"))?);
//! let mut optimizer = SGD::new(variables.all_vars(), 0.1)?;
//!
//! let mut recorder = Recorder::create(&dir, &taps, Config::default())?;
//! for (ids, x, y) in batches {
//!     let mut pass = recorder.pass(&ids)?; // arms the taps for one forward and backward
//!     let loss = pass.cross_entropy(&model.forward(&x)?, &y)?; // candle_nn's mean loss
//!     pass.backward_step(&mut optimizer, &loss)?; // hands everything to the background thread, and takes the step
//! }
//! recorder.finish()?; // the promise: everything committed is on disk
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A loop that calls `loss.backward()` and `optimizer.step(&grads)` itself calls [`Pass::commit`] between the two.
//!
//! # Where to look
//!
//! | item | what it is for |
//! |---|---|
//! | [`Taps`] | Registers the layers whose gradients are recorded. The module [`taps`] has the layers. |
//! | [`Recorder`] | What the loop holds. Its page has the threads and the guarantees. |
//! | [`Pass`], [`ProbePass`] | One forward and backward over training examples, or over probes. |
//! | [`Replay`] | Takes examples through the checkpoints of a run, after the training. |
//! | [`StepReport`] | What an optimizer reports about its steps. |
//! | [`optim`] | SGD with momentum and weight decay, in place. |
//! | [`connectivity`] | Error barriers between two sets of weights. |
//!
//! A *visit* is one example in one training pass. A *probe* is an example that one asks questions about; it is not trained on.
//!
//! The crate `gradlog-analysis` reads the log and computes scores and influence; `gradlog-cli` is the command. The exact squared
//! norm of each layer's gradient is not recorded: it would take 4 bytes a visit and layer, 54 to 108 in a small transformer.

#![warn(missing_docs)]
#![warn(missing_debug_implementations)]
#![forbid(unsafe_code)]

pub mod connectivity;
pub mod optim;
mod recorder;
mod step;
pub mod taps;

pub use gradlog_format::log::{LogError, Mode, PredictionScore};
pub use gradlog_format::run::Checkpoint;
pub use gradlog_format::sketch::{Encoding, Form, SketchConfig};
pub use recorder::{
    Config, Cost, CurvaturePass, CurvatureRows, OnFailure, Overflow, Pass, ProbePass, RecordError, Recorder,
    RecordingSummary, Reduction, Replay, ReplaySummary, Worker,
};
pub use step::{StepInfo, StepReport};
pub use taps::{Tap, Tapped, Taps};
