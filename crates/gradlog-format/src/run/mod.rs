//! Reads a recorded run: opening, checking, iterating, and recovery from damage.
//!
//! [`Run::open`] opens a run, [`Run::scan`] iterates over its blocks, and a [`Block`] reads the columns that are asked
//! for. A scan holds one block at a time, so memory does not grow with the run.
//!
//! Bytes from disk never cause a panic. Every length is checked before it is used, and every checksum before a number
//! is used. Files are read at positions (`pread`) and not mapped. If a file is cut while it is read, that is an error
//! and not a SIGBUS. Nothing here is unsafe.

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

pub use block::{Block, ColumnSize, Vectors};
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
