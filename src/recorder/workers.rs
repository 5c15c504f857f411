//! One worker's part of a run: its folder, and whether it fits the other parts.

use super::error::RecordError;
use gradlog_format::log::{worker_folder, worker_folders, LogError, Manifest, MANIFEST_FILE};
use gradlog_format::run::{worker_differences, ReadError, Run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder to record into for the run in `dir`: a worker's own, or `dir` itself.
///
/// # Errors
/// [`RecordError::Worker`] if `dir` holds something that this part cannot be read together with. The check comes before
/// the training, not after it.
pub(super) fn part_folder(dir: &Path, manifest: &Manifest) -> Result<PathBuf, RecordError> {
    let others = other_parts(dir, manifest)?;
    let Some(worker) = manifest.worker else {
        if others.is_empty() {
            return Ok(dir.to_owned());
        }
        let path = dir.display();
        return Err(RecordError::Worker(format!(
            "{path} holds the parts of several workers: set `Config::worker`, or give another folder"
        )));
    };
    if dir.join(MANIFEST_FILE).exists() {
        let path = dir.display();
        return Err(RecordError::Worker(format!(
            "{path} holds a run of one recorder, or is the folder of one worker's part: give the folder of the whole run"
        )));
    }
    for other in &others {
        let differences = worker_differences(other.manifest(), manifest);
        if !differences.is_empty() {
            let (path, what) = (dir.display(), differences.join("; "));
            return Err(RecordError::Worker(format!(
                "{what}; all parts of {path} must agree: use the same settings, or give another folder"
            )));
        }
    }
    Ok(worker_folder(dir, worker.rank))
}

/// Checks that the parts of other workers end before step `step`. A part that is being recorded is skipped.
pub(super) fn check_same_end(dir: &Path, manifest: &Manifest, step: u64) -> Result<(), RecordError> {
    for other in other_parts(dir, manifest)? {
        // A part that is being recorded was resumed already and may have gone on.
        let read = |error: ReadError| RecordError::Resume(error.to_string());
        if other.lock_is_held().map_err(read)? {
            continue;
        }
        let ended = other.part_scan().complete_steps().map_err(read)?;
        if ended != step {
            let rank = other.manifest().worker.map_or(0, |worker| worker.rank);
            return Err(RecordError::Resume(format!(
                "its log has {step} steps and that of worker {rank} has {ended}, but all workers must go on at one step: give it with \
                 `resume_at`, the step that comes after the checkpoint"
            )));
        }
    }
    Ok(())
}

/// The parts of the other workers.
fn other_parts(dir: &Path, manifest: &Manifest) -> Result<Vec<Run>, RecordError> {
    let action = if dir.is_dir() { "list the workers in" } else { "use as a folder" };
    let failed = |error| RecordError::Start(Arc::new(LogError::Io { action, path: dir.to_owned(), error }));
    let folders = worker_folders(dir).map_err(failed)?;
    let own = manifest.worker.map(|worker| worker.rank);
    let others = folders.into_iter().filter(|(rank, _)| Some(*rank) != own);
    others.map(|(_, folder)| Run::open_one(&folder).map_err(|e| RecordError::Worker(e.to_string()))).collect()
}
