//! The parts of a run that several workers recorded: whether they make one run, and how far each has come.

use super::error::{io_error, ReadError};
use super::file::Files;
use super::open::Run;
use crate::log::{AllReduce, BlockKind, Manifest, WorkerRecord, MANIFEST_FILE};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All manifests of a run are held, so there is a limit on their bytes.
const PART_MANIFESTS_BYTES_MAX: u64 = 1 << 28;

/// Opens the parts in these folders and checks that they are of one run. Returns the manifest of the whole, and the
/// parts, which share `files`.
pub(super) fn unite(
    dir: &Path,
    folders: &[(u32, PathBuf)],
    files: &Arc<Files>,
) -> Result<(Manifest, Vec<Run>), ReadError> {
    let wrong = |what: String| ReadError::Workers { path: dir.to_owned(), what };
    let mut parts: Vec<Run> = Vec::with_capacity(folders.len());
    let mut whole: Option<Manifest> = None;
    let mut bytes = 0u64;
    for (rank, folder) in folders {
        let path = folder.join(MANIFEST_FILE);
        bytes = bytes.saturating_add(std::fs::metadata(&path).map_err(io_error(&path))?.len());
        if bytes > PART_MANIFESTS_BYTES_MAX {
            return Err(wrong(format!(
                "the manifests of its parts have more than {PART_MANIFESTS_BYTES_MAX} bytes together"
            )));
        }
        let part = Run::open_among(folder, files.clone())?;
        let manifest = part.manifest();
        match manifest.worker {
            Some(WorkerRecord { rank: own, .. }) if own == *rank => {}
            Some(WorkerRecord { rank: own, workers, .. }) => {
                return Err(wrong(format!("{} holds the part of worker {own} of {workers}", folder.display())))
            }
            None => return Err(wrong(format!("{} holds a whole run and not the part of a worker", folder.display()))),
        }
        match &mut whole {
            None => whole = Some(manifest.clone()),
            Some(whole) => {
                let found = differences(whole, manifest);
                if !found.is_empty() {
                    return Err(wrong(found.join("; ")));
                }
                whole.created_ms = whole.created_ms.min(manifest.created_ms);
                for (name, value) in &manifest.notes {
                    if !whole.notes.contains(&(name.clone(), value.clone())) {
                        whole.notes.push((format!("{name} (worker {rank})"), value.clone()));
                    }
                }
            }
        }
        parts.push(part);
    }
    match whole {
        Some(whole) => Ok((Manifest { worker: None, ..whole }, parts)),
        None => Err(wrong("it holds no part".into())),
    }
}

/// The differences between the manifests of two parts that must agree in all parts of a run, in words. Empty if they
/// fit.
pub fn differences(one: &Manifest, other: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    let name = |manifest: &Manifest| manifest.worker.map_or("a whole run".into(), |w| format!("worker {}", w.rank));
    let (first, second) = (name(one), name(other));
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{what} {a} in the part of {first} and {b} in that of {second}"));
        }
    };
    let of = |manifest: &Manifest| manifest.worker.map(|w| (w.workers, w.reduction));
    if let (Some(a), Some(b)) = (of(one), of(other)) {
        differ("the number of workers is", a.0.to_string(), b.0.to_string());
        differ("the reduction is the", a.1.to_string(), b.1.to_string());
    }
    differ("the seed is", one.seed.to_string(), other.seed.to_string());
    differ("the sketches are", format!("{:?}", one.sketch), format!("{:?}", other.sketch));
    differ("the number of layers is", one.layers.len().to_string(), other.layers.len().to_string());
    if one.layers.len() == other.layers.len() {
        for (number, (a, b)) in one.layers.iter().zip(&other.layers).enumerate().filter(|(_, (a, b))| a != b) {
            let same_name = a.name == b.name && a.kind == b.kind;
            let words = |l: &crate::log::LayerRecord| match same_name {
                true => format!("`{}` of shapes {:?}", l.name.escape_debug(), l.shapes),
                false => format!("`{}` ({})", l.name.escape_debug(), l.kind.escape_debug()),
            };
            let (a, b) = (words(a), words(b));
            // Names and shapes may be the same where only the seeds or the bias are not.
            let b = if a == b { format!("another `{}`", other.layers[number].name.escape_debug()) } else { b };
            differ(&format!("layer {number} is"), a, b);
        }
    }
    found
}

/// How far one worker has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerState {
    /// The worker's number, from 0.
    pub rank: u32,
    /// The last step in its part, or `None` if it holds no step.
    pub last_step: Option<u64>,
    /// Whether its recorder's `finish` returned.
    pub finished: bool,
    /// Whether its recorder still writes.
    pub recording: bool,
}

/// The workers of a run that several recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workers {
    /// How many workers record the run, missing ones included.
    pub count: u32,
    /// How their gradients are combined before the step.
    pub reduction: AllReduce,
    /// The workers that have a part, by rank.
    pub parts: Vec<WorkerState>,
}

/// More workers than this are not named one by one.
const NAMED_MAX: usize = 8;

impl Workers {
    /// The ranks that have no part, in ascending ranges.
    pub fn missing(&self) -> Vec<std::ops::RangeInclusive<u32>> {
        let mut missing = Vec::new();
        let mut next = 0;
        for rank in self.parts.iter().map(|part| part.rank).chain([self.count]) {
            if rank > next {
                missing.push(next..=rank - 1);
            }
            next = rank.saturating_add(1);
        }
        missing
    }

    /// Notes for results of this run: missing workers, and workers that ended early or still record. Empty if all
    /// workers are there and ended at the same step.
    pub fn notes(&self) -> Vec<String> {
        let count = self.count;
        let ranges = self.missing();
        let mut notes: Vec<String> = (ranges.iter().take(NAMED_MAX))
            .map(|ranks| match (ranks.start(), ranks.end()) {
                (first, last) if first == last => {
                    format!("worker {first} of {count} is missing: it has recorded nothing, or its folder is gone")
                }
                (first, last) => {
                    format!("workers {first} to {last} of {count} are missing: they have recorded nothing, or their folders are gone")
                }
            })
            .collect();
        if ranges.len() > NAMED_MAX {
            notes.push(format!("... and {} more ranges of workers are missing", ranges.len() - NAMED_MAX));
        }
        let last = self.parts.iter().filter_map(|part| part.last_step).max();
        let step = |step: Option<u64>| step.map_or("before its first step".into(), |step| format!("at step {step}"));
        let early = || self.parts.iter().filter(|part| part.last_step < last && !part.recording);
        for part in early().take(NAMED_MAX) {
            let how = if part.finished { "" } else { ", without finishing" };
            let (rank, own) = (part.rank, step(part.last_step));
            // All that are not named as early came to the last step, or still record.
            let others = if early().count() + 1 < self.parts.len() { "the others" } else { "the other" };
            notes.push(format!("worker {rank} of {count} ended {own}{how}, {others} {}", step(last)));
        }
        if early().count() > NAMED_MAX {
            notes.push(format!("... and {} more workers ended early", early().count() - NAMED_MAX));
        }
        let recording = self.parts.iter().filter(|part| part.recording).count();
        if recording > 0 {
            notes.push(format!(
                "{recording} of {count} workers still record; what is read ends with the last step that all of these have recorded"
            ));
        }
        notes
    }
}

impl Run {
    /// How far each worker has come, or `None` for a run of one recorder.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses.
    ///
    /// # Cost
    /// Reads the headers of all blocks.
    pub fn workers(&self) -> Result<Option<Workers>, ReadError> {
        let worker = self.parts().first().and_then(|part| part.manifest().worker);
        let Some(WorkerRecord { workers: count, reduction, .. }) = worker else { return Ok(None) };
        let parts = self.parts().iter().map(state).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Workers { count, reduction, parts }))
    }
}

/// How far the worker of this part has come.
fn state(part: &Run) -> Result<WorkerState, ReadError> {
    // Asked before the scan: a recorder that ends in between has by then committed all that it will.
    let recording = part.lock_is_held()?;
    let (mut last_step, mut finished) = (None, false);
    let mut scan = part.part_scan();
    for block in scan.by_ref() {
        match block.kind() {
            Some(BlockKind::Visits | BlockKind::Steps) => {
                // Of a block that is superseded in part, the step after which nothing counts is not in the header.
                last_step = last_step.max(block.last_step()?);
                finished = false;
            }
            Some(BlockKind::End) => finished = true,
            _ => finished = finished && !block.reopens_run(),
        }
    }
    scan.damage()?;
    let rank = part.manifest().worker.map_or(0, |worker| worker.rank);
    Ok(WorkerState { rank, last_step, finished, recording })
}
