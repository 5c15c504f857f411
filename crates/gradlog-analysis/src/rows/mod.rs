//! Reading a run row by row: which rows count, in which order they come, and what is read of them.
//!
//! Everything that computes something from a run reads it through this folder. `rule.rs` says which rows count,
//! `reader.rs` applies it to a block, `driver.rs` walks the blocks, and `left_out.rs` counts the rest by the reason.

pub(crate) use gradlog_format::run::column;

pub(crate) mod adam_norms;
pub(crate) mod adam_steps;
pub(crate) mod basis;
pub(crate) mod driver;
pub(crate) mod gradient;
pub(crate) mod inside;
pub(crate) mod last_labels;
pub(crate) mod layer_norms;
pub(crate) mod layer_rates;
pub(crate) mod left_out;
mod optimizer_model;
mod progress;
pub(crate) mod reader;
pub(crate) mod rule;
mod share;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;
mod untrained;
pub(crate) mod window;
pub(crate) mod wiring;

pub use basis::{Basis, BasisRows, GradientCoverage};
pub use left_out::LeftOut;
pub use optimizer_model::OptimizerModel;
pub use progress::Progress;
pub use share::ExampleShare;
pub use untrained::UntrainedLayers;
pub use window::{Source, Window};
pub use wiring::{EpochsBack, LabelChanges};
