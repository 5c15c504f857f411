//! What is saved from a damaged run, and what is said of the rest (FORMAT.md, "Salvage").

mod resumed;

use super::*;
use crate::log::{segment_path, Totals, HEADER_BYTES, SEGMENT_HEADER_BYTES};
use crate::run::{RecoverError, RecoverReport};
use std::path::PathBuf;

/// A finished sample run and what it holds.
fn sample() -> (tempfile::TempDir, Vec<Contents>) {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    let written = read(dir.path()).unwrap().blocks;
    (dir, written)
}

/// Where each block stands, with its length.
fn places(dir: &Path) -> Vec<(PathBuf, usize, usize)> {
    let run = Run::open(dir).unwrap();
    let place = |block: Block| (block.segment.path.clone(), block.offset as usize, block.bytes() as usize);
    let places = run.scan().map(place).collect();
    places
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Recovers the run in `dir`; what came of it, read back.
fn recover(dir: &Path) -> (RecoverReport, Reading) {
    let to = tempfile::tempdir().unwrap();
    let new = to.path().join("new");
    let report = Run::open(dir).unwrap().recover(&new).unwrap();
    let reading = read(&new).unwrap();
    assert!(!reading.complains(), "{reading:?}");
    assert_eq!(reading.report, report.written);
    assert!(reading.probe_sets.is_ok(), "{reading:?}");
    let names: Vec<_> = std::fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["new"], "something else was left behind");
    (report, reading)
}

/// Says that `kept` holds the blocks of `written` but for those of `lost`, and beside them only gaps, names and an end
/// that the recovery made up.
#[track_caller]
fn assert_without(kept: &[Contents], written: &[Contents], lost: &[usize], what: &str) {
    let made_up = |b: &&Contents| {
        let kinds = [BlockKind::Gaps, BlockKind::ProbeSet, BlockKind::End];
        kinds.iter().any(|kind| b.kind == Some(*kind)) && !written.contains(b)
    };
    let kept: Vec<&Contents> = kept.iter().filter(|b| !made_up(b)).collect();
    // The totals of a run with a loss are new ones, so the old ones are not looked for.
    let same_end = kept.last().is_some_and(|b| b.kind == Some(BlockKind::End));
    let expected =
        written.iter().enumerate().filter(|(i, b)| !lost.contains(i) && (same_end || b.kind != Some(BlockKind::End)));
    assert_eq!(kept, expected.map(|(_, b)| b).collect::<Vec<_>>(), "{what}");
}

fn dropped(contents: &Contents) -> Option<u64> {
    contents.columns.iter().find_map(|(key, values)| match values {
        Values::U64(all) if key.column == Column::Dropped => all.first().copied(),
        _ => None,
    })
}

fn change_length(path: &Path, bytes: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_sound_run_comes_back_as_it_was() {
    let (dir, written) = sample();
    let (report, reading) = recover(dir.path());
    assert!(report.survey.is_whole() && report.survey.lost.is_empty());
    assert_eq!(report.survey.lost_visits(), Some(0));
    assert_eq!(reading.blocks, written);
    assert!(reading.report.finished);
    // Killed: the zero tail goes, and so does nothing else.
    let (alive, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let writer = write_sample(alive.path(), SAMPLE_BLOCKS - 1).unwrap();
    copy(alive.path(), killed.path());
    drop(writer);
    let (report, reading) = recover(killed.path());
    assert!(report.survey.is_whole() && !reading.report.finished);
    assert_eq!(reading.blocks, written[..written.len() - 1]);
}

#[test]
fn one_damaged_block_costs_that_block_and_its_visits_are_counted() {
    let (dir, written) = sample();
    for (index, (path, offset, bytes)) in places(dir.path()).into_iter().enumerate() {
        // In a column, in the directory, in the header: the header of all but the last says what is lost.
        for (place, in_header) in [(bytes - 8, false), (HEADER_BYTES + 3, false), (20, true)] {
            let what = format!("block {index}, byte {place}");
            let hurt = tempfile::tempdir().unwrap();
            copy(dir.path(), hurt.path());
            change(&hurt.path().join(path.file_name().unwrap()), |bytes| bytes[offset + place] ^= 0x10);
            let (report, reading) = recover(hurt.path());
            assert_without(&reading.blocks, &written, &[index], &what);
            let survey = &report.survey;
            assert_eq!(survey.lost.len(), 1, "{what}");
            let lost = &survey.lost[0];
            assert_eq!((lost.damage.offset, lost.damage.block), (offset as u64, Some(index as u64)), "{what}");
            assert_eq!(survey.before.blocks, index as u64, "{what}");
            let last = index as u64 == SAMPLE_BLOCKS - 1;
            assert_eq!(lost.blocks, (!(in_header && last)).then_some(1), "{what}");
            let visits = if written[index].kind == Some(BlockKind::Visits) { written[index].rows as u64 } else { 0 };
            match in_header {
                // Only the totals at the end tell then, and they are lost with the last block.
                true => assert_eq!((lost.visits, survey.lost_visits()), (None, (!last).then_some(visits)), "{what}"),
                false => assert_eq!((lost.visits, survey.lost_visits()), (Some(visits), Some(visits)), "{what}"),
            }
            let gaps: u64 = reading.blocks.iter().filter(|b| b.kind == Some(BlockKind::Gaps)).filter_map(dropped).sum();
            let of_the_run = if written[index].kind == Some(BlockKind::Gaps) { 0 } else { 9 };
            assert_eq!(gaps, of_the_run + visits, "{what}");
            assert_eq!(reading.report.dropped, gaps);
            assert_eq!(reading.report.finished, !last);
            if visits > 0 && !in_header {
                assert_eq!((lost.first_step, lost.last_step), (index as u64, Some(index as u64)), "{what}");
            }
            let notes = Run::open(hurt.path()).unwrap().manifest().notes.len();
            assert_eq!(notes, 1, "the damaged run is left alone");
        }
    }
}

#[test]
fn the_name_of_a_probe_set_is_made_up_if_it_is_lost() {
    let (dir, _) = sample();
    let (path, offset, _) = places(dir.path()).remove(0);
    change(&path, |bytes| bytes[offset + 17] ^= 1);
    let (report, reading) = recover(dir.path());
    assert_eq!(report.unnamed_probe_sets, 1);
    assert_eq!(reading.probe_sets.unwrap(), ["lost-name-0"]);
}

type Harm<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>, Vec<usize>);

#[test]
fn lost_files_and_pages_cost_the_blocks_in_them_and_no_others() {
    let (dir, written) = sample();
    let places = places(dir.path());
    let name = |dir: &Path, index: u32| segment_path(dir, index);
    let of = |segment: u32| -> Vec<usize> {
        let there = |(i, place): (usize, &(PathBuf, usize, usize))| (place.0 == name(dir.path(), segment)).then_some(i);
        places.iter().enumerate().filter_map(there).collect()
    };
    assert!(of(0).len() >= 2 && !of(1).is_empty() && !of(2).is_empty());
    let (second, end) = (places[1].1, places[1].1 + places[1].2);
    let harms: Vec<Harm<'_>> = vec![
        ("missing first", Box::new(|d| std::fs::remove_file(name(d, 0)).unwrap()), of(0)),
        ("missing middle", Box::new(|d| std::fs::remove_file(name(d, 1)).unwrap()), of(1)),
        (
            "missing two",
            Box::new(|d| (0..2).for_each(|i| std::fs::remove_file(name(d, i)).unwrap())),
            [of(0), of(1)].concat(),
        ),
        ("empty middle", Box::new(|d| std::fs::write(name(d, 1), b"").unwrap()), of(1)),
        ("zeros in the middle of a segment", Box::new(|d| change(&name(d, 0), |b| b[second..end].fill(0))), vec![1]),
        ("zeros for a body", Box::new(|d| change(&name(d, 0), |b| b[second + 64..end].fill(0))), vec![1]),
        ("rubbish in the middle", Box::new(|d| change(&name(d, 0), |b| b[second..end].fill(0xA5))), vec![1]),
        (
            "a page in the middle of two blocks",
            Box::new(|d| change(&name(d, 0), |b| b[second - 8..end].fill(0))),
            vec![0, 1],
        ),
        (
            "a cut in the first segment",
            Box::new(|d| change(&name(d, 0), |b| b.truncate(second + 70))),
            of(0)[1..].to_vec(),
        ),
        ("a cut at a block's end", Box::new(|d| change(&name(d, 0), |b| b.truncate(second))), of(0)[1..].to_vec()),
        ("a segment header of zeros", Box::new(|d| change(&name(d, 1), |b| b[..SEGMENT_HEADER_BYTES].fill(0))), vec![]),
        ("a torn segment header", Box::new(|d| change(&name(d, 1), |b| b[50] ^= 4)), vec![]),
        ("a damaged run id", Box::new(|d| change(&name(d, 1), |b| b[20] ^= 4)), vec![]),
        ("a damaged version", Box::new(|d| change(&name(d, 1), |b| b[9] ^= 4)), vec![]),
        (
            "swapped",
            Box::new(|d| {
                std::fs::rename(name(d, 0), d.join("x")).unwrap();
                std::fs::rename(name(d, 1), name(d, 0)).unwrap();
                std::fs::rename(d.join("x"), name(d, 1)).unwrap();
            }),
            vec![],
        ),
        ("twice there", Box::new(|d| assert!(std::fs::copy(name(d, 1), name(d, 77)).unwrap() > 0)), vec![]),
        (
            "a segment that cannot be read",
            Box::new(|d| {
                std::fs::remove_file(name(d, 1)).unwrap();
                std::fs::create_dir(name(d, 1)).unwrap();
            }),
            of(1),
        ),
    ];
    for (what, harm, lost) in harms {
        let hurt = tempfile::tempdir().unwrap();
        copy(dir.path(), hurt.path());
        harm(hurt.path());
        let (report, reading) = recover(hurt.path());
        assert_without(&reading.blocks, &written, &lost, what);
        assert_eq!(report.survey.is_whole(), lost.is_empty(), "{what}");
        let blocks: u64 = report.survey.lost.iter().map(|l| l.blocks.unwrap()).sum();
        assert_eq!(blocks, lost.len() as u64, "{what}");
        let visits = |i: &usize| if written[*i].kind == Some(BlockKind::Visits) { written[*i].rows as u64 } else { 0 };
        assert_eq!(report.survey.lost_visits(), Some(lost.iter().map(visits).sum()), "{what}: {:?}", report.survey);
        assert!(report.survey.lost.iter().all(|lost| lost.to_string().contains("glog")), "{what}");
    }
}

/// What a newer version wrote is not lost, and this one cannot copy it.
#[test]
fn a_segment_of_a_newer_version_is_no_loss() {
    let (dir, written) = sample();
    change(&segment_path(dir.path(), 1), |bytes| {
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let run = Run::open(dir.path()).unwrap();
    let mut scan = run.scan();
    let read = scan.by_ref().count();
    assert!(0 < read && read < written.len() && matches!(scan.damage(), Err(ReadError::Newer(_))));
    let to = tempfile::tempdir().unwrap();
    let error = run.recover(to.path().join("new")).unwrap_err();
    assert!(matches!(error, RecoverError::Read(ReadError::Newer(_))), "{error}");
    assert!(!to.path().join("new").exists());
}

#[test]
fn a_segment_of_another_run_is_not_taken_in() {
    let (dir, written) = sample();
    let other = tempfile::tempdir().unwrap();
    let stranger = Manifest { run_id: [9; 16], ..manifest() };
    let mut writer =
        LogWriter::create_on(Box::new(MmapStorage::default()), other.path(), &stranger, options()).unwrap();
    for index in 0..SAMPLE_BLOCKS {
        writer.append(&mut sample_block(index)).unwrap();
    }
    writer.finish().unwrap();
    let in_second: Vec<usize> = {
        let second = segment_path(dir.path(), 1);
        places(dir.path()).iter().enumerate().filter(|(_, p)| p.0 == second).map(|(i, _)| i).collect()
    };
    std::fs::copy(segment_path(other.path(), 1), segment_path(dir.path(), 1)).unwrap();
    let (_, reading) = recover(dir.path());
    assert_without(&reading.blocks, &written, &in_second, "a stranger's segment");
    // And with a header that no longer says whose it is.
    change(&segment_path(dir.path(), 1), |bytes| bytes[2] ^= 1);
    let (_, reading) = recover(dir.path());
    assert_without(&reading.blocks, &written, &in_second, "a stranger's damaged segment");
}

/// Every seventh byte of every segment, one bit, and every eleventh cut: what comes out is what went in, in order, less
/// the blocks that were hit, and never less than a scan reads.
#[test]
fn whatever_is_hit_the_rest_is_saved() {
    let (dir, written) = sample();
    let (mut inputs, mut saved_more) = (0, 0);
    for path in files(dir.path()) {
        if path.ends_with("manifest") {
            continue;
        }
        let original = std::fs::read(&path).unwrap();
        for at in (0..original.len()).step_by(7) {
            for cut in [false, true] {
                if cut && at % 11 != 0 {
                    continue;
                }
                let mut bytes = original.clone();
                match cut {
                    true => bytes.truncate(at),
                    false => bytes[at] ^= 1 << (at % 8),
                }
                std::fs::write(&path, &bytes).unwrap();
                let what = format!("{} at {at}, cut {cut}", path.display());
                let scanned = read(dir.path()).unwrap().blocks.len();
                let (report, reading) = recover(dir.path());
                let kept: Vec<&Contents> = reading.blocks.iter().filter(|b| written.contains(b)).collect();
                let mut rest = written.iter();
                assert!(kept.iter().all(|b| rest.any(|w| w == *b)), "{what}: out of order, or invented");
                assert!(kept.len() >= scanned, "{what}: {} blocks, and a scan reads {scanned}", kept.len());
                assert!(cut || kept.len() + 2 >= written.len(), "{what}: one bit costs one block and the totals");
                let all = report.survey.before.blocks + report.survey.behind.blocks;
                assert!(all == written.len() as u64 || !report.survey.is_whole() || cut, "{what}: {:?}", report.survey);
                inputs += 1;
                saved_more += u32::from(kept.len() > scanned);
            }
        }
        std::fs::write(&path, original).unwrap();
    }
    println!("{inputs} inputs, more than a scan reads from {saved_more}");
    assert!(inputs > 300 && saved_more > 100, "{inputs} {saved_more}");
}

#[test]
fn what_is_in_the_way_or_being_written_is_left_alone() {
    let (dir, _) = sample();
    let run = Run::open(dir.path()).unwrap();
    let to = tempfile::tempdir().unwrap();
    assert!(matches!(run.recover(to.path()), Err(RecoverError::Exists { .. })), "an empty folder is in the way too");
    assert!(matches!(run.recover(dir.path()), Err(RecoverError::Exists { .. })));
    let file = to.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(run.recover(&file), Err(RecoverError::Exists { .. })));
    assert!(matches!(run.recover(file.join("new")), Err(RecoverError::Folder { .. })));
    let alive = tempfile::tempdir().unwrap();
    let writer = write_sample(alive.path(), 3).unwrap();
    let live = Run::open(alive.path()).unwrap();
    let new = to.path().join("deep/new");
    assert!(matches!(live.recover(&new), Err(RecoverError::BeingWritten { .. })));
    drop(writer);
    assert!(live.recover(&new).unwrap().survey.is_whole(), "folders on the way are made");
}

#[test]
fn a_last_segment_that_ends_within_its_header_is_lost() {
    let (dir, _) = sample();
    let last = (0..).take_while(|index| segment_path(dir.path(), *index).exists()).last().unwrap();
    change_length(&segment_path(dir.path(), last), 40);
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_some());
    let (report, _) = recover(dir.path());
    assert!(!report.survey.is_whole(), "{:?}", report.survey);
}
