//! Opening a run.

use super::error::{io_error, ReadError};
use super::file::{Files, SegmentFile};
use super::scan::Scan;
use crate::log::{open_file, segment_path, BlockKind, Column, Manifest, MANIFEST_FILE};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// The longest name of a probe set, in bytes, that is read.
const NAME_BYTES_MAX: usize = 4096;

/// A recorded run. Cheap to open: only the manifest is read.
///
/// A run that is being written can be opened too; a scan then sees what had been committed when it came to its end.
#[derive(Debug, Clone)]
pub struct Run {
    dir: PathBuf,
    manifest: Manifest,
    files: Arc<Files>,
}

impl Run {
    /// Opens the run in the folder `dir`.
    ///
    /// # Errors
    /// [`ReadError::NotARun`] if there is no readable manifest, [`ReadError::Io`] if the file system refuses.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ReadError> {
        let dir = dir.as_ref();
        let path = dir.join(MANIFEST_FILE);
        let not_a_run = |why: String| ReadError::NotARun { path: dir.to_owned(), why };
        let file = open_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if !dir.exists() => not_a_run("there is no such folder".into()),
            io::ErrorKind::NotFound => not_a_run("it has no file `manifest`".into()),
            io::ErrorKind::NotADirectory => not_a_run("it is a file; give the run's folder".into()),
            io::ErrorKind::InvalidData => not_a_run(format!("its `manifest` cannot be read: {error}")),
            _ => io_error(&path)(error),
        })?;
        let mut bytes = Vec::new();
        file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io_error(&path))?;
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(not_a_run("its manifest is longer than a manifest can be".into()));
        }
        let manifest = Manifest::parse(&bytes).map_err(|e| not_a_run(format!("its manifest cannot be read: {e}")))?;
        Ok(Self { dir: dir.to_owned(), manifest, files: Arc::default() })
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the run is: layers, seeds, scheme.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// All committed blocks in the order in which they were written, up to the first damage.
    pub fn scan(&self) -> Scan<'_> {
        Scan::new(self)
    }

    /// The names of the probe sets, by number.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if a name cannot be read.
    pub fn probe_sets(&self) -> Result<Vec<String>, ReadError> {
        let mut names: Vec<String> = Vec::new();
        let mut scan = self.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::ProbeSet)) {
            if block.rows() != 1 || block.width(Column::Name).is_some_and(|bytes| bytes > NAME_BYTES_MAX) {
                return Err(block.damaged("not one probe set with a name of at most 4096 bytes".into()));
            }
            let name = String::from_utf8_lossy(&block.u8s(Column::Name)?).into_owned();
            let number = block.u32s(Column::ProbeSet)?.first().copied().unwrap_or(0) as usize;
            if number != names.len() {
                return Err(block.damaged(format!("probe set {number} where {} belongs", names.len())));
            }
            names.push(name);
        }
        scan.damage()?;
        Ok(names)
    }

    pub(super) fn segment_path(&self, index: u32) -> PathBuf {
        segment_path(&self.dir, index)
    }

    pub(super) fn segment_file(&self, path: PathBuf) -> io::Result<SegmentFile> {
        SegmentFile::open(&self.files, path)
    }
}
