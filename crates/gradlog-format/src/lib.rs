//! Reads and writes runs: recordings of the gradient of every example that a training visited.
//!
//! | module | holds |
//! |---|---|
//! | [`run`] | the reader: opens a run, checks it, iterates over its blocks, recovers it from damage |
//! | [`log`] | the file format, specified in `FORMAT.md`, and its writer |
//! | [`sketch`] | projections and encodings that turn a gradient into a short vector |
//! | [`frames`] | checked values one after another in a file that is no log |
//! | [`verdicts`] | the file in which somebody judged examples: keep, relabel or drop |
//!
//! This crate depends neither on candle nor on the analysis. To read a run, it is all you need:
//!
//! ```
//! use gradlog_format::log::{BlockKind, Column};
//! use gradlog_format::run::Run;
//!
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/v1");
//! # let mut visits = 0;
//! let run = Run::open(folder)?;
//! println!("{} layers, seed {}", run.manifest().layers.len(), run.manifest().seed);
//! let mut scan = run.scan();
//! for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Visits)) {
//!     let examples = block.u64s(Column::Example)?;
//!     let steps = block.u64s(Column::Step)?;
//!     let losses = block.f32s(Column::Loss)?;
//!     for row in 0..block.rows() {
//!         println!("step {}: example {}, loss {}", steps[row], examples[row], losses[row]);
//!     }
//! #     visits += block.rows();
//! }
//! if let Some(damage) = scan.damage()? {
//!     eprintln!("{damage}");
//! }
//! # assert!(visits > 0 && run.verify()?.visits == visits as u64);
//! # Ok::<(), gradlog_format::run::ReadError>(())
//! ```
//!
//! A *visit* is one example in one training pass. A *probe* is an example that questions are asked about. A *sweep*
//! takes training examples through the model at a checkpoint. A *step* is one step of the optimizer.

// A log is read and written while others train: no panic but on a broken promise of this crate itself.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic))]

pub mod frames;
pub mod log;
pub mod run;
pub mod sketch;
pub mod verdicts;
