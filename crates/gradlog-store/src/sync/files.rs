//! Which files of a run on this machine can be copied now.

use crate::error::StoreError;
use gradlog_format::log::{
    checkpoint_path, segment_path, worker_folders, BlockKind, CHECKPOINT_FOLDER, LOCK_FILE, MANIFEST_FILE,
    SEGMENT_HEADER_BYTES,
};
use gradlog_format::run::{Local, Place, Run};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What a file of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Written once.
    Manifest,
    /// Weights. A later checkpoint of the same step replaces it.
    Checkpoint,
    /// Blocks. It is not written to any more.
    Segment,
}

/// A file that can be copied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// The order in which files are sent: manifests, then the checkpoints that segments name, then segments. A reader
    /// sees a prefix of the run at any time.
    pub(super) kind: Kind,
    /// The number of a segment, the step of a checkpoint. So that all workers' parts grow together.
    pub(super) number: u64,
    /// Where it is on this machine.
    pub(super) path: PathBuf,
}

/// What there is of a run now.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// In the order in which they are sent.
    pub(super) found: Vec<Found>,
    /// Segments that a recorder still writes to.
    pub(super) open: Vec<PathBuf>,
    /// Whether a recorder writes to the run.
    pub(super) is_recording: bool,
}

/// The files of a run in the folder `run`. `None` if there is no run yet.
pub(super) fn find(run: &Path) -> Result<Option<Files>, StoreError> {
    let parts = match exists(&run.join(MANIFEST_FILE))? {
        true => vec![run.to_owned()],
        false => worker_folders(run).map_err(local(run))?.into_iter().map(|(_, folder)| folder).collect(),
    };
    let mut files = Files::default();
    for part in &parts {
        // Asks for the lock first: if the recorder ends in between, the next look finds its last segment.
        let lock = part.join(LOCK_FILE);
        let is_recording = Local.is_locked(&lock).map_err(local(&lock))?;
        files.is_recording |= is_recording;
        files.found.push(Found { kind: Kind::Manifest, number: 0, path: part.join(MANIFEST_FILE) });
        let folder = part.join(CHECKPOINT_FOLDER);
        let steps = numbers(&folder, "step-", ".safetensors")?;
        files.found.extend(steps.into_iter().filter_map(|step| {
            let path = checkpoint_path(part, step);
            path.is_file().then_some(Found { kind: Kind::Checkpoint, number: step, path })
        }));
        let mut segments: Vec<(u64, PathBuf)> = numbers(part, "segment-", ".glog")?
            .into_iter()
            .filter_map(|number| Some((number, segment_path(part, u32::try_from(number).ok()?))))
            .filter(|(_, path)| path.is_file())
            .collect();
        segments.sort();
        // A recorder closes a segment before it begins the next one, and never returns to it.
        if let Some((_, last)) = segments.last() {
            if is_recording {
                files.open.push(last.clone());
                segments.pop();
            } else if begins_with_zeros(last).map_err(local(last))? {
                // Its recorder was killed before it wrote the header. One that resumes replaces the file.
                segments.pop();
            }
        }
        let found = |(number, path)| Found { kind: Kind::Segment, number, path };
        files.found.extend(segments.into_iter().map(found));
    }
    files.found.sort();
    Ok((!parts.is_empty()).then_some(files))
}

/// Whether every recorder of the run finished it. A run that is damaged is not.
pub(super) fn is_finished(run: &Path) -> Result<bool, StoreError> {
    let run = Run::open(run)?;
    let one = [run.clone()];
    let parts = if run.parts().is_empty() { &one } else { run.parts() };
    for part in parts {
        let mut finished = false;
        let mut scan = part.part_scan();
        for block in scan.by_ref() {
            finished = block.kind() == Some(BlockKind::End) || finished && !block.reopens_run();
        }
        if !finished || scan.damage()?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The numbers in the names of a folder's files.
fn numbers(folder: &Path, before: &str, after: &str) -> Result<Vec<u64>, StoreError> {
    let names = match Local.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names.map_err(local(folder))?,
    };
    let number = |name: &String| name.strip_prefix(before)?.strip_suffix(after)?.parse().ok();
    Ok(names.iter().filter_map(number).collect())
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    match Local.exists(path) {
        // It is a file, and so it is no run. Opening it says so.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(true),
        found => found.map_err(local(path)),
    }
}

fn begins_with_zeros(path: &Path) -> io::Result<bool> {
    let mut header = Vec::new();
    File::open(path)?.take(SEGMENT_HEADER_BYTES as u64).read_to_end(&mut header)?;
    Ok(header.iter().all(|byte| *byte == 0))
}

pub(super) fn local(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Local { path, error }
}
