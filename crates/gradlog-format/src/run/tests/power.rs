//! The power is cut: at the N-th call, for every N, and what reached the device is the worst that may have.
//!
//! A disk is two images of each file, `live` (what the process sees) and `durable` (what is there after the cut). A
//! sync that returned makes the one the other. What was written after it may be there or not, page by page, in any
//! order, each page as it was after any of its writes; so may the file's new length, and the name of a file whose
//! making had not returned. That is all that FORMAT.md, "What is assumed of the file system", lets a file system do.

use super::*;
use crate::log::{segment_path, Storage};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One file.
struct Image {
    /// Of each page, every state since the last sync that returned; the first is durable, the last is live.
    pages: Vec<Vec<Vec<u8>>>,
    bytes: usize,
    /// Lengths that the file may have on the device.
    lengths: Vec<usize>,
    /// Whether the name is durable.
    named: bool,
}

impl Image {
    fn write(&mut self, page_bytes: usize, offset: usize, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let (page, within) = (at / page_bytes, at % page_bytes);
            let part = (page_bytes - within).min(bytes.len() - done);
            let mut next = self.pages[page].last().unwrap().clone();
            next[within..within + part].copy_from_slice(&bytes[done..done + part]);
            self.pages[page].push(next);
            done += part;
        }
    }

    fn sync(&mut self) {
        for states in &mut self.pages {
            let live = states.pop().unwrap();
            *states = vec![live];
        }
        self.lengths = vec![self.bytes];
    }
}

/// All files, and how often the disk may still be called.
struct Disk {
    page_bytes: usize,
    files: BTreeMap<PathBuf, Image>,
    current: Option<PathBuf>,
    calls: u64,
    cut_at: u64,
    /// Blocks that were committed, and those of them that a sync or close that returned has covered.
    committed: usize,
    safe: usize,
}

/// How far a call gets.
#[derive(PartialEq)]
enum Reach {
    /// It returns.
    Done,
    /// The power fails within it: all that it does may be on the device or not.
    Cut,
}

impl Disk {
    fn call(&mut self) -> io::Result<Reach> {
        let call = self.calls;
        self.calls += 1;
        match call.cmp(&self.cut_at) {
            std::cmp::Ordering::Less => Ok(Reach::Done),
            std::cmp::Ordering::Equal => Ok(Reach::Cut),
            std::cmp::Ordering::Greater => Err(dark()),
        }
    }

    fn image(&mut self) -> &mut Image {
        let path = self.current.clone().expect("a file is open");
        self.files.get_mut(&path).unwrap()
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let reach = self.call()?;
        let page_bytes = self.page_bytes;
        self.image().write(page_bytes, offset as usize, bytes);
        answer(reach)
    }

    /// The files as a reader finds them after the cut: `pick` chooses one of so many possibilities.
    fn after(&self, to: &Path, pick: &mut dyn FnMut(usize) -> usize) {
        for (path, image) in &self.files {
            if !image.named && pick(2) == 0 {
                continue;
            }
            let length = image.lengths[pick(image.lengths.len())];
            let mut bytes: Vec<u8> = image.pages.iter().flat_map(|states| states[pick(states.len())].clone()).collect();
            bytes.truncate(length);
            std::fs::write(to.join(path.file_name().unwrap()), bytes).unwrap();
        }
    }
}

fn dark() -> io::Error {
    io::Error::other("the power is off")
}

fn answer(reach: Reach) -> io::Result<()> {
    match reach {
        Reach::Done => Ok(()),
        Reach::Cut => Err(dark()),
    }
}

struct Power(Arc<Mutex<Disk>>);

/// The disk, also after an assertion has failed while somebody held it: the writer still closes its segment then.
fn hold(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for Power {
    fn open(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let disk = &mut *hold(&self.0);
        let reach = disk.call()?;
        let (page_bytes, bytes) = (disk.page_bytes, bytes as usize);
        let pages = vec![vec![vec![0; page_bytes]]; bytes.div_ceil(page_bytes)];
        // The folder is synced, the file is not: its name is sure, its length is not.
        let image = Image { pages, bytes, lengths: vec![0, bytes / 2, bytes], named: reach == Reach::Done };
        assert!(disk.files.insert(path.to_owned(), image).is_none(), "a segment is made twice");
        disk.current = Some(path.to_owned());
        answer(reach)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        hold(&self.0).put(offset, bytes)
    }

    fn commit(&mut self, offset: u64, header: &[u8]) -> io::Result<()> {
        let disk = &mut *hold(&self.0);
        disk.put(offset, header)?;
        // At the start of a file stands its own header.
        disk.committed += usize::from(offset > 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let disk = &mut *hold(&self.0);
        answer(disk.call()?)?;
        disk.image().sync();
        disk.safe = disk.committed;
        Ok(())
    }

    fn close(&mut self, used: u64) -> io::Result<()> {
        let disk = &mut *hold(&self.0);
        let reach = disk.call()?;
        let image = disk.image();
        image.lengths.push(used as usize);
        answer(reach)?;
        image.bytes = used as usize;
        image.sync();
        disk.safe = disk.committed;
        disk.current = None;
        Ok(())
    }
}

/// How large things are: in one of these a block is smaller than a page, in one it is larger.
#[derive(Debug, Clone, Copy)]
struct Scale {
    page_bytes: usize,
    segment_bytes: u64,
    rows_max: u64,
}

const SCALES: [Scale; 3] = [
    Scale { page_bytes: 4096, segment_bytes: 6_000, rows_max: 20 },
    Scale { page_bytes: 512, segment_bytes: 9_000, rows_max: 100 },
    Scale { page_bytes: 4096, segment_bytes: 60_000, rows_max: 1_000 },
];
const BLOCKS: u64 = 20;

fn block(index: u64, scale: Scale) -> BlockBuilder {
    let kind = if index + 1 == BLOCKS { BlockKind::End } else { BlockKind::Visits };
    let mut builder = BlockBuilder::new(kind);
    let rows = if kind == BlockKind::End { 1 } else { 1 + number(index, 0) % scale.rows_max };
    for row in 0..rows {
        let stream = index << 32 | row;
        if kind == BlockKind::End {
            builder.u64s(Column::Visits, [0]);
            builder.u64s(Column::Dropped, [0]);
        } else {
            builder.u64s(Column::Step, [index]);
            builder.u32s(Column::Epoch, [0]);
        }
        builder.u64s(Column::Example, [number(stream, 1)]);
        builder.f32s(Column::Loss, [float(stream, 2)]);
        builder.u32s(Column::Label, [(number(stream, 3) % 3) as u32]);
        builder.advance(1, index, 0);
    }
    builder
}

/// Writes all blocks to a disk whose power is cut at call `cut_at`, if it comes to that.
fn write(dir: &Path, scale: Scale, cut_at: u64) -> (Arc<Mutex<Disk>>, Result<(), LogError>) {
    let disk = Arc::new(Mutex::new(Disk {
        page_bytes: scale.page_bytes,
        files: BTreeMap::new(),
        current: None,
        calls: 0,
        cut_at,
        committed: 0,
        safe: 0,
    }));
    let options = WriterOptions { segment_bytes: scale.segment_bytes, zstd_level: 1 };
    let mut writer = LogWriter::create_on(Box::new(Power(disk.clone())), dir, &manifest(), options).unwrap();
    let result = (|| {
        for index in 0..BLOCKS {
            writer.append(&mut block(index, scale))?;
            if number(index, 4).is_multiple_of(3) {
                writer.sync()?;
                assert_eq!(hold(&disk).safe as u64, index + 1, "a sync returned and had not covered all");
            }
        }
        writer.finish()
    })();
    (disk, result)
}

/// The ways in which pages are chosen: all old, all new, only the last or the first new, and at random.
fn pick(way: u64, seed: u64) -> impl FnMut(usize) -> usize {
    let mut asked = 0;
    move |count| {
        asked += 1;
        match way {
            0 => 0,
            1 => count - 1,
            2 => (count - 1) * usize::from(asked % 2 == 0),
            3 => (count - 1) * usize::from(asked % 2 == 1),
            _ => number(seed ^ way << 40, asked) as usize % count,
        }
    }
}

#[test]
fn a_power_cut_at_any_call_keeps_what_was_synced_and_invents_nothing() {
    let (mut cuts, mut images, mut torn) = (0, 0, 0);
    for scale in SCALES {
        let whole = tempfile::tempdir().unwrap();
        let (disk, result) = write(whole.path(), scale, u64::MAX);
        result.unwrap();
        hold(&disk).after(whole.path(), &mut |_| 0);
        let written = read(whole.path()).unwrap();
        assert!(!written.complains() && written.report.finished, "{scale:?}: {written:?}");
        assert_eq!(written.blocks.len() as u64, BLOCKS);
        let calls = hold(&disk).calls;
        for cut_at in 0..calls {
            cuts += 1;
            let dir = tempfile::tempdir().unwrap();
            let (disk, result) = write(dir.path(), scale, cut_at);
            assert!(matches!(result, Err(LogError::Io { .. })), "{scale:?}, call {cut_at}: {result:?}");
            let disk = hold(&disk);
            for way in 0..12 {
                images += 1;
                let after = tempfile::tempdir().unwrap();
                copy(dir.path(), after.path());
                disk.after(after.path(), &mut pick(way, cut_at));
                let what = format!("{scale:?}, cut at call {cut_at} of {calls}, pages chosen by way {way}");
                let reading = read(after.path()).unwrap();
                assert_prefix(&reading, &written.blocks, &what);
                let (seen, safe) = (reading.blocks.len(), disk.safe);
                assert!(seen >= safe, "{what}: {safe} blocks had been synced, {seen} can be read: {reading:?}");
                assert_eq!(reading.report.finished, seen as u64 == BLOCKS, "{what}");
                if let Some(damage) = &reading.report.damage {
                    torn += 1;
                    let last = segment_path(after.path(), disk.files.len() as u32 - 1);
                    assert_eq!(damage.path, last, "{what}: {damage}: only the last segment can be torn");
                }
            }
        }
    }
    println!("{cuts} cuts, {images} images of the disk, {torn} of them with a torn tail that was reported");
    assert!(cuts > 150 && torn > 100, "{cuts} {torn}");
}
