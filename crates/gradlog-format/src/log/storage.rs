//! Where segments live: the seam between the writer and the file system.
//!
//! The only file of the crate's offline side with unsafe code, which is the memory map itself.
//! Runs on whichever thread owns the writer; nothing here is shared.

use memmap2::MmapMut;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{fence, Ordering};

/// One growing segment at a time. `open` ends the one before only if `close` was called.
pub trait Storage: Send {
    /// Creates `path` with `bytes` bytes reserved on disk, all zero. The file must not exist.
    fn open(&mut self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Puts `bytes` at `offset`.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Puts `header` at `offset`, after everything that was written before: this is what commits a block.
    fn commit(&mut self, offset: u64, header: &[u8]) -> io::Result<()>;
    /// Returns when all that was written is on the device.
    fn sync(&mut self) -> io::Result<()>;
    /// Syncs, cuts the file to its first `used` bytes and lets go of it.
    fn close(&mut self, used: u64) -> io::Result<()>;
}

/// Memory-mapped files. A write is a copy into the page cache, so it survives the process, whatever kills it.
#[derive(Default)]
pub struct MmapStorage {
    current: Option<Mapped>,
}

struct Mapped {
    file: File,
    map: MmapMut,
    path: PathBuf,
}

impl Storage for MmapStorage {
    fn open(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        check_size_limit(bytes)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let mapped = reserve(&file, bytes).and_then(|()| {
            // SAFETY: a file-backed map is undefined behaviour only if the file is cut short or changed under it.
            // The file was made by this call, its space is reserved, the run's folder is locked by this recorder, and
            // the map is write-only for us: no reference to its contents outlives a call. Somebody who truncates
            // the file by hand gets a SIGBUS, which no user-space code can turn into an error.
            unsafe { MmapMut::map_mut(&file) }
        });
        match mapped {
            Ok(map) => {
                // A power cut must not take the file's name while it keeps its bytes.
                sync_folder(path)?;
                self.current = Some(Mapped { file, map, path: path.to_owned() });
                Ok(())
            }
            Err(error) => {
                // A full disk must not keep a segment that nothing will ever be written to.
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
        // Neither compiler nor processor may let the header become visible before the body it vouches for.
        fence(Ordering::SeqCst);
        self.write(offset, header)?;
        fence(Ordering::SeqCst);
        self.current.as_ref().map_or(Ok(()), |mapped| has_name(&mapped.file))
    }

    fn sync(&mut self) -> io::Result<()> {
        match &self.current {
            Some(mapped) => mapped.map.flush().and_then(|()| has_name(&mapped.file)),
            None => Ok(()),
        }
    }

    fn close(&mut self, used: u64) -> io::Result<()> {
        let Some(Mapped { file, map, path }) = self.current.take() else {
            return Ok(());
        };
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
        usize::try_from(offset)
            .ok()
            .and_then(|start| mapped.map.get_mut(start..start.checked_add(len)?))
            .ok_or_else(|| io::Error::other("a write past the end of the segment"))
    }
}

/// Reserves real disk blocks: without them a full disk shows as a SIGBUS at some later store into the map.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    reserved(fs4::FileExt::allocate(file, bytes), file, bytes)
}

/// What came of asking for a reservation, or where the file system has none, zeros: they have the same effect, only slower.
/// Some network and FUSE file systems, and ramfs, are such.
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

/// An error if this process may not have a file of `bytes` bytes (`ulimit -f`). To find that out by asking for one would bring a
/// signal, SIGXFSZ, which ends the training.
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

/// An error if the file was deleted: the map goes on taking what is written to it, and all of that ends with the process.
fn has_name(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it was deleted while it was being recorded into"));
    }
    #[cfg(not(unix))]
    let _ = file; // an open file cannot be deleted there
    Ok(())
}

/// Opens a file for reading, whatever stands under its name: a pipe, which would wait for a writer, and a device are refused.
///
/// # Errors
/// What the system says, and `InvalidData` for what is no file.
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

/// The first place at or after `from` that is not in a hole of the file, or `None` if nothing but a hole follows. Where the
/// system does not tell, it is `from`. A file of holes can be as long as its maker likes, and reads as zeros for hours.
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
pub fn sync_folder(path: &Path) -> io::Result<()> {
    // Only Unix lets a folder be opened and synced; elsewhere the file system sees to it.
    match path.parent() {
        Some(folder) if cfg!(unix) => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder)?.sync_all()
        }
        _ => Ok(()),
    }
}

/// Makes the folder `dir` and those above it that are missing, all of them durable: a power cut that took the name of one
/// would take a synced run with it.
pub fn make_folder(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    std::fs::create_dir_all(dir)?;
    missing.into_iter().try_for_each(sync_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // A file that was only made longer is a hole, and a store into the map of one on a full disk is a SIGBUS.
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
