//! Why a run was not compacted.

use crate::log::LogError;
use crate::run::buckets::BUCKETS_MAX;
use crate::run::{Damage, ReadError};
use std::io;
use std::path::PathBuf;

/// Why a run was not compacted. Nothing is left at its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// A number of buckets that no run has.
    #[error("{given} buckets: there are 1 to {BUCKETS_MAX}")]
    Buckets {
        /// The number.
        given: u32,
    },
    /// Something is in the way.
    #[error("{path} is there already: give the name of a new folder")]
    Exists {
        /// Where the new run was to be.
        path: PathBuf,
    },
    /// A recorder writes to the run.
    #[error("{path} is being written by a recorder: compact it when the recorder has ended")]
    BeingWritten {
        /// The run.
        path: PathBuf,
    },
    /// The run is damaged.
    #[error("the run is damaged: {0}; recover it first, and compact what was recovered")]
    Damaged(Damage),
    /// The run has blocks that only a newer version knows.
    #[error(
        "{path} has blocks of kind {kind}, which this gradlog does not know: compact it with the version that wrote it"
    )]
    UnknownKind {
        /// The run.
        path: PathBuf,
        /// The kind.
        kind: u16,
    },
    /// The run cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new run cannot be written.
    #[error("{0}")]
    Write(LogError),
    /// The new run cannot be written.
    #[error("cannot {action} {path}: {error}; make room, or give another folder, and start again")]
    Folder {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A checkpoint cannot be copied.
    #[error("{0}")]
    Checkpoints(String),
    /// The new run does not read back as it was written.
    #[error("what was written for {path} does not read back: {why}. If the disk is sound, please report this")]
    Unsound {
        /// Where the new run was to be.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl From<LogError> for CompactError {
    fn from(error: LogError) -> Self {
        Self::Write(error)
    }
}
