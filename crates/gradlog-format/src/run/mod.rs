//! Reads a recorded run: opening, checking, iterating, and recovery from damage.
//!
//! [`Run::open`] opens a run, [`Run::scan`] iterates over its blocks, and a [`Block`] reads the columns that are asked
//! for. A scan holds one block at a time, so memory does not grow with the run.
//!
//! A run lies in a [`Place`]: on this machine ([`Local`]), or wherever somebody implements that trait, such as an
//! object store ([`Run::open_in`]).
//!
//! Bytes from disk never cause a panic. Every length is checked before it is used, and every checksum before a number
//! is used. Files are read at positions (`pread`) and not mapped. If a file is cut while it is read, that is an error
//! and not a SIGBUS. Nothing here is unsafe.

mod block;
mod cards;
mod checkpoint;
mod checks;
mod directory;
mod error;
mod events;
mod file;
mod half_written;
mod handle;
mod live;
mod look;
mod lost;
mod merge;
mod open;
mod place;
mod probe_sets;
mod recover;
mod resumptions;
mod salvage;
mod scan;
mod steps;
mod structure;
mod superseded;
mod survey;
#[cfg(test)]
mod tests;
mod unite;
mod vectors;
mod verify;
mod workers;

pub use block::{Block, ColumnSize};
pub use cards::{CardContent, CardRecord, CardRows};
pub use checkpoint::{Checkpoint, CheckpointFault};
pub use checks::CheckRecord;
pub use error::{Damage, Newer, ReadError};
pub use events::EventRecord;
pub use handle::Run;
pub use lost::Lost;
pub use merge::Scan;
pub use place::{Local, Place, ReadAt};
pub use recover::{RecoverError, RecoverReport};
pub use scan::PartScan;
pub use survey::{Survey, Tally};
pub use unite::differences as worker_differences;
pub use vectors::{Origin, Vectors};
pub use verify::{GapCounts, VerifyReport};
pub use workers::{WorkerState, Workers};
