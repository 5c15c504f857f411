//! Whether a run is being written while it is read.

use super::error::{io_error, ReadError};
use super::open::Run;
use crate::log::{open_file, LOCK_FILE};
use std::fs::TryLockError;
use std::io;

impl Run {
    /// Whether a recorder writes to the run at this moment, as far as the run's lock tells.
    ///
    /// A run of several workers is written as long as one of them writes.
    ///
    /// On file systems without locks, and for a folder that was copied while it was written, the answer is no.
    pub fn is_being_written(&self) -> bool {
        self.lock_is_held().unwrap_or(false)
    }

    /// As [`Run::is_being_written`], for those to whom a wrong answer would show damage where there is none.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system cannot say at the moment.
    pub fn lock_is_held(&self) -> Result<bool, ReadError> {
        if !self.parts().is_empty() {
            for part in self.parts() {
                if part.lock_is_held()? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        if self.is_locked_by_caller() {
            return Ok(false);
        }
        let path = self.dir().join(LOCK_FILE);
        // The lock is let go of with the file, at once: a recorder that is just starting tries again.
        match open_file(&path) {
            Ok(file) => Ok(matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))),
            Err(error) => match error.kind() {
                // There is no lock, it is none, or its owner keeps it to himself.
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied => Ok(false),
                _ => Err(io_error(&path)(error)),
            },
        }
    }
}
