//! Where runs lie: what the reader needs of a folder on this machine, or of an object store.
//!
//! The reader asks a [`Place`] for names and files, and a file for bytes at positions ([`ReadAt`]). A place names its
//! files by paths. Those of an object store are its addresses, such as `s3://bucket/run/manifest`: they are printed and
//! joined, and no system is asked for them.

use crate::log::{next_data, open_file, worker_folder, worker_rank, MANIFEST_FILE};
use std::fmt::Debug;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of a run, read at positions. Many threads may read at once.
///
/// Kinds of errors have a meaning. `UnexpectedEof` says that the file ends before the last byte that was asked for, and
/// `InvalidData` that it is no file: to the reader both are damage. Any other kind is a refusal: the bytes may be
/// intact, and reading ends with an error. So a failure of a network must have another kind than these two, and it must
/// not be `NotFound`.
pub trait ReadAt: Debug + Send + Sync {
    /// How long the file is now.
    ///
    /// # Errors
    /// A refusal.
    fn bytes(&self) -> io::Result<u64>;

    /// Reads exactly `out.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, or a refusal. What is then in `out` means nothing.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// The first place at or after `from` that is not in a hole of the file. `None` if only a hole follows. A place
    /// without holes, or that does not know them, says `from`.
    ///
    /// # Errors
    /// A refusal.
    fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        Ok(Some(from))
    }

    /// Says that these bytes will probably be read soon, so that a place that is far away can fetch them meanwhile. The
    /// ranges are in ascending order. They may end behind the file.
    fn announce(&self, _ranges: &[Range<u64>]) {}

    /// Says that a scan will read the header of a block at `offset` next, and later those of the blocks behind it.
    fn announce_header(&self, _offset: u64) {}
}

/// A place that holds runs.
pub trait Place: Debug + Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, and only then. `NotADirectory` if a part of the path is a file.
    /// `InvalidData` if it is no file but a folder, a pipe or a device. Any other kind is a refusal.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>>;

    /// Whether a file or a folder of this name is there.
    ///
    /// # Errors
    /// A refusal. It must not be taken for an absence: the reader would take it for the end of a run.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// The names in a folder, of files and of folders.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder, `NotADirectory` if it is a file. Any other kind is a refusal.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Whether a recorder holds the lock file of this path. A place without locks says no: nobody records into it.
    ///
    /// # Errors
    /// A refusal.
    fn is_locked(&self, _path: &Path) -> io::Result<bool> {
        Ok(false)
    }

    /// The first refusal that is for good: from then on the place refuses everything. A place that refuses for a moment
    /// only has none.
    ///
    /// After several questions to a run in such a place, call this once: reading may have ended early, and an answer
    /// may not say so.
    fn refusal(&self) -> Option<io::Error> {
        None
    }

    /// Whether it is of use to announce what will be read ([`ReadAt::announce`]). Announcing opens files.
    fn reads_ahead(&self) -> bool {
        false
    }
}

/// The file systems of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

impl ReadAt for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    /// Moves no cursor that another thread may use.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_exact_at(self, out, offset);
        #[cfg(windows)]
        {
            // Windows moves the cursor, which nobody else uses: every read says where it begins.
            let mut read = 0;
            while read < out.len() {
                match std::os::windows::fs::FileExt::seek_read(self, &mut out[read..], offset + read as u64) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => read += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        }
    }

    fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        next_data(self, from)
    }
}

impl Place for Local {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(open_file(path)?))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        // No file of a run has a name that is no UTF-8.
        let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        // The lock is released with the file, at once. A recorder that is just starting tries again.
        match open_file(path) {
            Ok(file) => Ok(matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))),
            Err(error) => match error.kind() {
                // There is no lock file, it is no regular file, or this user may not open it.
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied => Ok(false),
                _ => Err(error),
            },
        }
    }
}

/// The place of a value that is compared with others by what it says, wherever it lies.
#[derive(Clone)]
pub(super) struct Held(pub(super) Arc<dyn Place>);

impl Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

impl PartialEq for Held {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The ranks and folders of the parts in the folder `dir`, sorted by rank (as [`worker_folders`], anywhere).
///
/// [`worker_folders`]: crate::log::worker_folders
pub(super) fn part_folders(place: &dyn Place, dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let names = match place.list(dir) {
        Ok(names) => names,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for rank in names.iter().filter_map(|name| worker_rank(name)) {
        let folder = worker_folder(dir, rank);
        if is_part(place, &folder) {
            found.push((rank, folder));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a worker's folder is a part. If the place refuses to look for its manifest, it counts as one: opening it
/// will report the error.
fn is_part(place: &dyn Place, folder: &Path) -> bool {
    match place.exists(&folder.join(MANIFEST_FILE)) {
        Ok(true) => true,
        // A recorder writes the manifest first. A segment without it means that the manifest was lost.
        Ok(false) => place.exists(&crate::log::segment_path(folder, 0)).unwrap_or(true),
        Err(error) => error.kind() != io::ErrorKind::NotADirectory,
    }
}
