//! Errors of reading, and damage.

use super::file::clone_error;
use std::io;
use std::path::{Path, PathBuf};

/// Why a run, or a part of it, cannot be read.
///
/// The text of an error includes its cause, so `source()` is always `None`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The run is compacted, and what was asked for needs the order of the recording.
    #[error("{} is a compacted run, whose visits are sorted by example: {what} needs them in the order of the recording; use the run that was compacted", path.display())]
    Compacted {
        /// The run's folder.
        path: PathBuf,
        /// What was asked for.
        what: &'static str,
    },
    /// The folder is not a run.
    #[error("{path} is not a gradlog run: {why}")]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },
    /// The parts of several workers do not fit together.
    #[error("{path} cannot be read as one run: {what}; each part can be read alone, by the name of its folder")]
    Workers {
        /// The folder.
        path: PathBuf,
        /// What differs, and between which parts.
        what: String,
    },
    /// The file system refused. The bytes may be intact.
    #[error("cannot read {path}: {error}{}", advice(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Bytes are not what was written.
    #[error("{0}")]
    Damaged(Damage),
    /// The run does not hold what was asked for. The text says what that was.
    #[error("{0}")]
    Absent(String),
    /// A newer version of gradlog wrote what was asked for. Nothing is damaged, and this version cannot read it.
    #[error("{0}")]
    Newer(Newer),
}

/// What only a newer version of gradlog can read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Newer {
    /// The file that holds it.
    pub path: PathBuf,
    /// Number of the block in the run. `None` if a whole file is newer.
    pub block: Option<u64>,
    /// What this version does not know.
    pub what: String,
}

impl std::fmt::Display for Newer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(block) = self.block {
            write!(f, " (block {block})")?;
        }
        write!(
            f,
            " was written by a newer gradlog: {}; it is not damaged: install a newer gradlog to read it",
            self.what
        )
    }
}

/// A place where reading has to stop, because bytes are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// The byte of the file at which the damaged block (or header) begins.
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

/// Makes a [`ReadError::Io`] of an error of the file system.
pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
    let path = path.to_owned();
    move |error| ReadError::Io { path, error }
}

/// The reason why a scan ended before the end of the run.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Bytes are not what was written.
    Damage(Damage),
    /// The file system refused to read this file.
    Refused { path: PathBuf, error: io::Error },
    /// Only a newer version can read on.
    Newer(Newer),
}

impl Stopped {
    /// Converts an error of reading. `damage` converts the text of an error that none of the variants is for.
    pub(super) fn from_error(error: ReadError, damage: impl FnOnce(String) -> Damage) -> Self {
        match error {
            ReadError::Io { path, error } => Stopped::Refused { path, error },
            ReadError::Damaged(found) => Stopped::Damage(found),
            ReadError::Newer(newer) => Stopped::Newer(newer),
            other => Stopped::Damage(damage(other.to_string())),
        }
    }

    /// A copy in which `sequence` is the number of the first block that cannot be read.
    pub(super) fn with_block(&self, sequence: u64) -> Self {
        match self {
            Stopped::Damage(damage) => Stopped::Damage(Damage { block: Some(sequence), ..damage.clone() }),
            Stopped::Refused { path, error } => Stopped::Refused { path: path.clone(), error: clone_error(error) },
            Stopped::Newer(newer) => Stopped::Newer(Newer { block: newer.block.map(|_| sequence), ..newer.clone() }),
        }
    }

    /// The damage, or anything else as an error. Each call returns the same.
    pub(super) fn report(stopped: Option<&Self>) -> Result<Option<&Damage>, ReadError> {
        match stopped {
            None => Ok(None),
            Some(Stopped::Damage(damage)) => Ok(Some(damage)),
            Some(Stopped::Refused { path, error }) => Err(io_error(path)(clone_error(error))),
            Some(Stopped::Newer(newer)) => Err(ReadError::Newer(newer.clone())),
        }
    }
}

/// What the reader can do about an error of the file system.
fn advice(error: &io::Error) -> &'static str {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        match Errno::from_io_error(error) {
            Some(Errno::MFILE) => return "; raise the limit with `ulimit -n`, or let go of files that are open",
            Some(Errno::NFILE) => return "; the whole system has too many files open: end other programs, then try again",
            Some(Errno::IO) => {
                return "; the device may be failing: copy the run to another one, or save what can be read with `gradlog recover`"
            }
            _ => {}
        }
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; ask its owner for permission to read it, or copy the run",
        io::ErrorKind::NotFound => "; it was moved or deleted while it was read",
        _ => "",
    }
}
