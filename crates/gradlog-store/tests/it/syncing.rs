//! Copies of a run: while it is recorded, interrupted, on top of something else, and of several workers.

use crate::server::{Asked, Fault};
use crate::support::{cells, everything, large_run, segmented_run, small_run, Bucket};
use gradlog_format::log::{segment_path, BlockBuilder, BlockKind, Column, LogWriter, WriterOptions};
use gradlog_format::run::Run;
use gradlog_store::{StoreError, Sync};
use gradlog_testing::Draws;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The files below a folder, without the lock and what the server keeps beside them.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => {
                found.extend(files(&entry.path()).into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)))
            }
            false if name == "lock" || name.starts_with('.') => {}
            false => drop(found.insert(name, std::fs::read(entry.path()).unwrap())),
        }
    }
    found
}

fn writes(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| asked.method == "PUT" || asked.method == "POST").count()
}

/// Writes a block of visits into a segment of its own size, so that each block begins a new one.
fn write(writer: &mut LogWriter, step: u64) {
    let mut block = BlockBuilder::new(BlockKind::Visits);
    // Ids that nothing compresses: a block of these is longer than half of the shortest segment.
    let mut draws = Draws(step);
    block.u64s(Column::Example, (0..6000).map(|_| draws.bits()));
    block.u64s(Column::Step, (0..6000).map(|_| step));
    block.u32s(Column::Epoch, (0..6000).map(|_| 0));
    (0..6000).for_each(|_| block.advance(1, step, 0));
    writer.append(&mut block).unwrap();
}

fn writer(dir: &Path) -> LogWriter {
    let small = small_run(None, Arc::new(TempDir::new().unwrap()));
    let options = WriterOptions { segment_bytes: 1 << 16, zstd_level: 1 };
    LogWriter::create(dir, small.run().manifest(), options).unwrap()
}

#[test]
fn a_copy_is_the_run_and_a_second_one_sends_nothing_and_deletes_nothing() {
    let bucket = Bucket::new();
    for (folder, prefix) in [(segmented_run(), "small"), (large_run(), "large")] {
        let report = bucket.sync(folder.path(), prefix).unwrap();
        let expected = files(folder.path());
        assert_eq!(files(&bucket.file(prefix)), expected);
        assert_eq!((report.sent_files, report.equal_files), (expected.len() as u64, 0));
        assert_eq!(report.sent_bytes, expected.values().map(|bytes| bytes.len() as u64).sum::<u64>());
        assert!(report.finished && report.open_segments.is_empty());
        let remote = bucket.open(prefix).unwrap();
        assert_eq!(cells(&remote).unwrap(), cells(&Run::open(folder.path()).unwrap()).unwrap());

        std::fs::write(bucket.file(prefix).join("notes.txt"), "of somebody else").unwrap();
        bucket.server.asked();
        let again = bucket.sync(folder.path(), prefix).unwrap();
        assert_eq!((again.sent_files, again.equal_files), (0, expected.len() as u64));
        assert_eq!(writes(&bucket.server.asked()), 0);
        assert!(bucket.file(prefix).join("notes.txt").exists());
    }
    // A file that somebody copied by other means has no checksum as an attribute, and is read.
    let folder = segmented_run();
    bucket.put(folder.path(), "by-hand");
    let report = bucket.sync(folder.path(), "by-hand").unwrap();
    assert_eq!(report.sent_files, 0);
    assert!(report.requests.bytes_read > 10_000, "{report:?}");
}

#[test]
fn what_is_copied_of_a_live_run_is_a_prefix_without_its_open_segment() {
    let (bucket, dir) = (Bucket::new(), TempDir::new().unwrap());
    let mut writer = writer(dir.path());
    let remote_steps = || -> Vec<u64> {
        let run = bucket.open("live").unwrap();
        let mut scan = run.scan();
        let steps =
            scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Visits)).map(|b| b.steps().0).collect();
        assert_eq!(scan.damage().unwrap(), None);
        steps
    };
    for step in 0..4u64 {
        write(&mut writer, step);
        let report = bucket.sync(dir.path(), "live").unwrap();
        assert_eq!(remote_steps(), (0..step).collect::<Vec<_>>());
        assert_eq!(report.open_segments, [segment_path(dir.path(), step as u32)]);
        assert!(!report.finished);
        assert!(!bucket.open("live").unwrap().verify().unwrap().finished);
    }
    writer.append_end().unwrap();
    writer.finish().unwrap();
    drop(writer);
    let report = bucket.sync(dir.path(), "live").unwrap();
    assert!(report.finished && report.open_segments.is_empty());
    assert_eq!(files(&bucket.file("live")), files(dir.path()));
    assert!(bucket.open("live").unwrap().verify().unwrap().finished);
}

#[test]
fn a_recorder_that_was_killed_is_copied_up_to_its_last_block_and_its_resumption_after_it() {
    let (bucket, alive, dir) = (Bucket::new(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut writer = writer(alive.path());
    write(&mut writer, 0);
    write(&mut writer, 1);
    // The files as they are at this moment, with the zeros of the open segment, and one that has no header yet.
    for (name, bytes) in files(alive.path()) {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    std::fs::write(segment_path(dir.path(), 2), vec![0u8; 1 << 16]).unwrap();
    let report = bucket.sync(dir.path(), "killed").unwrap();
    assert!(!report.finished && report.sent_files == 3, "{report:?}");
    let steps = |run: &Run| run.scan().map(|block| block.steps().0).collect::<Vec<_>>();
    assert_eq!(steps(&bucket.open("killed").unwrap()), [0, 1]);
    // A resumption writes the segment without a header anew.
    write(&mut writer, 2);
    writer.append_end().unwrap();
    writer.finish().unwrap();
    std::fs::copy(segment_path(alive.path(), 2), segment_path(dir.path(), 2)).unwrap();
    let report = bucket.sync(dir.path(), "killed").unwrap();
    assert_eq!(report.sent_files, 1);
    assert_eq!(cells(&bucket.open("killed").unwrap()).unwrap(), cells(&Run::open(dir.path()).unwrap()).unwrap());
}

#[test]
fn following_ends_when_the_recorder_does_and_nothing_is_missing() {
    let (bucket, dir) = (Bucket::new(), TempDir::new().unwrap());
    let folder = dir.path().join("run");
    let recording = folder.clone();
    let recorder = std::thread::Builder::new().name("recorder".into());
    let recorder = recorder
        .spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            let mut writer = writer(&recording);
            for step in 0..6 {
                write(&mut writer, step);
                std::thread::sleep(Duration::from_millis(150));
            }
            writer.append_end().unwrap();
            writer.finish().unwrap();
        })
        .unwrap();
    // The store fails for a while in the middle.
    bucket.server.fail(|asked| if (9..13).contains(&asked.number) { Fault::Status(500) } else { Fault::Nothing });
    let sync = Sync::new(&folder, "s3://bucket/followed").options(bucket.options());
    let mut events = Vec::new();
    let report = sync.follow(Duration::from_millis(50)).run(|event| events.push(format!("{event:?}"))).unwrap();
    recorder.join().unwrap();
    assert!(report.finished, "{report:?}");
    assert_eq!(files(&bucket.file("followed")), files(&folder));
    assert!(events[0].starts_with("WaitsForRun") && events.iter().any(|event| event.starts_with("TriesAgain")));

    let never = Sync::new(dir.path().join("none"), "s3://bucket/none").options(bucket.options());
    let error = never.follow(Duration::from_millis(20)).appear_max(Duration::from_millis(200)).run(|_| {});
    assert!(error.unwrap_err().to_string().contains("is not a gradlog run"));
}

#[test]
fn an_interrupted_copy_is_a_prefix_at_any_time_and_goes_on() {
    let folder = large_run();
    let expected = files(folder.path());
    let probe = Bucket::new();
    probe.sync(folder.path(), "run").unwrap();
    let requests = probe.server.asked().len();
    let local = cells(&Run::open(folder.path()).unwrap()).unwrap();
    for stop in (0..requests).step_by(5) {
        let bucket = Bucket::new();
        bucket.server.fail(move |asked| if asked.number >= stop { Fault::Status(403) } else { Fault::Nothing });
        let error = bucket.sync(folder.path(), "run").unwrap_err();
        assert!(matches!(error, StoreError::Request { .. }), "{error}");
        bucket.server.fail(|_| Fault::Nothing);
        let there = files(&bucket.file("run"));
        assert!(there.iter().all(|(name, bytes)| expected.get(name) == Some(bytes)), "whole files or none");
        if let Ok(run) = bucket.open("run") {
            let read = cells(&run).unwrap();
            let blocks = read.rsplit_once("None\n").unwrap().0;
            assert!(local.starts_with(blocks), "stopped at {stop}");
        }
        bucket.server.asked();
        let report = bucket.sync(folder.path(), "run").unwrap();
        assert_eq!(files(&bucket.file("run")), expected);
        assert_eq!(report.sent_files + report.equal_files, expected.len() as u64);
        assert!(report.equal_files >= there.len() as u64, "{report:?}, {} were there", there.len());
    }
}

#[test]
fn another_run_and_another_segment_are_refused_and_left_alone() {
    let bucket = Bucket::new();
    let (run, other) = (segmented_run(), segmented_run());
    bucket.sync(run.path(), "run").unwrap();
    let before = files(&bucket.file("run"));
    let error = bucket.sync(other.path(), "run").unwrap_err();
    assert!(matches!(error, StoreError::OtherRun { .. }), "{error}");
    // A segment that a disk has changed since must not replace the sound one.
    let segment = segment_path(run.path(), 3);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let error = bucket.sync(run.path(), "run").unwrap_err().to_string();
    for part in [segment.to_str().unwrap(), "s3://bucket/run/segment-00003.glog", "nothing was replaced"] {
        assert!(error.contains(part), "{error}");
    }
    bytes.truncate(300);
    std::fs::write(&segment, &bytes).unwrap();
    assert!(bucket.sync(run.path(), "run").unwrap_err().to_string().contains("and 300 here"));
    assert_eq!(files(&bucket.file("run")), before);
    // A checkpoint of the same step replaces the one that is there, as it does in the folder.
    bytes.clear();
    let run = segmented_run();
    bucket.sync(run.path(), "again").unwrap();
    let weights = std::fs::read_dir(run.path().join("checkpoints")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&weights, "other weights").unwrap();
    assert_eq!(bucket.sync(run.path(), "again").unwrap().sent_files, 1);
    assert_eq!(files(&bucket.file("again")), files(run.path()));
    let nothing = bucket.sync(&run.path().join("checkpoints"), "nothing").unwrap_err().to_string();
    assert!(nothing.contains("is not a gradlog run"), "{nothing}");
}

#[test]
fn a_file_that_does_not_read_back_is_sent_again_and_then_an_error() {
    let bucket = Bucket::new();
    let run = segmented_run();
    let is_segment = |asked: &Asked| asked.method == "GET" && asked.path.contains("segment-00002");
    let times = std::sync::atomic::AtomicU32::new(0);
    bucket.server.fail(move |asked| {
        let first = is_segment(asked) && times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        if first {
            Fault::Flipped
        } else {
            Fault::Nothing
        }
    });
    assert!(bucket.sync(run.path(), "once").unwrap().finished);
    bucket.server.fail(move |asked| if is_segment(asked) { Fault::Flipped } else { Fault::Nothing });
    let error = bucket.sync(run.path(), "always").unwrap_err();
    assert!(matches!(error, StoreError::Unsound { .. }), "{error}");
    assert!(error.to_string().contains("s3://bucket/always/segment-00002.glog"), "{error}");
}

#[test]
fn parts_of_workers_are_copied_and_read_as_one_run() {
    let bucket = Bucket::new();
    let dir = Arc::new(TempDir::new().unwrap());
    let workers: Vec<_> = (0..3).map(|rank| small_run(Some((rank, 3)), dir.clone())).collect();
    let report = bucket.sync(dir.path(), "workers").unwrap();
    assert!(report.finished);
    assert_eq!(files(&bucket.file("workers")), files(dir.path()));
    let (local, remote) = (Run::open(dir.path()).unwrap(), bucket.open("workers").unwrap());
    assert_eq!(everything(&remote).unwrap(), everything(&local).unwrap());
    drop(workers);
}
