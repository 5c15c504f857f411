//! What is said last on a disk that is full to the last page (FORMAT.md, "A failing disk").

use super::*;
use crate::log::Storage;
use std::io;

const PAGE_BYTES: u64 = 4096;

/// A disk of so many pages, of which files take whole ones.
struct SmallDisk {
    files: MmapStorage,
    free_pages: u64,
    open_pages: u64,
}

impl Storage for SmallDisk {
    fn open(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let pages = bytes.div_ceil(PAGE_BYTES);
        if pages > self.free_pages {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.free_pages -= pages;
        self.open_pages = pages;
        self.files.open(path, bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.files.write(offset, bytes)
    }

    fn commit(&mut self, offset: u64, header: &[u8]) -> io::Result<()> {
        self.files.commit(offset, header)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.files.sync()
    }

    fn close(&mut self, used: u64) -> io::Result<()> {
        self.free_pages += self.open_pages - used.div_ceil(PAGE_BYTES);
        self.open_pages = 0;
        self.files.close(used)
    }
}

/// Blocks of `rows` rows that do not compress.
fn block(rows: u32, number_of: u64) -> BlockBuilder {
    let mut block = BlockBuilder::new(BlockKind::Visits);
    block.u64s(Column::Example, (0..rows).map(|row| number(number_of, row)));
    block.u64s(Column::Step, (0..rows).map(|_| number_of));
    block.u32s(Column::Epoch, (0..rows).map(|_| 0));
    block.advance(rows, number_of, 0);
    block
}

/// Fills a disk of two segments with blocks of one length, and says the last words; whether that could be done.
fn last_words(dir: &Path, rows: u32, spare: bool) -> bool {
    let storage = SmallDisk { files: MmapStorage::default(), free_pages: 32, open_pages: 0 };
    let options = WriterOptions { segment_bytes: 16 * PAGE_BYTES, zstd_level: 1 };
    let mut writer = LogWriter::create_on(Box::new(storage), dir, &manifest(), options).unwrap();
    if spare {
        writer.spare_room();
    }
    let mut blocks = 0;
    while writer.append(&mut block(rows, blocks)).is_ok() {
        blocks += 1;
    }
    writer.use_spare_room();
    let said = [BlockKind::Gaps, BlockKind::Gaps, BlockKind::End].into_iter().all(|kind| {
        let mut last = BlockBuilder::new(kind);
        last.u64s(Column::Dropped, [u64::from(rows)]);
        match kind {
            BlockKind::End => last.u64s(Column::Visits, [0]),
            _ => {
                last.u64s(Column::Step, [blocks]);
                last.u32s(Column::Epoch, [0]);
            }
        }
        last.advance(1, blocks, 0);
        writer.append(&mut last).is_ok()
    });
    let said = said && writer.finish().is_ok();
    drop(writer);
    let report = Run::open(dir).unwrap().verify().unwrap();
    assert!(report.damage.is_none());
    assert_eq!(report.visits, blocks * u64::from(rows));
    assert_eq!((report.finished, report.dropped), (said, if said { 2 * u64::from(rows) } else { 0 }));
    said
}

#[test]
fn a_page_is_kept_free_for_what_is_said_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut without = 0;
    for rows in (1..60).step_by(4).chain([490, 1000, 2027, 4000]) {
        assert!(last_words(&dir.path().join(format!("with-{rows}")), rows, true), "blocks of {rows} rows");
        without += u32::from(!last_words(&dir.path().join(format!("without-{rows}")), rows, false));
    }
    assert!(without > 5, "it would not have been needed: {without}");
}

/// What the resumption supersedes would else count again.
#[test]
fn a_resumption_is_not_forgotten_where_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let storage = SmallDisk { files: MmapStorage::default(), free_pages: 3, open_pages: 0 };
    let options = WriterOptions { segment_bytes: PAGE_BYTES, zstd_level: 1 };
    let mut writer = LogWriter::create_on(Box::new(storage), dir.path(), &manifest(), options).unwrap();
    writer.append(&mut block(10, 5)).unwrap();
    writer.mark_resumed(2).unwrap();
    assert!(writer.append(&mut block(4000, 2)).is_err());
    writer.use_spare_room();
    writer.append_gap(2, 0, 4000).unwrap();
    writer.append_end().unwrap();
    writer.finish().unwrap();
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.visits, report.superseded, report.dropped, report.finished), (0, 10, 4000, true));
    let run = Run::open(dir.path()).unwrap();
    // The totals are of what was committed, and of that only.
    assert_eq!(run.scan().last().unwrap().u64s(Column::Visits).unwrap(), [10]);
}
