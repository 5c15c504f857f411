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

/// A recorded run. To open it is cheap: only the manifest is read.
///
/// A run that is being written can be opened too. A scan sees what was committed when it reached the end. If the
/// training resumes at an earlier step after the first scan began, scans end there. Open the run again to see what
/// follows.
///
/// A run of several workers reads like a run of one recorder. Each worker's part is a run too, and can be opened by its
/// own folder.
#[derive(Debug, Clone)]
pub struct Run {
    dir: PathBuf,
    manifest: Manifest,
    /// The parts of a run of several workers, by rank. Empty for a run of one recorder and for a part.
    parts: Vec<Run>,
    /// Open files of all parts together: a run of many workers must not use up what a process may open.
    files: Arc<Files>,
    /// The resumptions that were there when the first scan began.
    resumptions: OnceLock<Resumptions>,
    /// Whether the caller holds the run's lock.
    caller_holds_lock: bool,
}

impl Run {
    /// Opens the run in the folder `dir`.
    ///
    /// # Errors
    /// [`ReadError::NotARun`] if there is no readable manifest, [`ReadError::Workers`] if the parts of several workers
    /// do not fit together, [`ReadError::Io`] if the file system refuses.
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
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn open_one(dir: &Path) -> Result<Self, ReadError> {
        Self::open_among(dir, Arc::default())
    }

    /// As [`Run::open_one`], with open files shared with the other parts.
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
        Self { dir, manifest, parts, files, resumptions, caller_holds_lock: false }
    }

    /// The run, read by a caller that holds its lock. Nobody writes to it then, so a half-written block is damage.
    pub fn with_lock_held(self) -> Self {
        Self { caller_holds_lock: true, ..self }
    }

    pub(super) fn caller_holds_lock(&self) -> bool {
        self.caller_holds_lock
    }

    /// The resumptions of a run of one recorder, as they were at the first call.
    pub(super) fn resumptions(&self) -> Result<&Resumptions, ReadError> {
        if let Some(known) = self.resumptions.get() {
            return Ok(known);
        }
        let found = Resumptions::read(self)?;
        Ok(self.resumptions.get_or_init(|| found))
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The run's layers, seeds and sketches. In a run of several workers it is that of the lowest rank, without the
    /// rank.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The parts of a run of several workers, by rank. Empty for a run of one recorder.
    pub fn parts(&self) -> &[Run] {
        &self.parts
    }

    /// Iterates over all committed blocks in the order in which they were written, up to the first damage.
    ///
    /// [`Scan`] defines the order for a run of several workers. Ask [`Scan::damage`] at the end.
    pub fn scan(&self) -> Scan<'_> {
        Scan::new(self)
    }

    /// As [`Run::scan`], for a run of one recorder or for a worker's part.
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

/// Number and name of the probe set in a block of kind ProbeSet.
pub(super) fn probe_set(block: &Block) -> Result<(usize, String), ReadError> {
    if block.rows() != 1 || block.width(Column::Name).is_some_and(|bytes| bytes > NAME_BYTES_MAX) {
        return Err(block.damaged("not one probe set with a name of at most 4096 bytes".into()));
    }
    let name = String::from_utf8_lossy(&block.u8s(Column::Name)?).into_owned();
    let number = block.u32s(Column::ProbeSet)?.first().copied().unwrap_or(0) as usize;
    Ok((number, name))
}
