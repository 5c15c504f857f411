//! Every cut and every flipped bit of every file of a run.

use super::allocations::largest_allocation;
use super::*;
use crate::log::{ENTRY_BYTES, HEADER_BYTES, SEGMENT_HEADER_BYTES};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;

/// No damage makes the reader ask for more than this at once: the run itself is far smaller.
const ALLOCATION_MAX: usize = 64 << 10;

type Sample = (tempfile::TempDir, Vec<Contents>);

/// A finished run, and what it holds.
fn finished() -> Sample {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    sound(dir)
}

/// A run as it is when its recorder is killed before the last block, with a zero tail.
fn killed() -> Sample {
    let (alive, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let writer = write_sample(alive.path(), SAMPLE_BLOCKS - 1).unwrap();
    copy(alive.path(), dir.path());
    drop(writer);
    sound(dir)
}

fn sound(dir: tempfile::TempDir) -> Sample {
    let reading = read(dir.path()).unwrap();
    assert!(!reading.complains() && files(dir.path()).len() >= 4, "{reading:?}");
    (dir, reading.blocks)
}

/// The bytes of each segment that a reader vouches for: headers, directories and frames, but no padding and no tail.
fn covered(dir: &Path) -> Vec<(PathBuf, Range<u64>)> {
    let run = Run::open(dir).unwrap();
    let mut ranges: Vec<_> = files(dir).into_iter().map(|path| (path, 0..SEGMENT_HEADER_BYTES as u64)).collect();
    for block in run.scan() {
        let frames: u64 = block.directory.entries().iter().map(|e| u64::from(e.stored_bytes)).sum();
        let fixed = (HEADER_BYTES + block.directory.entries().len() * ENTRY_BYTES) as u64;
        ranges.push((block.segment.path.clone(), block.offset..block.offset + fixed + frames));
    }
    ranges
}

#[test]
fn a_file_cut_anywhere_gives_a_prefix() {
    let mut cuts = 0;
    for (dir, written) in [finished(), killed()] {
        let finished = read(dir.path()).unwrap().report.finished;
        let paths = files(dir.path());
        for path in &paths {
            let original = std::fs::read(path).unwrap();
            for length in (0..original.len()).rev() {
                OpenOptions::new().write(true).open(path).unwrap().set_len(length as u64).unwrap();
                cuts += 1;
                let what = format!("{} cut to {length} bytes", path.display());
                let (reading, largest) = largest_allocation(|| read(dir.path()));
                assert!(largest < ALLOCATION_MAX, "{what}: asked for {largest} bytes");
                match reading {
                    Err(error) => {
                        assert!(path.ends_with("manifest"), "{what}: {error}");
                        assert!(matches!(error, ReadError::NotARun { .. }), "{what}: {error}");
                    }
                    Ok(reading) => {
                        assert_prefix(&reading, &written, &what);
                        let lost = reading.blocks.len() < written.len();
                        // Only the last segment can lose its end without a trace, if nothing said that there was more.
                        let told = reading.complains() || Some(path) == paths.last() && !reading.report.finished;
                        assert!(!lost || told, "{what}: a loss that nobody tells");
                        assert!(!finished || lost, "{what}: a finished run has no byte to spare");
                    }
                }
            }
            std::fs::write(path, original).unwrap();
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 5_000);
}

#[test]
fn a_flipped_bit_of_a_finished_run_is_found_or_does_not_matter() {
    flip_every_bit(finished());
}

#[test]
fn a_flipped_bit_of_an_unfinished_run_is_found_or_does_not_matter() {
    flip_every_bit(killed());
}

fn flip_every_bit((dir, written): Sample) {
    let (mut flips, mut found) = (0, 0);
    let finished = read(dir.path()).unwrap().report.finished;
    let covered = covered(dir.path());
    for path in files(dir.path()) {
        let original = std::fs::read(&path).unwrap();
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        let mut put = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        for (at, &byte) in original.iter().enumerate() {
            for bit in 0..8 {
                put(at, byte ^ (1 << bit));
                flips += 1;
                let what = format!("{} bit {bit} of byte {at}", path.display());
                let (reading, largest) = largest_allocation(|| read(dir.path()));
                assert!(largest < ALLOCATION_MAX, "{what}: asked for {largest} bytes");
                let vouched = covered.iter().any(|(p, range)| *p == path && range.contains(&(at as u64)));
                match reading {
                    Err(error) => {
                        found += 1;
                        assert!(path.ends_with("manifest"), "{what}: {error}");
                    }
                    Ok(reading) => {
                        assert!(!path.ends_with("manifest"), "{what}: a changed manifest was believed");
                        assert_prefix(&reading, &written, &what);
                        found += u32::from(reading.complains());
                        if vouched {
                            assert!(reading.complains(), "{what}: not found");
                        } else {
                            assert_eq!(reading.blocks.len(), written.len(), "{what}: padding took rows along");
                            assert_eq!(reading.report.finished, finished, "{what}");
                        }
                    }
                }
            }
            put(at, byte);
        }
    }
    println!("{flips} flips, {found} found");
    assert!(flips > 20_000);
}

#[test]
fn files_that_are_empty_missing_swapped_or_strange_stop_the_scan() {
    let (dir, written) = finished();
    let other = tempfile::tempdir().unwrap();
    let mut stranger = manifest();
    stranger.run_id = [9; 16];
    let storage = Box::new(MmapStorage::default());
    let mut writer = LogWriter::create_on(storage, other.path(), &stranger, options()).unwrap();
    for index in 0..SAMPLE_BLOCKS {
        writer.append(&mut sample_block(index)).unwrap();
    }
    writer.finish().unwrap();
    let segment = |index: u32| crate::log::segment_path(dir.path(), index);
    let in_first = {
        let run = Run::open(dir.path()).unwrap();
        let count = run.scan().filter(|block| block.segment.path == segment(0)).count();
        count
    };
    type Harm<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>, usize, &'a str);
    let name = |dir: &Path, index: u32| crate::log::segment_path(dir, index);
    let harms: Vec<Harm<'_>> = vec![
        ("empty first", Box::new(|d| std::fs::write(name(d, 0), b"").unwrap()), 0, "empty"),
        ("empty middle", Box::new(|d| std::fs::write(name(d, 1), b"").unwrap()), in_first, "empty"),
        ("zero middle", Box::new(|d| std::fs::write(name(d, 1), [0; 999]).unwrap()), in_first, "empty"),
        ("missing first", Box::new(|d| std::fs::remove_file(name(d, 0)).unwrap()), 0, "missing"),
        ("missing middle", Box::new(|d| std::fs::remove_file(name(d, 1)).unwrap()), in_first, "missing"),
        (
            "swapped",
            Box::new(|d| {
                std::fs::rename(name(d, 0), d.join("x")).unwrap();
                std::fs::rename(name(d, 1), name(d, 0)).unwrap();
                std::fs::rename(d.join("x"), name(d, 1)).unwrap();
            }),
            0,
            "under another name",
        ),
        (
            "of another run",
            Box::new(|d| assert!(std::fs::copy(name(other.path(), 1), name(d, 1)).unwrap() > 0)),
            in_first,
            "another run",
        ),
        (
            "a manifest for a segment",
            Box::new(|d| assert!(std::fs::copy(d.join("manifest"), name(d, 1)).unwrap() > 0)),
            in_first,
            "file kind",
        ),
        (
            "a folder for a segment",
            Box::new(|d| {
                std::fs::remove_file(name(d, 1)).unwrap();
                std::fs::create_dir(name(d, 1)).unwrap();
            }),
            in_first,
            "",
        ),
    ];
    for (what, harm, intact, says) in harms {
        let hurt = tempfile::tempdir().unwrap();
        copy(dir.path(), hurt.path());
        harm(hurt.path());
        let reading = read(hurt.path()).unwrap();
        assert_prefix(&reading, &written, what);
        assert_eq!(reading.blocks.len(), intact, "{what}");
        let damage = reading.damage.unwrap_or_else(|| panic!("{what}: not told"));
        assert!(damage.what.contains(says), "{what}: {damage}");
    }
    // Nothing in the files says that there was another segment, but the end block is gone with it.
    let hurt = tempfile::tempdir().unwrap();
    copy(dir.path(), hurt.path());
    std::fs::write(files(hurt.path()).last().unwrap(), b"").unwrap();
    let reading = read(hurt.path()).unwrap();
    assert_prefix(&reading, &written, "empty last");
    assert!(!reading.complains() && !reading.report.finished && reading.blocks.len() < written.len());
    // Renamed out of the way: one segment, the manifest, the whole run.
    let hurt = tempfile::tempdir().unwrap();
    copy(dir.path(), hurt.path());
    std::fs::rename(hurt.path().join("manifest"), hurt.path().join("manifest.old")).unwrap();
    assert!(matches!(read(hurt.path()), Err(ReadError::NotARun { .. })));
    assert!(matches!(read(&hurt.path().join("nowhere")), Err(ReadError::NotARun { .. })));
    assert!(matches!(read(&hurt.path().join("segment-00000.glog")), Err(ReadError::NotARun { .. })));
    std::fs::write(hurt.path().join("manifest"), b"").unwrap();
    assert!(matches!(read(hurt.path()), Err(ReadError::NotARun { .. })));
}
