//! gradlog records each training example's own gradient, loss and prediction while a candle model trains.
//!
//! Afterwards the log answers questions without retraining: which training examples taught the model an answer, which
//! are mislabeled, and which are never learned. The gradients are kept as small sketches.
//!
//! # Recording a loop
//!
//! Build the model of [`nn`] layers inside [`Taps::collect`], and add six lines to the loop:
//!
//! ```
//! use candle_core::{DType, Device, Module, Tensor};
//! use gradlog::nn::{linear, Optimizer, VarBuilder, VarMap, SGD}; // was candle_nn
//! use gradlog::{Config, Recorder, Taps};
//!
//! # let dir = std::env::temp_dir().join(format!("gradlog-doc-{}", std::process::id()));
//! # let (x, y) = (Tensor::randn(0f32, 1., (2, 4), &Device::Cpu)?, Tensor::new(&[0u32, 2], &Device::Cpu)?);
//! # let batches = vec![(vec![0u64, 1], x, y)];
//! let variables = VarMap::new();
//! let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let (model, taps) = Taps::collect(|| linear(4, 3, vb.pp("fc")))?;
//! let mut optimizer = SGD::new(variables.all_vars(), 0.1)?;
//!
//! let mut recorder = Recorder::create(&dir, &taps, Config::default())?;
//! for epoch in 0..2 {
//!     recorder.set_epoch(epoch);
//!     for (ids, x, y) in &batches {
//!         let mut pass = recorder.pass(ids)?; // arms the taps for one forward and backward
//!         let loss = pass.cross_entropy(&model.forward(x)?, y)?; // candle_nn's mean loss
//!         pass.backward_step(&mut optimizer, &loss)?; // backward, recording, optimizer step
//!     }
//! }
//! recorder.finish()?; // when it returns, everything committed is on disk
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Taps::tap`] taps one layer that you choose, under a name that you choose.
//!
//! On a new model, call [`Recorder::check_gradients`] on one batch first: it compares what is recorded with each
//! example alone, and says in words what does not fit.
//!
//! A loop that calls `loss.backward()` and `optimizer.step(&grads)` itself calls [`Pass::commit`] between the two.
//!
//! # What is where
//!
//! | item | purpose |
//! |---|---|
//! | [`Taps`], [`Tapped`], [`Tap`] | Register layers, wrap them, and add layers of other kinds. |
//! | [`nn`] | candle_nn's layers, which record themselves. |
//! | [`taps`] | Descriptions of layers. |
//! | [`ops`] | Faster `relu` and max-pooling. |
//! | [`Recorder`], [`Config`] | Record a run, and set its limits. |
//! | [`GradientCheck`], [`BatchRows`] | The verdict on one batch: are the recorded gradients each example's own? |
//! | [`Pass`], [`ProbePass`], [`CurvaturePass`], [`TangentPass`] | One forward and backward of examples or probes. |
//! | [`Replay`] | Runs examples through checkpoints after the training: those of a run, or from elsewhere. |
//! | [`CheckpointInfo`] | What is known of a checkpoint from elsewhere. |
//! | [`Guard`], [`Committed`], [`GuardEvent`] | What a commit says of large gradients, diverging losses and NaN. |
//! | [`Card`], [`CardLimits`] | What examples look like, for those who read the log. |
//! | [`StepInfo`], [`StepReport`] | What an optimizer reports about a step. |
//! | [`RecordError`] | Why something was not recorded. |
//! | [`Verdicts`] | What was judged in the page of `gradlog report`: which examples to drop, which labels to change. |
//! | [`ids`] | Ids of examples: what gives them, and ids from content. |
//! | [`optim`] | SGD with momentum and weight decay, in place. |
//! | [`connectivity`] | Error barriers between two sets of weights. |
//! | [`format`](mod@format) | The crate `gradlog-format`: the types of the log that this interface shows. |
//!
//! A *step* is one optimizer step; it has one pass or several. A *visit* is one example in one training pass. A *probe*
//! is an example to ask questions about; the model is not trained on it. A *sweep* takes training examples through a
//! checkpoint.
//!
//! The crate `gradlog-analysis` reads the log and computes scores and influence. The crate `gradlog-cli` has the
//! command `gradlog`. The log does not hold the exact squared norm of each layer's gradient. It would take 4 bytes for
//! each visit and layer: 54 to 108 bytes a visit in a small transformer.
//!
//! # Threads
//!
//! The training thread makes passes and sends them to a bounded queue. One background thread, named `gradlog`,
//! sketches, compresses and writes them in order. The two threads share the queue and a few counters. [`Taps`],
//! [`Tapped`] layers and errors are `Send` and `Sync`; a [`Recorder`] and a [`Replay`] can move to another thread.
//!
//! # Guest manners
//!
//! - Recording changes no loss and no weight, except by rounding. One exception helps: a tapped `LayerNorm` or
//!   `RmsNorm` has a gradient, which candle_nn 0.11's lacks.
//! - Nothing here panics in the training thread.
//! - Each wait of a call for the background thread ends after [`Config::wait_max`]. `flush` and `finish` may wait
//!   twice.
//! - At most [`Config::queue_bytes_max`] of tensors wait in the queue.
//! - After a failure of the background thread, the next `commit` returns it, and so does every later call. Under
//!   [`OnFailure::GoOn`] only `flush` and `finish` return it.
//!
//! # Shutdown
//!
//! When [`Recorder::finish`] returns `Ok`, everything committed is on disk. A recorder that is dropped instead writes
//! what it has within [`Config::wait_max`], ignores errors, and leaves a readable run.

#![warn(missing_docs)]
#![warn(missing_debug_implementations)]
#![cfg_attr(not(feature = "cuda"), forbid(unsafe_code))]
#![cfg_attr(feature = "cuda", deny(unsafe_code))]

pub mod connectivity;
pub mod ids;
pub mod nn;
pub mod ops;
pub mod optim;
mod recorder;
mod step;
pub mod taps;

pub use gradlog_format as format;
pub use gradlog_format::log::{
    Coupling, CouplingKind, EventAction, EventKind, FindingKind, LogError, Mode, PredictionScore,
};
pub use gradlog_format::run::Checkpoint;
pub use gradlog_format::sketch::{Encoding, Form, SketchConfig};
pub use gradlog_format::verdicts::{Judgment, Verdict, Verdicts, VerdictsError};
pub use recorder::{
    BatchRows, Card, CardLimits, CheckpointInfo, Committed, Config, Cost, CurvaturePass, CurvatureRows, Finding,
    Folding, GradientCheck, Guard, GuardEvent, OnBatchNorm, OnEvent, OnFailure, OnNonFinite, Overflow, Pass, ProbePass,
    RecordError, Recorder, RecordingSummary, Reduction, Replay, ReplaySummary, Reproduction, Sketching, TangentPass,
    TangentRows, Worker,
};
pub use step::{AdamStep, SecondMoments, StepInfo, StepReport, StepRule};
pub use taps::{Tap, Tapped, Taps};

/// Compile-time checks: what can move between threads, and what threads can share.
const _: () = {
    const fn assert_send<T: Send>() {}
    const fn assert_shareable<T: Send + Sync + 'static>() {}
    assert_send::<Recorder>();
    assert_send::<Replay>();
    assert_send::<Pass<'_>>();
    assert_send::<ProbePass<'_>>();
    assert_send::<CurvaturePass<'_>>();
    assert_send::<TangentPass<'_>>();
    assert_send::<optim::Sgd>();
    assert_shareable::<Config>();
    assert_shareable::<RecordError>();
    assert_shareable::<Committed>();
    assert_shareable::<taps::TapError>();
    assert_shareable::<connectivity::ConnectivityError>();
    assert_shareable::<Taps>();
    assert_shareable::<Tapped<candle_nn::Linear>>();
    assert_shareable::<nn::Linear>();
    assert_shareable::<nn::BatchNorm>();
    assert_shareable::<taps::Catch>();
    assert_shareable::<taps::PerExample>();
};
