//! The recorder: passes, losses, the queue and the background thread. `gradlog-format` knows the bytes on disk.
//!
//! The lowest layer is messages and the queue. The state on the training's side uses them, and passes use the state.
//! The background thread has the rows, the log's state and the loop. No file imports this one: it only re-exports names
//! for the crate's root.

mod begin;
mod bundle;
mod cards;
mod check;
mod checkpoint;
mod classifier;
mod collect;
mod config;
mod copies;
mod cost;
mod curvature;
mod describe;
mod device_loss;
mod elsewhere;
mod error;
mod fence;
mod fill;
mod flow;
mod folding;
mod gaps;
mod guard;
mod handle;
mod head;
mod held;
mod last_words;
mod later;
mod layer_moments;
mod layer_rates;
mod log_state;
mod logits;
mod loss;
mod loss_methods;
mod manifest;
mod message;
mod metric;
mod missed;
mod moments;
mod non_finite;
mod numbers;
mod outputs;
mod own_losses;
mod pass;
mod pass_core;
mod past;
mod per_example;
// The calls of CUDA's driver.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod pinned;
mod preconditioner;
mod prediction;
mod probe_pass;
mod queue;
mod reach;
mod replay;
mod replayed_weights;
mod reproduction;
mod row_keys;
mod rows;
mod saved_ids;
mod shared;
mod sketcher;
mod start;
mod state;
mod statistics;
mod tangents;
mod targets;
mod thread;
mod vector_rows;
mod watch;
mod workers;

pub use cards::{Card, CardLimits};
pub use check::{BatchRows, Finding, GradientCheck};
pub use config::{Config, OnBatchNorm, OnFailure, OnNonFinite, Overflow, Sketching, Worker};
pub use cost::{Cost, RecordingSummary};
pub use curvature::{CurvaturePass, CurvatureRows};
pub use elsewhere::CheckpointInfo;
pub use error::RecordError;
pub use folding::Folding;
pub use guard::{Committed, Guard, GuardEvent, OnEvent};
pub use handle::Recorder;
pub use outputs::Reduction;
pub use pass::Pass;
pub use probe_pass::ProbePass;
pub use replay::{Replay, ReplaySummary};
pub use reproduction::Reproduction;
pub use tangents::{TangentPass, TangentRows};
