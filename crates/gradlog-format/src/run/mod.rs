//! A recorded run: the only door to what is on disk.
//!
//! Owns opening, checking, iterating and salvaging. Knows neither candle nor scores. A scan reads one block at a time
//! and of it only the columns that are asked for, so memory does not grow with the run. Files are read at positions
//! (`pread`), not mapped: a file that is cut while it is read gives an error and never a SIGBUS, and nothing here is unsafe.
//!
//! Bytes from disk never panic: every length is checked before it is believed, every checksum before a number is used.

mod block;
mod checkpoint;
mod directory;
mod error;
mod file;
mod live;
mod look;
mod lost;
mod merge;
mod open;
mod recover;
mod salvage;
mod scan;
mod steps;
mod superseded;
mod survey;
#[cfg(test)]
mod tests;
mod verify;
mod workers;

pub use block::{Block, Vectors};
pub use checkpoint::{Checkpoint, CheckpointFault};
pub use error::{Damage, ReadError};
pub use lost::Lost;
pub use merge::Scan;
pub use open::Run;
pub use recover::{RecoverError, RecoverReport};
pub use scan::PartScan;
pub use survey::{Survey, Tally};
pub use verify::VerifyReport;
pub use workers::{differences as worker_differences, WorkerState, Workers};
