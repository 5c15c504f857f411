//! Errors of writing.

use super::codec::DecodeError;
use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong while a log is written.
///
/// The text of an error includes its cause, so `source()` is always `None`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file system refused.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The folder holds a run already.
    #[error("{path} holds a run already: give another folder, or move this one away")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds a compacted run.
    #[error("{path} is a compacted run, to which nothing can be added: go on in the run that was compacted")]
    Compacted {
        /// The folder.
        path: PathBuf,
    },
    /// Another recorder writes to the folder.
    #[error("{path} is being written by another recorder: one run has one recorder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Something is too large for the format's fields.
    #[error("cannot write the record: {0}")]
    Encode(DecodeError),
}

impl From<DecodeError> for LogError {
    fn from(error: DecodeError) -> Self {
        LogError::Encode(error)
    }
}

/// Makes a [`LogError::Io`] of an error of the file system: "cannot {action} {path}".
pub fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |error| LogError::Io { action, path, error }
}
