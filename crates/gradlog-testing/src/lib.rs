//! What the tests of several crates share: made-up runs, and tests that start themselves again in a child.
//!
//! For tests alone: everything here panics if something is wrong.

pub mod child;
mod synthetic;
mod visits;

pub use gradlog_format::sketch::Encoding;
pub use synthetic::*;
pub use visits::*;
