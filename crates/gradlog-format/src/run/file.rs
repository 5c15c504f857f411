//! The segment files of a run. They are opened when they are read, and only a few at a time.
//!
//! Callers keep blocks to read them later, and many threads read at once. A process may open only a few files, often
//! 256 or 1,024 (`ulimit -n`), and a run may have more segments. So blocks hold no open file: each read looks its file
//! up. The file that was not used for the longest time is closed.

use crate::log::{next_data, open_file};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How many files of a run are kept open, over the parts of all workers. Each thread may hold one more while it reads.
const OPEN_MAX: usize = 16;

/// The files of one run that are open, the one used last at the back.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<VecDeque<(PathBuf, Arc<File>)>>);

impl Files {
    /// Opens `path` anew, whatever stood under that name before.
    fn open(&self, path: &Path) -> io::Result<Arc<File>> {
        let make_room = |open: &mut VecDeque<(PathBuf, Arc<File>)>| {
            open.retain(|(other, _)| other != path);
            while open.len() >= OPEN_MAX {
                open.pop_front();
            }
        };
        // Before and after, for others may open files while this one waits for the file system.
        make_room(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let file = Arc::new(open_file(path)?);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut open);
        open.push_back((path.to_owned(), file.clone()));
        Ok(file)
    }

    /// The file at `path`, opened if it is not.
    fn get(&self, path: &Path) -> io::Result<Arc<File>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    /// The error of the file system, and `InvalidData` for a folder, a pipe or a device.
    pub(super) fn open(files: &Arc<Files>, path: PathBuf) -> io::Result<Self> {
        files.open(&path)?;
        Ok(Self { path, files: files.clone() })
    }

    /// How long it is now.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        Ok(self.files.get(&self.path)?.metadata()?.len())
    }

    /// The first place at or after `from` that is not in a hole of the file, if any is.
    pub(super) fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        next_data(&*self.files.get(&self.path)?, from)
    }

    /// Reads exactly `out.len()` bytes at `offset`, without moving a cursor that another thread may use.
    pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        #[cfg(unix)]
        {
            std::os::unix::fs::FileExt::read_exact_at(&*self.files.get(&self.path)?, out, offset)
        }
        #[cfg(not(unix))]
        {
            use std::io::{Read, Seek, SeekFrom};
            // A second handle has a cursor of its own.
            let mut file = open_file(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(out)
        }
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
