//! The interface between the writer and the file system.
//!
//! The memory map is the only unsafe code of this crate. Everything here runs on the thread that owns the writer.

use memmap2::MmapMut;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{fence, Ordering};

/// Holds the segment that is being written. Tests implement it to simulate full or failing disks.
///
/// One segment is open at a time. `close` ends it.
pub trait Storage: Send {
    /// Creates `path` with `bytes` bytes reserved on disk, all zero. The file must not exist.
    fn open(&mut self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Writes `bytes` at `offset`.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes `header` at `offset`, after everything that was written before. This commits a block.
    fn commit(&mut self, offset: u64, header: &[u8]) -> io::Result<()>;
    /// Returns when everything that was written is on the device.
    fn sync(&mut self) -> io::Result<()>;
    /// Syncs, cuts the file to its first `used` bytes and closes it.
    fn close(&mut self, used: u64) -> io::Result<()>;
}

/// Memory-mapped files. A write is a copy into the page cache. It survives the process, however that ends.
#[derive(Debug, Default)]
pub struct MmapStorage {
    current: Option<Mapped>,
}

#[derive(Debug)]
struct Mapped {
    file: File,
    map: MmapMut,
    path: PathBuf,
    /// The bytes that were written since the last sync.
    written: Range<usize>,
}

impl Mapped {
    /// Takes the pages that were written out of this process's page table. They stay in the page cache.
    ///
    /// A sync marks every page of a map as clean, which interrupts the other cores of the process, and so the training,
    /// once a page: that took a quarter of the background thread's time. This interrupts them once in all.
    fn release_pages(&mut self) {
        let written = std::mem::take(&mut self.written);
        #[cfg(target_os = "linux")]
        if !written.is_empty() {
            use memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: of a shared map of a file this gives up the map's pages and no data: a later access finds in the
            // page cache what was written (madvise(2)). No reference to the map's contents outlives a call.
            let released = unsafe { self.map.unchecked_advise_range(DontNeed, written.start, written.len()) };
            // Where the system refuses, a sync takes longer.
            drop(released);
        }
        #[cfg(not(target_os = "linux"))]
        drop(written);
    }
}

impl Storage for MmapStorage {
    fn open(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        check_size_limit(bytes)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let mapped = reserve(&file, bytes).and_then(|()| {
            // SAFETY: a file-backed map is undefined behavior only if the file is cut or changed by others meanwhile.
            // This call created the file and reserved its space, and this recorder holds the lock of the run's folder.
            // The map is only written: no reference to its contents outlives a call. If a person truncates the file by
            // hand, the process gets a SIGBUS. No code in user space can turn that into an error.
            unsafe { MmapMut::map_mut(&file) }
        });
        match mapped {
            Ok(map) => {
                // A power cut must not remove the file's name and keep its bytes.
                sync_folder(path)?;
                self.current = Some(Mapped { file, map, path: path.to_owned(), written: 0..0 });
                Ok(())
            }
            Err(error) => {
                // On a full disk, do not keep a segment that nothing will be written to.
                let _ = std::fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.place(offset, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn commit(&mut self, offset: u64, header: &[u8]) -> io::Result<()> {
        // Neither compiler nor processor may make the header visible before the body.
        fence(Ordering::SeqCst);
        self.write(offset, header)?;
        fence(Ordering::SeqCst);
        self.current.as_ref().map_or(Ok(()), |mapped| has_name(&mapped.file))
    }

    fn sync(&mut self) -> io::Result<()> {
        match &mut self.current {
            Some(mapped) => {
                mapped.release_pages();
                mapped.map.flush().and_then(|()| has_name(&mapped.file))
            }
            None => Ok(()),
        }
    }

    fn close(&mut self, used: u64) -> io::Result<()> {
        let Some(mut mapped) = self.current.take() else {
            return Ok(());
        };
        mapped.release_pages();
        let Mapped { file, map, path, .. } = mapped;
        map.flush()?;
        drop(map);
        file.set_len(used)?;
        file.sync_all()?;
        has_name(&file)?;
        sync_folder(&path)
    }
}

impl MmapStorage {
    fn place(&mut self, offset: u64, len: usize) -> io::Result<&mut [u8]> {
        let mapped = self.current.as_mut().ok_or_else(|| io::Error::other("no segment is open"))?;
        let past_the_end = || io::Error::other("a write past the end of the segment");
        let start = usize::try_from(offset).map_err(|_| past_the_end())?;
        let end = start.checked_add(len).filter(|end| *end <= mapped.map.len()).ok_or_else(past_the_end)?;
        let Range { start: first, end: last } = mapped.written;
        mapped.written = if first == last { start..end } else { first.min(start)..last.max(end) };
        Ok(&mut mapped.map[start..end])
    }
}

/// Reserves real disk blocks. Without them, a full disk causes a SIGBUS at a later store into the map.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    reserved(fs4::FileExt::allocate(file, bytes), file, bytes)
}

/// Passes on the result of a reservation. If the file system has no reservations, writes zeros instead, which is
/// slower. Some network and FUSE file systems have none, nor has ramfs.
fn reserved(asked: io::Result<()>, mut file: &File, bytes: u64) -> io::Result<()> {
    match asked {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            let zeros = vec![0u8; 1 << 16];
            let mut left = bytes;
            while left > 0 {
                let now = left.min(zeros.len() as u64);
                file.write_all(&zeros[..now as usize])?;
                left -= now;
            }
            Ok(())
        }
        other => other,
    }
}

/// Checks that this process may have a file of `bytes` bytes (`ulimit -f`). A write past that limit would raise the
/// signal SIGXFSZ, which ends the training.
///
/// # Errors
/// `FileTooLarge` if the limit is lower.
pub fn check_size_limit(bytes: u64) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        if bytes > limit {
            let what = format!(
                "{bytes} bytes in one file, where `ulimit -f` allows this process {limit}: raise it, or lower `segment_bytes`"
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
    }
    let _ = bytes; // other systems have no such limit
    Ok(())
}

/// An error if the file was deleted. The map still takes writes then, and they are lost when the process ends.
fn has_name(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it was deleted while it was being recorded into"));
    }
    #[cfg(not(unix))]
    let _ = file; // an open file cannot be deleted there
    Ok(())
}

/// Opens a file for reading. Refuses a pipe, which would wait for a writer, and a device.
///
/// # Errors
/// The error of the file system, and `InvalidData` if it is no regular file.
pub fn open_file(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// As [`open_file`], with other options.
pub fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Of a file it means nothing; a pipe is opened without waiting for its other end.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file, but a folder, a pipe or a device")),
    }
}

/// The first place at or after `from` that is not in a hole of the file. `None` if only a hole follows, `from` if the
/// system does not know. A file of holes can have any length and would read as zeros for hours.
pub fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(place) => return Ok(Some(place.max(from))),
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        // Not every file system can say.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let _ = file;
    Ok(Some(from))
}

/// Makes the entry of `path` in its folder durable.
///
/// # Errors
/// The error of the file system.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    // Only Unix can open and sync a folder.
    match path.parent() {
        Some(folder) if cfg!(unix) => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder)?.sync_all()
        }
        _ => Ok(()),
    }
}

/// Makes the folder `dir` and its missing parents, all durable: after a power cut a synced run still has its name.
///
/// # Errors
/// The error of the file system.
pub fn make_folder(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    std::fs::create_dir_all(dir)?;
    missing.into_iter().try_for_each(sync_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages that a sync took out of the map are there again when they are written to.
    #[test]
    fn what_was_written_before_a_sync_and_after_it_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let mut storage = MmapStorage::default();
        storage.open(&path, 100_000).unwrap();
        let mut expected = vec![0u8; 60_000];
        let mut place = 0;
        for number in 1..=200u8 {
            let length = 1 + usize::from(number) * 37 % 400;
            let bytes = vec![number; length];
            storage.write(place as u64, &bytes).unwrap();
            expected[place..place + length].copy_from_slice(&bytes);
            place += length;
            if number % 7 == 0 {
                storage.sync().unwrap();
                // A header, before what was written last.
                storage.commit(3, &[number]).unwrap();
                expected[3] = number;
            }
        }
        assert_eq!(std::fs::read(&path).unwrap()[..place], expected[..place]);
        storage.close(place as u64).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), expected[..place]);
        assert!(storage.write(0, &[1]).is_err());

        storage.open(&dir.path().join("next"), 5_000).unwrap();
        assert!(storage.write(4_999, &[1, 2]).is_err() && storage.write(u64::MAX, &[1]).is_err());
        storage.sync().unwrap();
        storage.close(0).unwrap();
    }

    #[test]
    fn where_no_space_can_be_reserved_zeros_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let bytes = (3 << 16) + 17;
        reserved(Err(io::ErrorKind::Unsupported.into()), &file, bytes).unwrap();
        let about = file.metadata().unwrap();
        assert_eq!(about.len(), bytes);
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
        // A file that was only made longer is a hole. On a full disk, a store into its map is a SIGBUS.
        #[cfg(unix)]
        {
            file.sync_all().unwrap();
            let held = 512 * std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
            assert!(held >= bytes, "{held} bytes on disk");
            assert_eq!(next_data(&file, 0).unwrap(), Some(0));
        }
        // Any other answer is the answer.
        let full = reserved(Err(io::ErrorKind::StorageFull.into()), &file, bytes).unwrap_err();
        assert_eq!((full.kind(), file.metadata().unwrap().len()), (io::ErrorKind::StorageFull, bytes));
        let read_only = File::open(&path).unwrap();
        assert!(reserved(Err(io::ErrorKind::Unsupported.into()), &read_only, bytes).is_err());
    }
}
