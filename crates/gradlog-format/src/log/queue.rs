//! How full a recorder's queue is, in a file of its own that lasts as long as the recorder (FORMAT.md, "The queue").

use super::codec::DecodeError;
use super::names::QUEUE_FILE;
use super::prefix::{check_prefix, file_prefix, Prefix};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// File kind of the queue's file.
const KIND_QUEUE: u16 = 4;
/// Bytes of the file: prefix, eight numbers, checksum.
pub(crate) const QUEUE_FILE_BYTES: usize = 12 + 8 * 8 + 4;

/// How full the queue between a training and its recorder's thread is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueFill {
    /// When this was so, in milliseconds since the Unix epoch.
    pub wall_clock_ms: u64,
    /// Passes that wait.
    pub passes: u64,
    /// The most that waited since the last time that this was written.
    pub passes_peak: u64,
    /// How many may wait.
    pub passes_max: u64,
    /// Bytes of the passes that wait, and of the one that is worked on.
    pub bytes: u64,
    /// The most since the last time that this was written.
    pub bytes_peak: u64,
    /// How many bytes may wait. A single larger pass may wait alone.
    pub bytes_max: u64,
    /// Milliseconds that the training has waited for the queue since the recorder was started.
    pub waited_ms: u64,
}

impl QueueFill {
    /// The largest share of its room that the queue took up since the last time that this was written, from 0 to 1; by
    /// passes or by bytes, whichever is more.
    pub fn peak(&self) -> f64 {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) };
        share(self.passes_peak, self.passes_max).max(share(self.bytes_peak, self.bytes_max))
    }

    fn numbers(&self) -> [u64; 8] {
        [
            self.wall_clock_ms,
            self.passes,
            self.passes_peak,
            self.passes_max,
            self.bytes,
            self.bytes_peak,
            self.bytes_max,
            self.waited_ms,
        ]
    }

    fn to_bytes(self) -> [u8; QUEUE_FILE_BYTES] {
        let mut bytes = [0u8; QUEUE_FILE_BYTES];
        bytes[..12].copy_from_slice(&file_prefix(KIND_QUEUE));
        for (place, number) in bytes[12..].chunks_exact_mut(8).zip(self.numbers()) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..QUEUE_FILE_BYTES - 4]);
        bytes[QUEUE_FILE_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8; QUEUE_FILE_BYTES]) -> Result<Self, DecodeError> {
        let Prefix { rest, .. } = check_prefix(bytes, KIND_QUEUE)?;
        let (numbers, crc) = rest.split_at(8 * 8);
        if crc32fast::hash(&bytes[..QUEUE_FILE_BYTES - 4]).to_le_bytes() != *crc {
            return Err(DecodeError("the checksum of the queue's file is wrong".into()));
        }
        let mut numbers =
            numbers.chunks_exact(8).map(|eight| eight.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)));
        let mut next = || numbers.next().unwrap_or_default();
        Ok(Self {
            wall_clock_ms: next(),
            passes: next(),
            passes_peak: next(),
            passes_max: next(),
            bytes: next(),
            bytes_peak: next(),
            bytes_max: next(),
            waited_ms: next(),
        })
    }
}

/// The file that says how full the queue is. It is removed when this is dropped.
///
/// Nothing of a run depends on it. So what goes wrong here is nobody's error: the file is missing then.
#[derive(Debug)]
pub struct QueueFile {
    path: PathBuf,
    file: Option<File>,
}

impl QueueFile {
    /// Makes the file in the folder of a run, in place of one that an earlier recorder left. The caller holds the lock
    /// of the run.
    pub fn create(dir: &Path) -> Self {
        let path = dir.join(QUEUE_FILE);
        // A new file and no old one: under this name might lie a link to anything.
        let _ = std::fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).open(&path).ok();
        Self { path, file }
    }

    /// Writes how full the queue is. Nothing is synced.
    pub fn write(&mut self, fill: &QueueFill) {
        let Some(file) = &mut self.file else { return };
        if file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&fill.to_bytes())).is_err() {
            self.remove();
        }
    }

    fn remove(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for QueueFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill() -> QueueFill {
        QueueFill {
            wall_clock_ms: 1 << 41,
            passes: 3,
            passes_peak: 5,
            passes_max: 16,
            bytes: 1_000,
            bytes_peak: 3_000,
            bytes_max: 4_000,
            waited_ms: 17,
        }
    }

    #[test]
    fn the_file_holds_the_last_numbers_and_goes_with_its_recorder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(QUEUE_FILE);
        let mut file = QueueFile::create(dir.path());
        for passes in [3, 4] {
            file.write(&QueueFill { passes, ..fill() });
            let bytes: [u8; QUEUE_FILE_BYTES] = std::fs::read(&path).unwrap().try_into().unwrap();
            assert_eq!(QueueFill::parse(&bytes).unwrap(), QueueFill { passes, ..fill() });
        }
        assert_eq!(fill().peak(), 0.75);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn changed_bytes_say_nothing() {
        let bytes = fill().to_bytes();
        assert_eq!(QueueFill::parse(&bytes).unwrap(), fill());
        for bit in 0..8 * QUEUE_FILE_BYTES {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(QueueFill::parse(&changed).is_err(), "bit {bit}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_under_its_name_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        std::fs::write(&other, b"precious").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join(QUEUE_FILE)).unwrap();
        QueueFile::create(dir.path()).write(&fill());
        assert_eq!(std::fs::read(&other).unwrap(), b"precious");
        // A folder there cannot be replaced: then there is no file, and no error either.
        std::fs::create_dir(dir.path().join(QUEUE_FILE)).unwrap();
        QueueFile::create(dir.path()).write(&fill());
        assert!(dir.path().join(QUEUE_FILE).is_dir());
    }
}
