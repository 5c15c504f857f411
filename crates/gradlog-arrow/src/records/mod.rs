//! The rows of a log as record batches: visits, sweeps, probes, steps, gaps, events, checkpoints, checks,
//! cards.
//!
//! A table always has the same columns. What a run did not record is null in it.

mod cards;
mod cell;
#[cfg(test)]
mod document;
mod gradients;
mod lists;
mod read;
mod stream;
mod tables;
#[cfg(test)]
mod tests;

pub use read::{RecordQuestion, RecordsRead};
pub use stream::RecordStream;
pub use tables::Record;
