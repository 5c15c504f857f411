//! What the tests of several crates share: runs made up with gradlog's own writer, and tests that start themselves
//! again.
//!
//! For tests alone: everything here panics where something is not as it should be.

pub mod child;
mod synthetic;

pub use gradlog_format::sketch::Encoding;
pub use synthetic::*;
