//! Recovery of runs that were resumed: what a resumption superseded stays superseded, and its place is found.

use super::*;

#[test]
fn a_resumption_is_kept_also_if_its_header_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), 5).unwrap().finish().unwrap();
    let (next_segment, sequence) = {
        let run = Run::open(dir.path()).unwrap();
        let mut scan = run.part_scan();
        assert_eq!(scan.by_ref().count(), 5);
        scan.place()
    };
    let place = crate::log::ResumePlace {
        run_id: manifest().run_id,
        next_segment,
        sequence,
        step: 3,
        totals: Totals::default(),
    };
    let mut writer = LogWriter::resume(dir.path(), place, options()).unwrap();
    for index in [3, 5, 6] {
        writer.append(&mut sample_block(index)).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    let written = read(dir.path()).unwrap();
    assert!(written.report.superseded > 0 && !written.complains(), "{written:?}");
    let (report, reading) = recover(dir.path());
    assert!(report.survey.is_whole());
    assert_eq!((&reading.blocks, reading.report.superseded), (&written.blocks, written.report.superseded));
    // Void rows count for nothing, but a damaged block of them is damage.
    let path = segment_path(dir.path(), next_segment - 1);
    let original = std::fs::read(&path).unwrap();
    change(&path, |bytes| *bytes.last_mut().unwrap() ^= 0x80);
    change(&path, |bytes| bytes[SEGMENT_HEADER_BYTES + 200] ^= 0x80);
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_some());
    std::fs::write(&path, original).unwrap();
    // Its header does not say any more at which step; the steps in it do.
    change(&segment_path(dir.path(), next_segment), |bytes| bytes[40] ^= 1);
    let (report, reading) = recover(dir.path());
    assert!(report.survey.is_whole() && report.survey.lost.len() == 1);
    assert_eq!((&reading.blocks, reading.report.superseded), (&written.blocks, written.report.superseded));
}

#[test]
fn blocks_behind_zeros_are_told_but_not_those_that_a_resumed_run_left_behind() {
    let (alive, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let big = WriterOptions { segment_bytes: 1 << 16, zstd_level: 1 };
    let mut writer =
        LogWriter::create_on(Box::new(MmapStorage::default()), alive.path(), &manifest(), big.clone()).unwrap();
    for index in 0..5 {
        writer.append(&mut sample_block(index)).unwrap();
    }
    copy(alive.path(), dir.path());
    drop(writer);
    assert!(!read(dir.path()).unwrap().complains());
    // As after a power cut: the page with block 3 did not reach the device, the one with block 4 did.
    let (path, offset, bytes) = places(dir.path()).remove(3);
    change(&path, |all| all[offset..offset + bytes].fill(0));
    let damage = Run::open(dir.path()).unwrap().verify().unwrap().damage.unwrap();
    assert_eq!((damage.offset, damage.block), (offset as u64, Some(3)));
    let (report, reading) = recover(dir.path());
    assert_eq!((report.survey.behind.blocks, reading.report.blocks), (1, 4));
    // A run that goes on from there writes its own block 3 and 4.
    let place = crate::log::ResumePlace {
        run_id: manifest().run_id,
        next_segment: 1,
        sequence: 3,
        step: 100,
        totals: Totals::default(),
    };
    let mut writer = LogWriter::resume(dir.path(), place, big).unwrap();
    writer.append(&mut sample_block(5)).unwrap();
    writer.append(&mut sample_block(6)).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let written = read(dir.path()).unwrap();
    assert!(!written.complains() && written.blocks.len() == 5, "{written:?}");
    let (report, reading) = recover(dir.path());
    assert!(report.survey.lost.is_empty(), "{report:?}");
    assert_eq!(reading.blocks, written.blocks);
}

/// The totals at the end of a run are those of all its sessions, so they tell of a resumed run too what is missing.
#[test]
fn the_end_of_a_resumed_run_says_how_many_visits_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = write_sample(dir.path(), 4).unwrap();
    writer.append_gap(3, 1, 40).unwrap();
    writer.append_end().unwrap();
    writer.finish().unwrap();
    drop(writer);
    let (next_segment, sequence) = {
        let run = Run::open(dir.path()).unwrap();
        let mut scan = run.part_scan();
        assert_eq!(scan.by_ref().count(), 6);
        scan.place()
    };
    let totals = Totals { visits: 12, dropped: 40 };
    let place = crate::log::ResumePlace { run_id: manifest().run_id, next_segment, sequence, step: 3, totals };
    let mut writer = LogWriter::resume(dir.path(), place, options()).unwrap();
    writer.append(&mut sample_block(6)).unwrap();
    writer.append_gap(7, 3, 2).unwrap();
    writer.append_end().unwrap();
    writer.finish().unwrap();
    drop(writer);
    let end = |dir: &Path| {
        let last = Run::open(dir).unwrap().scan().last().unwrap();
        (last.u64s(Column::Visits).unwrap(), last.u64s(Column::Dropped).unwrap())
    };
    // 5 and 7 visits before, 10 after; the 7 of step 3 are superseded, and were written.
    assert_eq!(end(dir.path()), (vec![22], vec![42]));
    assert_eq!(Run::open(dir.path()).unwrap().verify().unwrap().superseded, 7);
    let block = places(dir.path()).into_iter().find(|place| {
        let bytes = std::fs::read(&place.0).unwrap();
        bytes[place.1 + 4] == BlockKind::Visits as u8
    });
    let (path, offset, _) = block.unwrap();
    // Neither header nor neighbours say how many rows the block had.
    change(&path, |bytes| bytes[offset + 20] ^= 0x10);
    let (report, reading) = recover(dir.path());
    assert_eq!(report.survey.lost[0].visits, None);
    assert_eq!(report.survey.lost_visits(), Some(5));
    assert!(reading.report.finished && reading.report.dropped == 5 + 2, "{:?}", reading.report);
    let to = tempfile::tempdir().unwrap();
    let new = to.path().join("new");
    Run::open(dir.path()).unwrap().recover(&new).unwrap();
    assert_eq!(end(&new), (vec![17], vec![47]));
}

/// A block that a resumption cuts through must say which row is of which step. One whose steps are of another type
/// cannot be cut, and is lost rather than taken in whole.
#[test]
fn a_block_whose_steps_are_no_numbers_of_steps_is_lost_where_a_resumption_cuts_it() {
    use super::forge::{block_with, put, segment, Forged};
    let example = Forged::plain(Column::Example as u16, 3, vec![0; 16]);
    let steps = |cells: u8, width: u32| Forged {
        width,
        ..Forged::plain(Column::Step as u16, cells, vec![0; 16 * width as usize])
    };
    let floats = Forged::plain(Column::Step as u16, 4, vec![0; 8]);
    for (what, step, kept) in [
        ("right", steps(3, 1), 2),
        ("floats", floats, 0),
        ("two to a row", steps(3, 2), 0),
        ("newer", steps(200, 1), 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let spans = |header: &mut Vec<u8>| header[40] = 9;
        put(dir.path(), &segment(1, &[block_with(1, 0, 2, &[example.clone(), step], spans)]));
        let place = crate::log::ResumePlace {
            run_id: manifest().run_id,
            next_segment: 1,
            sequence: 1,
            step: 5,
            totals: Totals::default(),
        };
        let mut writer = LogWriter::resume(dir.path(), place, options()).unwrap();
        writer.append(&mut sample_block(6)).unwrap();
        writer.finish().unwrap();
        drop(writer);
        let to = tempfile::tempdir().unwrap();
        if what == "newer" {
            // It is not lost, and only a newer version can cut it.
            let run = Run::open(dir.path()).unwrap();
            let refused = run.recover(to.path().join("new")).unwrap_err();
            assert!(matches!(refused, RecoverError::Read(ReadError::Newer(_))), "{refused}");
            assert!(!to.path().join("new").exists());
            assert!(matches!(run.verify(), Err(ReadError::Newer(_))));
            let mut scan = run.scan();
            assert!(scan.next().is_none() && matches!(scan.damage(), Err(ReadError::Newer(_))));
            continue;
        }
        let report = Run::open(dir.path()).unwrap().recover(to.path().join("new")).unwrap();
        assert_eq!(report.written.visits, kept + 10, "{what}");
        assert_eq!(report.survey.is_whole(), kept == 2, "{what}");
        let scanned = Run::open(dir.path()).unwrap().verify().unwrap();
        assert_eq!((scanned.damage.is_some(), scanned.visits), (kept == 0, if kept == 0 { 0 } else { 12 }), "{what}");
    }
}

/// What is left of the resumed training supersedes what was before it, although nothing says any more that it does.
#[test]
fn a_resumption_is_kept_also_if_its_segment_is_empty_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = write_sample(dir.path(), 5).unwrap();
    writer.mark_resumed(3).unwrap();
    let first = (0..).find(|index| !segment_path(dir.path(), *index).exists()).unwrap();
    for index in [3, 3, 6] {
        writer.append(&mut sample_block(index)).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    let superseded = read(dir.path()).unwrap().report.superseded;
    assert!(superseded > 0 && segment_path(dir.path(), first + 1).exists(), "nothing is tested");
    for gone in [false, true] {
        let hurt = tempfile::tempdir().unwrap();
        copy(dir.path(), hurt.path());
        let path = segment_path(hurt.path(), first);
        if gone {
            std::fs::remove_file(&path).unwrap();
        } else {
            std::fs::write(&path, []).unwrap();
        }
        let (report, reading) = recover(hurt.path());
        assert!(!report.survey.is_whole());
        assert_eq!(reading.report.superseded, superseded, "{gone}: {reading:?}");
    }
}
