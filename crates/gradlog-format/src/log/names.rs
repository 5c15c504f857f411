//! Names of the files and folders of a run (FORMAT.md, "Files of a run").

use super::worker::WORKERS_MAX;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the manifest in a run's folder.
pub const MANIFEST_FILE: &str = "manifest";
/// Name of the folder in a run's folder that holds its checkpoints.
pub const CHECKPOINT_FOLDER: &str = "checkpoints";
/// Name of the file in a run's folder that a recorder holds locked while it writes.
pub const LOCK_FILE: &str = "lock";
/// Name of the file in a run's folder that says how full the queue of its recorder is.
pub const QUEUE_FILE: &str = "queue";

/// The path of segment `index` of the run in `dir`.
pub fn segment_path(dir: &Path, index: u32) -> PathBuf {
    dir.join(format!("segment-{index:05}.glog"))
}

/// The path of the checkpoint taken before step `step` of the run in `dir`.
pub fn checkpoint_path(dir: &Path, step: u64) -> PathBuf {
    dir.join(CHECKPOINT_FOLDER).join(format!("step-{step:08}.safetensors"))
}

/// The folder of a worker's part of the run in the folder `dir`.
pub fn worker_folder(dir: &Path, rank: u32) -> PathBuf {
    dir.join(format!("worker-{rank:04}"))
}

/// The rank of the worker whose part has a folder of this name. A rank has one spelling only.
pub(crate) fn worker_rank(name: &str) -> Option<u32> {
    let rank = name.strip_prefix("worker-")?.parse::<u32>().ok()?;
    (rank < WORKERS_MAX && worker_folder(Path::new(""), rank) == Path::new(name)).then_some(rank)
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
        let Some(rank) = path.file_name().and_then(|name| worker_rank(name.to_str()?)) else { continue };
        // If the system refuses to look for the manifest, the folder counts as a part: opening it will report the
        // error.
        let is_part = || match path.join(MANIFEST_FILE).metadata() {
            Ok(_) => true,
            // A recorder writes the manifest first. A segment without it means that the manifest was lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => segment_path(&path, 0).exists(),
            Err(error) => error.kind() != io::ErrorKind::NotADirectory,
        };
        if is_part() {
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
