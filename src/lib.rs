//! The flight recorder for gradient descent: gradlog writes down, for every example that SGD visits, a small sketch of that
//! example's own gradient, its loss and what the model thought of it; afterwards, with no retraining, the log says which
//! training examples taught the model what it does, which are mislabelled, and which are never learned.
//!
//! # Wrapping a loop
//!
//! One line for each layer, five in the loop:
//!
//! ```
//! use candle_core::{DType, Device, Module, Tensor};
//! use candle_nn::{linear, Optimizer, VarBuilder, VarMap, SGD};
//! use gradlog_analysis::{Run, Score, Window};
//! use gradlog::recorder::{Config, Recorder};
//! use gradlog::taps::Taps;
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
//!     let grads = loss.backward()?;
//!     pass.commit(optimizer.learning_rate())?; // hands everything to the background thread
//!     optimizer.step(&grads)?;
//! }
//! recorder.finish()?; // the promise: everything committed is on disk
//!
//! let suspects = Score::SelfInfluence.compute(&Run::open(&dir)?, &Window::everything())?;
//! if let Some(row) = suspects.rows.first() {
//!     println!("most suspicious: example {}", row.example);
//! }
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look
//!
//! | module | what it is for |
//! |---|---|
//! | `taps` | layers that let one see each example's own gradient in one ordinary backward pass |
//! | `recorder` | what the loop holds: passes, losses, probes, the background thread |
//! | `optim` | SGD with momentum and weight decay, in place |
//! | [`sketch`] | projections and quantizers: whole gradients as short vectors |
//! | [`log`] | the files; specified in `src/log/FORMAT.md` |
//! | [`run`] | opening, checking and iterating a recorded run |
//! | [`analysis`] | TracIn, self-influence, forgetting, EL2N, GraNd, AUM and their kin |
//! | [`audit`] | scores against retraining: leave-one-out, linear datamodeling score, wrong labels, pruning |
//! | `connectivity` | error barriers between two sets of weights |
//! | [`cli`], [`report`] | the `gradlog` command |
//!
//! `taps`, `recorder`, `optim` and `connectivity` need the feature `candle`, which is on by default; everything else, the command among it, builds without.
//! `ARCHITECTURE.md` says why things are where they are.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod connectivity;
pub mod optim;
pub mod recorder;
pub mod taps;

pub use gradlog_format::{log, sketch};
