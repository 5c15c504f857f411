//! The lock of a run: one recorder writes to a folder at a time.

use super::error::{io_error, LogError};
use super::names::LOCK_FILE;
use super::storage::open_with;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

/// Waits between attempts. A reader that asks whether the run is being written holds the lock for a moment. Another
/// recorder holds it for good.
const WAITS: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(20)];

/// Locks the run in the folder `dir`, until the file is dropped or the process ends.
///
/// # Errors
/// [`LogError::Locked`] if another recorder holds the lock, [`LogError::Io`] if the file system refuses.
pub(super) fn lock(dir: &Path) -> Result<File, LogError> {
    lock_with(dir, std::thread::sleep)
}

/// The lock of a folder that is written without a [`LogWriter`](super::LogWriter).
#[derive(Debug)]
pub(crate) struct LogWriterLock(#[allow(dead_code)] File);

impl LogWriterLock {
    /// As [`lock`].
    pub(crate) fn take(dir: &Path) -> Result<Self, LogError> {
        lock(dir).map(Self)
    }
}

/// As [`lock`]. `wait` is called between two attempts.
fn lock_with(dir: &Path, mut wait: impl FnMut(Duration)) -> Result<File, LogError> {
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let file = open_with(options.create(true).truncate(false).write(true), &path).map_err(io_error("create", &path))?;
    let mut tried = file.try_lock();
    for time in WAITS {
        if !matches!(tried, Err(TryLockError::WouldBlock)) {
            break;
        }
        wait(time);
        tried = file.try_lock();
    }
    match tried {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked { path: dir.to_owned() }),
        // Some network mounts have no locks. They still take a run; nothing keeps two recorders apart there.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader's lock on the run in `dir`.
    fn reader(dir: &Path) -> File {
        let asked = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK_FILE)).unwrap();
        asked.lock_shared().unwrap();
        asked
    }

    #[test]
    fn a_reader_that_asks_is_not_taken_for_a_recorder() {
        for attempt in 1..=WAITS.len() {
            let dir = tempfile::tempdir().unwrap();
            let mut asked = Some(reader(dir.path()));
            let mut waits = Vec::new();
            let locked = lock_with(dir.path(), |time| {
                waits.push(time);
                // The reader lets go during this wait.
                if waits.len() == attempt {
                    asked = None;
                }
            });
            assert!(locked.is_ok(), "let go during wait {attempt}");
            assert_eq!(waits, WAITS[..attempt]);
        }
    }

    /// FORMAT.md, "The lock": other programs must know which of the system's locks it is.
    #[cfg(unix)]
    #[test]
    fn the_lock_is_that_of_flock() {
        use rustix::fs::{flock, FlockOperation};
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let other = File::open(dir.path().join(LOCK_FILE)).unwrap();
        for asked in [FlockOperation::NonBlockingLockShared, FlockOperation::NonBlockingLockExclusive] {
            assert_eq!(flock(&other, asked), Err(rustix::io::Errno::WOULDBLOCK));
        }
        drop(held);
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(lock_with(dir.path(), |_| {}), Err(LogError::Locked { .. })));
    }

    #[test]
    fn a_lock_that_is_held_for_good_is_refused_after_a_bounded_wait() {
        let dir = tempfile::tempdir().unwrap();
        let _held = lock(dir.path()).unwrap();
        let mut waits = Vec::new();
        let refused = lock_with(dir.path(), |time| waits.push(time));
        assert!(matches!(refused, Err(LogError::Locked { .. })));
        assert_eq!(waits, WAITS);
    }
}
