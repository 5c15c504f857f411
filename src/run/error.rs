//! What can be wrong with a run that is read.

use std::io;
use std::path::{Path, PathBuf};

/// Why a run, or a part of it, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The folder is not a run.
    #[error("{path} is not a gradlog run: {why}")]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },
    /// The parts of several workers do not make one run.
    #[error("{path} cannot be read as one run: {what}; each part can be read alone, by the name of its folder")]
    Workers {
        /// The folder.
        path: PathBuf,
        /// What differs, and where.
        what: String,
    },
    /// The file system refused.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes are not what the format says.
    #[error("{0}")]
    Damaged(Damage),
    /// The run does not hold what was asked for.
    #[error("{0}")]
    Absent(String),
}

/// A place where a run stops being readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// Byte at which the damaged block (or header) begins.
    pub offset: u64,
    /// Number of the block in the run, if it is known.
    pub block: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at byte {}", self.path.display(), self.offset)?;
        if let Some(block) = self.block {
            write!(f, " (block {block})")?;
        }
        write!(f, ": {}; what was written before it is intact and was read", self.what)
    }
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
    let path = path.to_owned();
    move |source| ReadError::Io { path, source }
}
