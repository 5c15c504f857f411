//! Opening a run.

use super::block::Block;
use super::error::{io_error, ReadError};
use super::file::{Files, SegmentFile};
use super::merge::Scan;
use super::scan::PartScan;
use super::superseded::Resumptions;
use super::workers;
use crate::log::{open_file, segment_path, worker_folders, BlockKind, Column, Manifest, MANIFEST_FILE};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The longest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// The longest name of a probe set, in bytes, that is read.
const NAME_BYTES_MAX: usize = 4096;

/// A recorded run. Cheap to open: only the manifest is read.
///
/// A run that is being written can be opened too; a scan then sees what had been committed when it came to its end. Where a training
/// is taken up again at an earlier step after the first scan began, scans end before that, whatever follows: open the run again
/// to see it.
///
/// A run that several workers recorded is one run: its parts are read as if one recorder had written them. A part is a run
/// too, and can be opened alone by its own folder.
#[derive(Debug, Clone)]
pub struct Run {
    dir: PathBuf,
    manifest: Manifest,
    /// The parts of a run that several workers recorded, by rank; none for a run of one recorder, and for a part.
    parts: Vec<Run>,
    /// Those of all parts, lest a run of many workers use up what a process may open.
    files: Arc<Files>,
    /// As they were when the first scan began.
    resumptions: OnceLock<Resumptions>,
    /// Whether it is the caller who holds the run's lock.
    locked_by_caller: bool,
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
                let files = Arc::default();
                let (manifest, parts) = workers::unite(dir, &folders, &files)?;
                return Ok(Self::new(dir, manifest, parts, files));
            }
        }
        Self::open_one(dir)
    }

    /// Opens the run of one recorder, or one worker's part.
    pub fn open_one(dir: &Path) -> Result<Self, ReadError> {
        Self::open_among(dir, Arc::default())
    }

    /// As [`Run::open_one`], with open files that are shared with the other parts.
    pub(super) fn open_among(dir: &Path, files: Arc<Files>) -> Result<Self, ReadError> {
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
        Ok(Self::new(dir, manifest, Vec::new(), files))
    }

    fn new(dir: &Path, manifest: Manifest, parts: Vec<Run>, files: Arc<Files>) -> Self {
        let (dir, resumptions) = (dir.to_owned(), OnceLock::new());
        Self { dir, manifest, parts, files, resumptions, locked_by_caller: false }
    }

    /// As the run is, for who holds its lock: nobody writes to it, so that nothing in it may be half written.
    pub fn locked_by_caller(self) -> Self {
        Self { locked_by_caller: true, ..self }
    }

    pub(super) fn is_locked_by_caller(&self) -> bool {
        self.locked_by_caller
    }

    /// The resumptions of a run of one recorder, as they were when they were first asked for.
    pub(super) fn resumptions(&self) -> Result<&Resumptions, ReadError> {
        if let Some(known) = self.resumptions.get() {
            return Ok(known);
        }
        let found = Resumptions::of(self)?;
        Ok(self.resumptions.get_or_init(|| found))
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
    pub fn part_scan(&self) -> PartScan<'_> {
        PartScan::new(self)
    }

    /// The names of the probe sets, by number.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if a name cannot be read.
    pub fn probe_sets(&self) -> Result<Vec<String>, ReadError> {
        let mut names: Vec<String> = Vec::new();
        let mut scan = self.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::ProbeSet)) {
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

/// Number and name of the probe set that a block tells.
pub(super) fn probe_set(block: &Block) -> Result<(usize, String), ReadError> {
    if block.rows() != 1 || block.width(Column::Name).is_some_and(|bytes| bytes > NAME_BYTES_MAX) {
        return Err(block.damaged("not one probe set with a name of at most 4096 bytes".into()));
    }
    let name = String::from_utf8_lossy(&block.u8s(Column::Name)?).into_owned();
    let number = block.u32s(Column::ProbeSet)?.first().copied().unwrap_or(0) as usize;
    Ok((number, name))
}
