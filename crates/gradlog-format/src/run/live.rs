//! Detects whether a run is being written.

use super::error::{io_error, ReadError};
use super::handle::Run;
use crate::log::LOCK_FILE;

impl Run {
    /// Whether a recorder writes to the run now, according to the run's lock.
    ///
    /// A run of several workers is being written while one of them writes. The answer is no on file systems without
    /// locks, in object stores, and for a folder that was copied while it was written.
    pub fn is_being_written(&self) -> bool {
        self.lock_is_held().unwrap_or(false)
    }

    /// As [`Run::is_being_written`], with an error if the answer is not known.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses.
    pub fn lock_is_held(&self) -> Result<bool, ReadError> {
        if !self.parts().is_empty() {
            for part in self.parts() {
                if part.lock_is_held()? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        if self.caller_holds_lock() {
            return Ok(false);
        }
        let path = self.dir().join(LOCK_FILE);
        self.place().is_locked(&path).map_err(io_error(&path))
    }
}
