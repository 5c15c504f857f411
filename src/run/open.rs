//! Opening a run.

use super::block::Block;
use super::error::{io_error, ReadError};
use super::merge::Scan;
use super::scan::PartScan;
use super::workers;
use crate::log::{segment_path, worker_folders, BlockKind, Column, Manifest, MANIFEST_FILE};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The longest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// The longest name of a probe set, in bytes, that is read.
const NAME_BYTES_MAX: usize = 4096;

/// A recorded run. Cheap to open: only the manifest is read.
///
/// A run that is being written can be opened too; a scan then sees what had been committed when it came to its end.
///
/// A run that several workers recorded is one run: its parts are read as if one recorder had written them. A part is a run
/// too, and can be opened alone by its own folder.
#[derive(Debug, Clone)]
pub struct Run {
    dir: PathBuf,
    manifest: Manifest,
    /// The parts of a run that several workers recorded, by rank; none for a run of one recorder, and for a part.
    parts: Vec<Run>,
}

impl Run {
    /// Opens the run in the folder `dir`.
    ///
    /// # Errors
    /// [`ReadError::NotARun`] if there is no readable manifest, [`ReadError::Workers`] if the parts of several workers do not
    /// make one run, [`ReadError::Io`] if the file system refuses.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ReadError> {
        let dir = dir.as_ref();
        if !dir.join(MANIFEST_FILE).exists() && dir.is_dir() {
            let folders = worker_folders(dir).map_err(io_error(dir))?;
            if !folders.is_empty() {
                let (manifest, parts) = workers::unite(dir, &folders)?;
                return Ok(Self { dir: dir.to_owned(), manifest, parts });
            }
        }
        Self::open_one(dir)
    }

    /// Opens the run of one recorder, or one worker's part.
    pub(crate) fn open_one(dir: &Path) -> Result<Self, ReadError> {
        let path = dir.join(MANIFEST_FILE);
        let not_a_run = |why: String| ReadError::NotARun { path: dir.to_owned(), why };
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if !dir.exists() => not_a_run("there is no such folder".into()),
            io::ErrorKind::NotFound => not_a_run("it has no file `manifest`".into()),
            io::ErrorKind::NotADirectory => not_a_run("it is a file; give the run's folder".into()),
            _ => io_error(&path)(error),
        })?;
        let mut bytes = Vec::new();
        file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io_error(&path))?;
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(not_a_run("its manifest is longer than a manifest can be".into()));
        }
        let manifest = Manifest::parse(&bytes).map_err(|e| not_a_run(format!("its manifest cannot be read: {e}")))?;
        Ok(Self { dir: dir.to_owned(), manifest, parts: Vec::new() })
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the run is: layers, seeds, scheme. Of a run of several workers it is that of the lowest rank, without the rank.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The parts of a run that several workers recorded, by rank, each a run of its own; none for a run of one recorder.
    pub fn parts(&self) -> &[Run] {
        &self.parts
    }

    /// All committed blocks in the order in which they were written, up to the first damage.
    ///
    /// Of a run of several workers, see [`Scan`] for the order.
    pub fn scan(&self) -> Scan<'_> {
        Scan::new(self)
    }

    /// As [`Run::scan`], of a run of one recorder or of a worker's part.
    pub(crate) fn part_scan(&self) -> PartScan<'_> {
        PartScan::new(self)
    }

    /// The names of the probe sets, by number.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if a name cannot be read.
    pub fn probe_sets(&self) -> Result<Vec<String>, ReadError> {
        let mut names: Vec<String> = Vec::new();
        for block in self.scan().filter(|block| block.kind() == Some(BlockKind::ProbeSet)) {
            let (number, name) = probe_set(&block)?;
            // Several workers may each have recorded a share of one set.
            if names.get(number) == Some(&name) && !self.parts.is_empty() {
                continue;
            }
            if number != names.len() {
                return Err(block.damaged(format!("probe set {number} where {} belongs", names.len())));
            }
            names.push(name);
        }
        Ok(names)
    }

    pub(super) fn segment_path(&self, index: u32) -> PathBuf {
        segment_path(&self.dir, index)
    }
}

/// Number and name of the probe set that a block tells.
pub(super) fn probe_set(block: &Block) -> Result<(usize, String), ReadError> {
    if block.rows() != 1 || block.width(Column::Name).is_some_and(|bytes| bytes > NAME_BYTES_MAX) {
        return Err(block.damaged("not one probe set with a name of at most 4096 bytes".into()));
    }
    let name = String::from_utf8_lossy(&block.u8s(Column::Name)?).into_owned();
    let number = block.u32s(Column::ProbeSet)?.first().copied().unwrap_or(0) as usize;
    Ok((number, name))
}
