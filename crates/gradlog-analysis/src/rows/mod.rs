//! Reading a run row by row: which rows count, in which order they come, and what of them is read.
//!
//! Everything that computes something from a run reads it through this folder.

pub(crate) mod column;
pub(crate) mod driver;
pub(crate) mod gradient;
pub(crate) mod last_labels;
pub(crate) mod sweep;
pub(crate) mod window;

pub use driver::Progress;
pub use sweep::Basis;
pub use window::{Source, Window};
