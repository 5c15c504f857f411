//! Columns 73 and 74, which were added to version 1: a run of its own in `tests/data/v1-gaps`, made once by hand
//! (`cargo test --no-default-features --lib -- --ignored make_the_fixture_of_gaps`).

use super::*;
use crate::run::GapCounts;
use std::path::PathBuf;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1-gaps")
}

/// A run that dropped 5 visits at step 2, abandoned 7 at step 3, and knows nothing of the 11 steps from step 4 on.
fn write(dir: &Path) {
    let options = WriterOptions { segment_bytes: 1 << 14, zstd_level: 1 };
    let mut writer = LogWriter::create_on(Box::new(MmapStorage::default()), dir, &manifest(), options).unwrap();
    writer.append_gap(2, 1, 5).unwrap();
    writer.append_abandoned(3, 1, 7).unwrap();
    writer.append_unknown_steps(4, 2, 11).unwrap();
    writer.append_end().unwrap();
    writer.finish().unwrap();
}

#[test]
#[ignore = "writes tests/data; run by hand, once"]
fn make_the_fixture_of_gaps() {
    write(&fixture());
    std::fs::remove_file(fixture().join("lock")).unwrap();
}

fn check(dir: &Path) {
    let run = Run::open(dir).unwrap();
    let report = run.verify().unwrap();
    assert!(report.finished && report.damage.is_none());
    assert_eq!((report.dropped, report.abandoned, report.unknown_steps), (5, 7, 11));
    let blocks: Vec<Block> = run.scan().collect();
    let kinds: Vec<_> = blocks.iter().map(Block::kind).collect();
    let gaps = Some(BlockKind::Gaps);
    assert_eq!(kinds, [gaps, gaps, gaps, Some(BlockKind::End)]);
    for (block, (step, epoch), dropped) in [(&blocks[0], (2, 1), 5), (&blocks[1], (3, 1), 0), (&blocks[2], (4, 2), 0)] {
        assert_eq!((block.steps(), block.epochs()), ((step, step), (epoch, epoch)));
        // A reader that does not know the new columns reads this.
        assert_eq!(block.u64s(Column::Dropped).unwrap(), [dropped]);
    }
    assert_eq!(blocks[1].u64s(Column::Abandoned).unwrap(), [7]);
    assert_eq!(blocks[2].u64s(Column::UnknownSteps).unwrap(), [11]);
    let counts = GapCounts::read(&blocks[1]).unwrap();
    assert_eq!((counts.dropped, counts.abandoned, counts.unknown_steps), (0, 7, 0));
    assert_eq!(blocks[3].u64s(Column::Dropped).unwrap(), [5]);
}

#[test]
fn what_is_not_there_is_read_by_its_reason() {
    check(&fixture());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    check(dir.path());
}

/// A recovery keeps the counts.
#[test]
fn a_recovered_run_has_the_same_counts() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("run"));
    Run::open(dir.path().join("run")).unwrap().recover(dir.path().join("new")).unwrap();
    let report = Run::open(dir.path().join("new")).unwrap().verify().unwrap();
    assert_eq!((report.dropped, report.abandoned, report.unknown_steps), (5, 7, 11));
}
