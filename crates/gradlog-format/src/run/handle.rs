//! An opened run: its folder, manifest and parts, and the files that its readers share.

use super::buckets::{Buckets, View};
use super::file::{Files, SegmentFile};
use super::place::Place;
use super::resumptions::Resumptions;
use crate::log::{segment_path, Manifest};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

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
    pub(super) resumptions: OnceLock<Resumptions>,
    /// Whether the caller holds the run's lock.
    caller_holds_lock: bool,
    /// Of a compacted run, its buckets, and which of them scans read.
    buckets: Option<Arc<Buckets>>,
    pub(super) view: View,
}

impl Run {
    pub(super) fn new(dir: &Path, manifest: Manifest, parts: Vec<Run>, files: Arc<Files>) -> Self {
        let (dir, resumptions) = (dir.to_owned(), OnceLock::new());
        let (buckets, view) = (None, View::default());
        Self { dir, manifest, parts, files, resumptions, caller_holds_lock: false, buckets, view }
    }

    pub(super) fn with_buckets(self, buckets: Option<Buckets>) -> Self {
        Self { buckets: buckets.map(Arc::new), ..self }
    }

    pub(super) fn with_view(self, view: View) -> Self {
        Self { view, ..self }
    }

    /// The run, read by a caller that holds its lock. Nobody writes to it then, so a half-written block is damage.
    pub fn with_lock_held(self) -> Self {
        Self { caller_holds_lock: true, ..self }
    }

    pub(super) fn caller_holds_lock(&self) -> bool {
        self.caller_holds_lock
    }

    /// The place where the run's files lie.
    pub fn place(&self) -> &Arc<dyn Place> {
        self.files.place()
    }

    /// What a compacted run says of its buckets. `None` for a run that is not compacted.
    pub fn buckets(&self) -> Option<&Buckets> {
        self.buckets.as_deref()
    }

    /// The run's folder. In an object store it is the run's address.
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

    pub(super) fn segment_path(&self, index: u32) -> PathBuf {
        segment_path(&self.dir, index)
    }

    pub(super) fn segment_file(&self, path: PathBuf) -> io::Result<SegmentFile> {
        SegmentFile::open(&self.files, path)
    }
}
