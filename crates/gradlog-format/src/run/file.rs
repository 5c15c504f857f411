//! The segment files of a run. They are opened when they are read, and only a few at a time.
//!
//! Callers keep blocks to read them later, and many threads read at once. A process may open only a few files, often
//! 256 or 1,024 (`ulimit -n`), and a run may have more segments. So blocks hold no open file: each read looks its file
//! up. The file that was not used for the longest time is closed.

use super::place::{Local, Place, ReadAt};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How many files of a run are kept open, over the parts of all workers. Each thread may hold one more while it reads.
const OPEN_MAX: usize = 16;

/// The files of one run that are open, the one used last at the back, and the place where all its files lie.
#[derive(Debug)]
pub(super) struct Files {
    place: Arc<dyn Place>,
    open: Mutex<VecDeque<(PathBuf, Arc<dyn ReadAt>)>>,
}

impl Default for Files {
    fn default() -> Self {
        Self::new(Arc::new(Local))
    }
}

impl Files {
    pub(super) fn new(place: Arc<dyn Place>) -> Self {
        Self { place, open: Mutex::default() }
    }

    pub(super) fn place(&self) -> &Arc<dyn Place> {
        &self.place
    }

    /// Opens `path` anew, whatever stood under that name before.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let make_room = |open: &mut VecDeque<(PathBuf, Arc<dyn ReadAt>)>| {
            open.retain(|(other, _)| other != path);
            while open.len() >= OPEN_MAX {
                open.pop_front();
            }
        };
        // Before and after, for others may open files while this one waits for the file system.
        make_room(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner));
        let file = self.place.open(path)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut open);
        open.push_back((path.to_owned(), file.clone()));
        Ok(file)
    }

    /// The file at `path`, opened if it is not.
    fn get(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.iter().position(|(other, _)| other == path).and_then(|at| open.remove(at));
        match found {
            Some((path, file)) => {
                open.push_back((path, file.clone()));
                Ok(file)
            }
            None => {
                // Others may read while this one waits for the file system.
                drop(open);
                self.open(path)
            }
        }
    }
}

/// A segment file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) path: PathBuf,
    files: Arc<Files>,
}

impl SegmentFile {
    /// Opens the file once, to find errors early.
    ///
    /// # Errors
    /// As [`Place::open`].
    pub(super) fn open(files: &Arc<Files>, path: PathBuf) -> io::Result<Self> {
        files.open(&path)?;
        Ok(Self { path, files: files.clone() })
    }

    /// The place where it lies.
    pub(super) fn place(&self) -> &Arc<dyn Place> {
        &self.files.place
    }

    /// How long it is now.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        self.files.get(&self.path)?.bytes()
    }

    /// The first place at or after `from` that is not in a hole of the file, if any is.
    pub(super) fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        self.files.get(&self.path)?.next_data(from)
    }

    /// Reads exactly `out.len()` bytes at `offset`.
    pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.files.get(&self.path)?.read_at(out, offset)
    }

    /// The file, if it is of use to announce what will be read. An error shows when it is read.
    pub(super) fn to_announce(&self) -> Option<Arc<dyn ReadAt>> {
        if !self.files.place.reads_ahead() {
            return None;
        }
        self.files.get(&self.path).ok()
    }
}

/// Whether an error means that the file is not what was written. Other errors mean that the system refused to read it.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// Whether an error means that the bytes are lost: the file is not what was written, or the device fails. Any other
/// error may not occur the next time, so its bytes must not be counted as lost.
pub(super) fn is_lost(error: &io::Error) -> bool {
    #[cfg(unix)]
    if rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO) {
        return true;
    }
    is_damage(error)
}

/// A copy of an error. Errors of the system keep their number.
pub(super) fn clone_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
