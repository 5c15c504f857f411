//! Reading a run while it is written (FORMAT.md, "Reading a run that is being written").

use super::*;
use crate::log::{segment_path, ResumePlace, Totals, HEADER_BYTES};
use crate::run::PartScan;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};

/// A run as it is in the middle of committing its last block: the body is there and half of the header.
fn half_committed() -> (tempfile::TempDir, std::path::PathBuf, u64, Vec<u8>) {
    let (alive, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let writer = write_sample(alive.path(), 4).unwrap();
    copy(alive.path(), dir.path());
    drop(writer);
    let (path, offset) = {
        let run = Run::open(dir.path()).unwrap();
        let last = run.scan().last().unwrap();
        (last.segment.path.clone(), last.offset)
    };
    let mut bytes = std::fs::read(&path).unwrap();
    let header = bytes[offset as usize..][..HEADER_BYTES].to_vec();
    bytes[offset as usize + 20..][..HEADER_BYTES - 20].fill(0);
    std::fs::write(&path, bytes).unwrap();
    (dir, path, offset, header)
}

fn lock(dir: &Path) -> File {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock")).unwrap();
    file.try_lock().unwrap();
    file
}

#[test]
fn a_header_that_is_being_written_is_the_end_while_its_recorder_lives_and_damage_after() {
    let (dir, path, offset, header) = half_committed();
    let run = Run::open(dir.path()).unwrap();
    assert!(!run.is_being_written());
    let held = lock(dir.path());
    assert!(run.is_being_written());
    let reading = read(dir.path()).unwrap();
    assert!(!reading.complains() && reading.blocks.len() == 3, "{reading:?}");
    // A block behind it says that it was committed, and is damaged.
    let mut later = OpenOptions::new().write(true).open(&path).unwrap();
    later.seek(SeekFrom::Start(offset + 800)).unwrap();
    later.write_all(&header).unwrap();
    assert!(read(dir.path()).unwrap().complains());
    later.seek(SeekFrom::Start(offset + 800)).unwrap();
    later.write_all(&[0; HEADER_BYTES]).unwrap();
    assert!(!read(dir.path()).unwrap().complains());
    drop(held);
    let reading = read(dir.path()).unwrap();
    assert!(reading.complains() && reading.blocks.len() == 3, "{reading:?}");
}

#[test]
fn a_header_that_is_completed_a_moment_later_is_read() {
    let (dir, path, offset, header) = half_committed();
    let run = Run::open(dir.path()).unwrap();
    let put = move |bytes: &[u8]| {
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(bytes).unwrap();
    };
    let half = [&header[..20], &[0; HEADER_BYTES - 20]].concat();
    // The recorder may have ended by the time that its lock is asked, so the reader looks again in any case.
    for live in [true, false] {
        let _held = live.then(|| lock(dir.path()));
        put(&half);
        let (put, header) = (put.clone(), header.clone());
        BETWEEN_LOOKS.set(Some(Box::new(move || put(&header))));
        let mut scan = run.scan();
        assert_eq!(scan.by_ref().map(|block| block.sequence()).collect::<Vec<_>>(), [0, 1, 2, 3], "{live}");
        assert_eq!(scan.damage().unwrap(), None);
        assert!(BETWEEN_LOOKS.take().is_none());
    }
}

/// The recorder needs several looks to be done: the reader waits some milliseconds, and not for ever.
#[test]
fn a_header_that_takes_its_time_is_read_too() {
    let (dir, path, offset, header) = half_committed();
    let run = Run::open(dir.path()).unwrap();
    let _held = lock(dir.path());
    let put = move |from: usize, bytes: &[u8]| {
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(offset + from as u64)).unwrap();
        file.write_all(bytes).unwrap();
    };
    // Twenty more bytes at the first look, and the rest at the second.
    BETWEEN_LOOKS.set(Some(Box::new(move || {
        put(20, &header[20..40]);
        BETWEEN_LOOKS.set(Some(Box::new(move || put(40, &header[40..]))));
    })));
    assert_eq!(run.scan().count(), 4);
}

#[test]
fn blocks_that_came_between_a_look_and_the_next_segment_are_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = write_sample(dir.path(), 1).unwrap();
    let run = Run::open(dir.path()).unwrap();
    let mut scan = run.part_scan();
    assert_eq!(scan.by_ref().take(1).count(), 1);
    // Here the scan finds zeros. Before it does anything about that, the recorder fills this segment and two more.
    for index in [1, 3, 6, 1, 3, 6] {
        writer.append(&mut sample_block(index)).unwrap();
    }
    assert!(files(dir.path()).len() >= 4);
    scan.leave_segment();
    let rest: Vec<u64> = scan.by_ref().map(|block| block.sequence()).collect();
    assert_eq!((rest, scan.damage().unwrap()), ((1..7).collect(), None));
}

#[test]
fn a_segment_that_is_being_made_is_the_end_while_its_recorder_lives() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    let path = files(dir.path()).pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 1, 12, 40, 63, 64] {
        for size in [length, 900] {
            let mut half = bytes[..length].to_vec();
            half.resize(size, 0);
            std::fs::write(&path, half).unwrap();
            let held = lock(dir.path());
            let reading = read(dir.path()).unwrap();
            assert!(!reading.complains() && !reading.blocks.is_empty(), "{length} of {size}: {reading:?}");
            drop(held);
            let torn = size > 0 && length > 0 && length < 64;
            assert_eq!(read(dir.path()).unwrap().complains(), torn, "{length} of {size}");
        }
    }
}

/// A recorder that fills segments as fast as it can, and a reader that scans all the while: always a prefix, never
/// damage.
#[test]
fn a_reader_never_takes_a_growing_run_for_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let writer = write_sample(dir.path(), 1).unwrap();
    let writing = std::thread::Builder::new().name("writing".into()).spawn(move || {
        let mut writer = writer;
        for round in 0..150u64 {
            for index in [1, 3, 6] {
                writer.append(&mut sample_block(index)).unwrap();
            }
            if round % 16 == 0 {
                writer.sync().unwrap();
            }
        }
        writer.finish().unwrap();
    });
    let writing = writing.unwrap();
    let run = Run::open(dir.path()).unwrap();
    let (mut seen, mut scans) = (0, 0);
    loop {
        let over = writing.is_finished();
        let mut scan = run.scan();
        let mut sequences = 0;
        for block in scan.by_ref() {
            assert_eq!(block.sequence(), sequences);
            sequences += 1;
            block.check().unwrap();
        }
        assert_eq!(scan.damage().unwrap(), None, "scan {scans}");
        assert!(sequences >= seen, "what was committed stays committed");
        seen = sequences;
        scans += 1;
        if over {
            break;
        }
    }
    writing.join().unwrap();
    println!("{scans} scans");
    assert_eq!(seen, 451);
}

#[test]
fn a_lock_that_a_reader_holds_for_good_refuses_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), 2).unwrap().finish().unwrap();
    let place = || crate::log::ResumePlace {
        run_id: manifest().run_id,
        next_segment: 7,
        sequence: 2,
        step: 9,
        totals: Totals::default(),
    };
    let asked = File::open(dir.path().join("lock")).unwrap();
    asked.lock_shared().unwrap();
    // A writer waits for some milliseconds, and a reader that asks holds it for less (`log/lock.rs` tests that).
    assert!(matches!(LogWriter::resume(dir.path(), place(), options()), Err(LogError::Locked { .. })));
    drop(asked);
    assert!(LogWriter::resume(dir.path(), place(), options()).is_ok());
}

/// Rows that were yielded may be superseded by a training that is taken up again while the reader is under way.
#[test]
fn a_scan_ends_before_a_resumption_that_it_did_not_know_of() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), 4).unwrap().finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let mut scan = run.part_scan();
    scan.next().unwrap();
    let place =
        ResumePlace { run_id: manifest().run_id, next_segment: 1, sequence: 4, step: 0, totals: Totals::default() };
    let next_segment = (0..).find(|index| !segment_path(dir.path(), *index).exists()).unwrap();
    let mut writer = LogWriter::resume(dir.path(), ResumePlace { next_segment, ..place }, options()).unwrap();
    writer.append(&mut sample_block(6)).unwrap();
    writer.finish().unwrap();
    drop(writer);
    assert_eq!(scan.by_ref().count(), 3);
    assert_eq!((scan.damage().unwrap(), scan.superseded_visits()), (None, 0));
    // The next pass over the run has to see the same, and who opens it anew sees it as it is.
    assert_eq!(run.part_scan().count(), 4);
    let now = Run::open(dir.path()).unwrap().verify().unwrap();
    assert!(now.damage.is_none() && now.superseded > 0 && now.visits == 10, "{now:?}");
}

#[test]
fn a_scan_looks_again_from_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = write_sample(dir.path(), 1).unwrap();
    let run = Run::open(dir.path()).unwrap();
    let mut scan = run.part_scan();
    let read = |scan: &mut PartScan<'_>| scan.by_ref().map(|block| block.sequence()).collect::<Vec<_>>();
    assert_eq!(read(&mut scan), [0]);
    // A scan that has ended stays so, until it is told to look again.
    writer.append(&mut sample_block(1)).unwrap();
    assert!(read(&mut scan).is_empty());
    assert!(scan.look_again());
    assert_eq!(read(&mut scan), [1]);
    assert!(scan.look_again() && read(&mut scan).is_empty());
    // Through several segments.
    for index in [3, 6, 1, 3, 6] {
        writer.append(&mut sample_block(index)).unwrap();
    }
    assert!(files(dir.path()).len() >= 3);
    assert!(scan.look_again());
    assert_eq!(read(&mut scan), (2..7).collect::<Vec<_>>());
    // The last segment is cut to its length.
    writer.finish().unwrap();
    assert!(scan.look_again() && read(&mut scan).is_empty());
    assert_eq!(scan.damage().unwrap(), None);
}

#[test]
fn a_segment_whose_header_comes_later_is_entered_then() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_sample(whole.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    copy(whole.path(), dir.path());
    let segments = files(dir.path());
    let last = segments.last().unwrap();
    let bytes = std::fs::read(last).unwrap();
    for prefix in [0, bytes.len()] {
        std::fs::write(last, vec![0; prefix]).unwrap();
        let run = Run::open(dir.path()).unwrap();
        let mut scan = run.part_scan();
        let before = scan.by_ref().count();
        assert!(scan.look_again());
        assert_eq!(scan.by_ref().count(), 0);
        std::fs::write(last, &bytes).unwrap();
        assert!(scan.look_again());
        let rest = scan.by_ref().count();
        assert!(rest > 0 && (before + rest) as u64 == SAMPLE_BLOCKS, "{before} + {rest}");
    }
}

#[test]
fn a_scan_cannot_look_again_at_damage_or_behind_a_resumption() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), 3).unwrap().finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let mut scan = run.part_scan();
    assert_eq!(scan.by_ref().count(), 3);
    let (next_segment, sequence) = scan.place();
    let place = ResumePlace { run_id: manifest().run_id, next_segment, sequence, step: 1, totals: Totals::default() };
    let mut resumed = LogWriter::resume(dir.path(), place, options()).unwrap();
    resumed.append(&mut sample_block(1)).unwrap();
    assert!(scan.look_again() && !scan.is_outdated());
    assert_eq!(scan.by_ref().count(), 0);
    assert!(scan.is_outdated() && !scan.look_again());
    assert_eq!(scan.damage().unwrap(), None);
    resumed.finish().unwrap();

    let path = segment_path(dir.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 80].fill(0xAB);
    std::fs::write(path, bytes).unwrap();
    let run = Run::open(dir.path()).unwrap();
    let mut scan = run.part_scan();
    let count = scan.by_ref().count();
    assert!(scan.damage().unwrap().is_some() && !scan.look_again(), "{count}");
}
