//! One worker's part of a run that several record (FORMAT.md, "Several workers"): what the manifest says of it, and its folder.

use super::{segment_path, MANIFEST_FILE};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// The most workers that a run may have.
pub const WORKERS_MAX: u32 = 1 << 16;

/// Whose part of a run this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The worker's number, from 0.
    pub rank: u32,
    /// How many workers there are.
    pub workers: u32,
    /// What the workers' gradients are made into before the step.
    pub reduction: AllReduce,
}

/// What an all-reduce makes of the workers' gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllReduce {
    /// Their mean over all workers, as PyTorch's `DistributedDataParallel` has it.
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

/// The folder of a worker's part within the run's.
pub fn worker_folder(dir: &Path, rank: u32) -> PathBuf {
    dir.join(format!("worker-{rank:04}"))
}

/// The parts that stand in the folder `dir`: ranks and folders, by rank. A folder without a manifest is no part yet.
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
        // Of all the ways to write a number only one is a worker's name. Where the system does not say whether a manifest is
        // there, opening it will tell why: to take the part for missing would hide it.
        let is_part = || match path.join(MANIFEST_FILE).metadata() {
            Ok(_) => true,
            // A recorder writes the manifest before all else, so that it was lost where a segment is there.
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
