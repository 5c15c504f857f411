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
    /// The file system refused. This says nothing of the bytes: they may be intact.
    #[error("cannot read {path}: {source}{}", advice(source))]
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

/// What to do about an error of the file system.
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
