//! Whether a run is being written while it is read.

use super::open::Run;
use crate::log::LOCK_FILE;
use std::fs::{File, TryLockError};

impl Run {
    /// Whether a recorder writes to the run at this moment, as far as the run's lock tells.
    ///
    /// A run of several workers is written as long as one of them writes.
    ///
    /// On file systems without locks, and for a folder that was copied while it was written, the answer is no.
    pub fn is_being_written(&self) -> bool {
        if !self.parts().is_empty() {
            return self.parts().iter().any(Run::is_being_written);
        }
        // The lock is let go of with the file, at once: a recorder that is just starting tries again.
        match File::open(self.dir().join(LOCK_FILE)) {
            Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }
}
