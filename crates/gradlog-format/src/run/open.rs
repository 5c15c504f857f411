//! Opening a run.

use super::error::{io_error, ReadError};
use super::file::Files;
use super::handle::Run;
use super::place::{part_folders, Place};
use super::unite::Union;
use crate::log::{Manifest, MANIFEST_FILE};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

impl Run {
    /// Opens the run in the folder `dir`.
    ///
    /// # Errors
    /// [`ReadError::NotARun`] if there is no readable manifest, [`ReadError::Workers`] if the parts of several workers
    /// do not fit together, [`ReadError::Io`] if the file system refuses.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ReadError> {
        Self::open_files(dir.as_ref(), Arc::default())
    }

    /// As [`Run::open`], of a run in any place. `dir` is the path under which that place knows the run.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn open_in(place: Arc<dyn Place>, dir: impl AsRef<Path>) -> Result<Self, ReadError> {
        Self::open_files(dir.as_ref(), Arc::new(Files::new(place)))
    }

    fn open_files(dir: &Path, files: Arc<Files>) -> Result<Self, ReadError> {
        let path = dir.join(MANIFEST_FILE);
        let has_manifest = match files.place().exists(&path) {
            // It is a file. Opening its manifest says so.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => true,
            found => found.map_err(io_error(&path))?,
        };
        if !has_manifest {
            let folders = part_folders(files.place().as_ref(), dir).map_err(io_error(dir))?;
            if !folders.is_empty() {
                let (manifest, parts) = Self::open_parts(dir, &folders, &files)?;
                return Ok(Self::new(dir, manifest, parts, files));
            }
        }
        Self::open_among(dir, files)
    }

    /// Opens the run of one recorder, or one worker's part.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn open_one(dir: &Path) -> Result<Self, ReadError> {
        Self::open_among(dir, Arc::default())
    }

    /// Opens the parts in these folders and checks that they are of one run. Returns the manifest of the whole, and the
    /// parts, which share `files`.
    fn open_parts(
        dir: &Path,
        folders: &[(u32, PathBuf)],
        files: &Arc<Files>,
    ) -> Result<(Manifest, Vec<Run>), ReadError> {
        let mut union = Union::new(dir);
        let mut parts = Vec::with_capacity(folders.len());
        for (rank, folder) in folders {
            let path = folder.join(MANIFEST_FILE);
            union.add_bytes(files.place().open(&path).and_then(|file| file.bytes()).map_err(io_error(&path))?)?;
            let part = Self::open_among(folder, files.clone())?;
            union.add(*rank, folder, part.manifest())?;
            parts.push(part);
        }
        Ok((union.finish()?, parts))
    }

    /// As [`Run::open_one`], with open files shared with the other parts.
    fn open_among(dir: &Path, files: Arc<Files>) -> Result<Self, ReadError> {
        let path = dir.join(MANIFEST_FILE);
        let not_a_run = |why: String| ReadError::NotARun { path: dir.to_owned(), why };
        let file = files.place().open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if matches!(files.place().exists(dir), Ok(false)) => {
                not_a_run("there is no such folder".into())
            }
            io::ErrorKind::NotFound => not_a_run("it has no file `manifest`".into()),
            io::ErrorKind::NotADirectory => not_a_run("it is a file; give the run's folder".into()),
            io::ErrorKind::InvalidData => not_a_run(format!("its `manifest` cannot be read: {error}")),
            _ => io_error(&path)(error),
        })?;
        let length = file.bytes().map_err(io_error(&path))?;
        if length > MANIFEST_BYTES_MAX {
            return Err(not_a_run("its manifest is longer than a manifest can be".into()));
        }
        let mut bytes = vec![0u8; length as usize];
        file.read_at(&mut bytes, 0).map_err(io_error(&path))?;
        let manifest = Manifest::parse(&bytes).map_err(|e| not_a_run(format!("its manifest cannot be read: {e}")))?;
        let buckets =
            manifest.buckets().map_err(|e| not_a_run(format!("what it says of its buckets is wrong: {e}")))?;
        manifest.two_sided().map_err(|e| not_a_run(format!("what it says of its projections is wrong: {e}")))?;
        let run = Self::new(dir, manifest, Vec::new(), files);
        Ok(run.with_buckets(buckets))
    }
}
