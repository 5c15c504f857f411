//! Detects whether a run is being written, and how its recorder keeps up.

use super::error::{io_error, ReadError};
use super::handle::Run;
use crate::log::{QueueFill, LOCK_FILE, QUEUE_FILE, QUEUE_FILE_BYTES};

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

    /// What the recorder of this run, or of this part of one, said last about its queue: about once a second while
    /// passes come. `None` if nobody records, if the recorder is older than this file or could not write it, and for a
    /// run of several workers, whose [parts](Run::parts) each have a queue.
    pub fn queue_fill(&self) -> Option<QueueFill> {
        // A recorder that was killed leaves its file.
        if !self.parts().is_empty() || !self.is_being_written() {
            return None;
        }
        let mut bytes = [0u8; QUEUE_FILE_BYTES];
        self.place().open(&self.dir().join(QUEUE_FILE)).and_then(|file| file.read_at(&mut bytes, 0)).ok()?;
        QueueFill::parse(&bytes).ok()
    }
}
