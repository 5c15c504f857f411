//! A disk that fails: at the N-th call, once or from then on, cleanly or half-way, for every N.

use super::*;
use crate::log::Storage;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// How the disk fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// One call does nothing and says so; the next ones work.
    Once,
    /// One call does half of its work and says so; the next ones work.
    Half,
    /// That call and all after it do nothing.
    ForGood,
}

/// Real files behind a counter of calls.
struct Failing {
    real: MmapStorage,
    calls: Arc<AtomicU64>,
    at: u64,
    fault: Fault,
}

impl Failing {
    /// Whether this call fails.
    fn fails(&mut self) -> bool {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        call == self.at || self.fault == Fault::ForGood && call > self.at
    }

    fn put(&mut self, offset: u64, bytes: &[u8], commit: bool) -> io::Result<()> {
        if self.fails() {
            if self.fault == Fault::Half {
                self.real.write(offset, &bytes[..bytes.len() / 2])?;
            }
            return Err(failure());
        }
        if commit {
            self.real.commit(offset, bytes)
        } else {
            self.real.write(offset, bytes)
        }
    }
}

fn failure() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on the test")
}

impl Storage for Failing {
    fn open(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        if self.fails() {
            if self.fault == Fault::Half {
                self.real.open(path, bytes)?;
            }
            return Err(failure());
        }
        self.real.open(path, bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(offset, bytes, false)
    }

    fn commit(&mut self, offset: u64, header: &[u8]) -> io::Result<()> {
        self.put(offset, header, true)
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.fails() {
            true => Err(failure()),
            false => self.real.sync(),
        }
    }

    fn close(&mut self, used: u64) -> io::Result<()> {
        match self.fails() {
            true => Err(failure()),
            false => self.real.close(used),
        }
    }
}

/// Writes the sample run up to the first error: how many blocks were taken, and the error.
fn write_until_error(writer: &mut LogWriter) -> (usize, Result<(), LogError>) {
    let mut taken = 0;
    for index in 0..SAMPLE_BLOCKS {
        if let Err(error) = writer.append(&mut sample_block(index)) {
            return (taken, Err(error));
        }
        taken += 1;
        if index % 3 == 2 {
            if let Err(error) = writer.sync() {
                return (taken, Err(error));
            }
        }
    }
    (taken, writer.finish())
}

#[test]
fn a_disk_that_fails_at_any_call_gives_an_error_and_keeps_what_was_there() {
    let whole = tempfile::tempdir().unwrap();
    write_sample(whole.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    let written = read(whole.path()).unwrap().blocks;
    let mut faults = 0;
    for fault in [Fault::Once, Fault::Half, Fault::ForGood] {
        for at in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let calls = Arc::new(AtomicU64::new(0));
            let storage = Failing { real: MmapStorage::default(), calls: calls.clone(), at, fault };
            let mut writer = LogWriter::create_on(Box::new(storage), dir.path(), &manifest(), options()).unwrap();
            let (taken, result) = write_until_error(&mut writer);
            let what = format!("{fault:?} at call {at}, {taken} blocks taken");
            if calls.load(Ordering::Relaxed) <= at {
                result.unwrap();
                break;
            }
            faults += 1;
            let error = result.expect_err(&what);
            assert!(matches!(&error, LogError::Io { .. }), "{what}: {error}");
            assert!(error.to_string().contains("no space left on the test"), "{what}: {error}");
            // As a reader finds it while the writer still stands there, and after it was dropped.
            let now = tempfile::tempdir().unwrap();
            copy(dir.path(), now.path());
            drop(writer);
            for dir in [now.path(), dir.path()] {
                let reading = read(dir).unwrap();
                assert_prefix(&reading, &written, &what);
                // Bodies go before headers, so only a header that was written by half looks like damage.
                assert!(fault == Fault::Half || !reading.complains(), "{what}: {reading:?}");
                // A block whose header failed half-way may be there in full or not; one that was taken always is.
                let seen = reading.blocks.len();
                assert!(seen == taken || seen == taken + 1, "{what}: {seen} blocks");
            }
        }
    }
    println!("{faults} faults");
    assert!(faults > 60);
}

#[test]
fn a_manifest_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("manifest.new")).unwrap();
    let error = LogWriter::create(dir.path(), &manifest(), options()).err().unwrap();
    assert!(matches!(&error, LogError::Io { .. }), "{error}");
    assert!(Run::open(dir.path()).is_err());
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(LogWriter::create(&file, &manifest(), options()).err().unwrap(), LogError::Io { .. }));
}

#[test]
fn a_folder_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let writer = write_sample(dir.path(), 1).unwrap();
    let again = |dir: &Path| LogWriter::create(dir, &manifest(), options()).err().unwrap();
    assert!(matches!(again(dir.path()), LogError::Locked { .. }));
    drop(writer);
    assert!(matches!(again(dir.path()), LogError::Exists { .. }));
    assert_eq!(read(dir.path()).unwrap().blocks.len(), 1, "a refused writer leaves the run alone");
}
