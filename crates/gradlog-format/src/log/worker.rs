//! The parts of a run that several workers record (FORMAT.md, "Several workers"): their entry in the manifest, their
//! folders.

use super::{segment_path, MANIFEST_FILE};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// The most workers that a run may have.
pub const WORKERS_MAX: u32 = 1 << 16;

/// The worker that recorded a part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The worker's number, from 0.
    pub rank: u32,
    /// How many workers record the run (the world size).
    pub workers: u32,
    /// How the workers' gradients are combined before the step.
    pub reduction: AllReduce,
}

/// How an all-reduce combines the workers' gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllReduce {
    /// Their mean over all workers, as in PyTorch's `DistributedDataParallel`.
    Mean,
    /// Their sum.
    Sum,
}

impl std::fmt::Display for AllReduce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AllReduce::Mean => "mean",
            AllReduce::Sum => "sum",
        })
    }
}

/// The folder of a worker's part of the run in the folder `dir`.
pub fn worker_folder(dir: &Path, rank: u32) -> PathBuf {
    dir.join(format!("worker-{rank:04}"))
}

/// The ranks and folders of the parts in the folder `dir`, sorted by rank. A folder without a manifest is no part yet.
///
/// # Errors
/// The error of the file system if the folder cannot be listed. A folder that does not exist has no parts.
pub fn worker_folders(dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let digits = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("worker-"));
        let Some(rank) = digits.and_then(|digits| digits.parse::<u32>().ok()) else { continue };
        // A rank has one spelling only. If the system refuses to look for the manifest, the folder counts as a part:
        // opening it will report the error.
        let is_part = || match path.join(MANIFEST_FILE).metadata() {
            Ok(_) => true,
            // A recorder writes the manifest first. A segment without it means that the manifest was lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => segment_path(&path, 0).exists(),
            Err(error) => error.kind() != io::ErrorKind::NotADirectory,
        };
        if rank < WORKERS_MAX && worker_folder(dir, rank) == path && is_part() {
            found.push((rank, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_with_a_manifest_or_a_segment_and_the_one_name_are_parts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(worker_folders(&dir.path().join("none")).unwrap(), []);
        for name in ["worker-0002", "worker-0000", "worker-1", "worker-00003", "worker-12345", "worker-65536", "other"]
        {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join(MANIFEST_FILE), []).unwrap();
        }
        std::fs::create_dir(dir.path().join("worker-0004")).unwrap();
        // One with a segment had a manifest.
        std::fs::create_dir(dir.path().join("worker-0005")).unwrap();
        std::fs::write(segment_path(&dir.path().join("worker-0005"), 0), []).unwrap();
        let part = |rank: u32| (rank, worker_folder(dir.path(), rank));
        assert_eq!(worker_folders(dir.path()).unwrap(), [part(0), part(2), part(5), part(12345)]);
    }
}
