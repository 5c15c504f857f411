//! What the log does not say: whether somebody writes it, how full the queue of that process is, and its memory.

use gradlog_format::log::{QueueFill, LOCK_FILE};
use gradlog_format::run::Run;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is known beside the log, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outside {
    /// How many of the run's recorders hold their locks.
    pub recorders: usize,
    /// The processes that hold them and their resident bytes, as far as this machine knows.
    pub processes: Vec<(u32, u64)>,
    /// What they said last of their queues, as far as they did.
    pub queues: Vec<QueueFill>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl Outside {
    /// Asks for the locks of all recorders. Ask before reading: if a recorder ends in between, all its blocks are read.
    pub(super) fn ask(run: &Run) -> Self {
        let parts = if run.parts().is_empty() { std::slice::from_ref(run) } else { run.parts() };
        let held: Vec<&Run> = parts.iter().filter(|part| part.is_being_written()).collect();
        let mut processes: Vec<(u32, u64)> =
            held.iter().filter_map(|part| process::holder(&part.dir().join(LOCK_FILE))).collect();
        processes.sort_unstable();
        processes.dedup();
        let queues = held.iter().filter_map(|part| part.queue_fill()).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { recorders: held.len(), processes, queues, now_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX) }
    }
}

#[cfg(target_os = "linux")]
pub(super) mod process {
    //! Linux names the holder of a lock in `/proc/locks` (proc_locks(5)).

    use super::Path;
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    /// The most bytes of a file in `/proc` that are read.
    const BYTES_MAX: u64 = 1 << 20;

    /// The process that holds the lock of this file, and its resident bytes. `None` if it is on another machine or in
    /// another container.
    pub(in super::super) fn holder(lock: &Path) -> Option<(u32, u64)> {
        let about = std::fs::metadata(lock).ok()?;
        let pid = find_holder(&read("/proc/locks")?, about.dev(), about.ino())?;
        Some((pid, resident_bytes(&read(&format!("/proc/{pid}/status"))?)?))
    }

    fn read(path: &str) -> Option<String> {
        let mut text = String::new();
        File::open(path).ok()?.take(BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Finds `1: FLOCK  ADVISORY  WRITE 4711 fe:00:131090 0 EOF`, whose numbers of the device are hexadecimal.
    pub(in super::super) fn find_holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
        let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
        let minor = (device & 0xff) | ((device >> 12) & !0xff);
        let file = format!("{major:02x}:{minor:02x}:{inode}");
        let words = |line: &str| -> Option<u32> {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [_, "FLOCK", _, "WRITE", pid, place, ..] if place == file => pid.parse().ok(),
                _ => None,
            }
        };
        locks.lines().find_map(words)
    }

    /// Finds `VmRSS:      123456 kB`.
    pub(in super::super) fn resident_bytes(status: &str) -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }
}

#[cfg(not(target_os = "linux"))]
mod process {
    pub(super) fn holder(_lock: &super::Path) -> Option<(u32, u64)> {
        None
    }
}
