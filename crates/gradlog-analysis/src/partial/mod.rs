//! Answers of several machines: each answers for a share of the examples, and the parts are put together again.
//!
//! A score of an example is a sum over all of its visits, and its rank is one among all examples. So a machine reads
//! all visits of its own examples, and the merge sorts. What is no sum over examples is the same in each part, and is
//! compared: parts that differ in it are refused.

mod answer;
mod error;
mod file;
mod merge;
#[cfg(test)]
mod tests;

pub use answer::{AskedRun, PartialAnswer};
pub use error::{MergeError, PartFileError};
pub use merge::{MergedAnswer, WholeAnswer};
