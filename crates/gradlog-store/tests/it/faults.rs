//! A store that fails, at every request in turn: what is read is right, or reading is refused in time.

use crate::server::{Asked, Fault};
use crate::support::{everything, segmented_run, small_run, Bucket};
use gradlog_format::run::Run;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than an attempt waits, and shorter than all of them together.
const SLOW: Duration = Duration::from_millis(2500);

/// How long a failure may take: two attempts more, of 1.5 s each, for each of the few requests that are waited for.
const FAILURE_MAX: Duration = Duration::from_secs(30);

fn read(bucket: &Bucket) -> Result<String, String> {
    let run = bucket.open_hastily("run").map_err(|error| error.to_string())?;
    everything(&run)
}

/// The requests of a reading without failures, and what it reads.
fn sound(folder: &Path) -> (Bucket, usize, String) {
    let bucket = Bucket::new();
    bucket.put(folder, "run");
    bucket.server.asked();
    let found = read(&bucket).unwrap();
    assert_eq!(found, everything(&Run::open(folder).unwrap()).unwrap());
    let asked = bucket.server.asked().len();
    (bucket, asked, found)
}

fn is_read(asked: &Asked) -> bool {
    asked.method == "GET" && asked.range.is_some()
}

#[test]
fn one_failure_is_tried_again_and_changes_nothing() {
    let (bucket, requests, expected) = sound(segmented_run().path());
    assert!(requests >= 12, "{requests}");
    for fault in [Fault::Status(500), Fault::Status(503), Fault::Status(429), Fault::Torn, Fault::Short, Fault::Silent]
    {
        // The slow kinds of failure are tried at fewer places.
        let step = if fault == Fault::Silent { 5 } else { 1 };
        for failing in (0..requests).step_by(step) {
            bucket.server.asked();
            let fails = move |asked: &Asked| asked.number == failing && (is_read(asked) || fault != Fault::Short);
            bucket.server.fail(move |asked| if fails(asked) { fault } else { Fault::Nothing });
            let found = read(&bucket);
            assert!(found.as_ref() == Ok(&expected), "{fault:?} at {failing}: {:?}", found.map(|read| read.len()));
        }
    }
}

#[test]
fn a_failure_for_good_is_an_error_in_time_and_never_another_answer() {
    for folder in [segmented_run(), several_workers()] {
        let (bucket, requests, expected) = sound(folder.path());
        for fault in [Fault::Status(500), Fault::Status(403), Fault::Status(404), Fault::Torn, Fault::Short] {
            for failing in (0..requests).step_by(3) {
                bucket.server.asked();
                let fails = move |asked: &Asked| asked.number >= failing && (is_read(asked) || fault != Fault::Short);
                bucket.server.fail(move |asked| if fails(asked) { fault } else { Fault::Nothing });
                let started = Instant::now();
                match read(&bucket) {
                    // What was read ahead is never asked for again.
                    Ok(found) => assert!(found == expected, "{fault:?} from {failing} of {requests}"),
                    Err(error) => assert!(!error.contains("damaged at byte"), "{fault:?} from {failing}: {error}"),
                }
                assert!(started.elapsed() < FAILURE_MAX, "{fault:?} from {failing}: {:?}", started.elapsed());
            }
        }
    }
}

#[test]
fn a_store_that_is_slow_or_silent_for_good_is_an_error_in_time() {
    let (bucket, requests, _) = sound(segmented_run().path());
    for fault in [Fault::Slow(SLOW), Fault::Silent] {
        for failing in [0, 1, requests / 2] {
            bucket.server.asked();
            bucket.server.fail(move |asked| if asked.number >= failing { fault } else { Fault::Nothing });
            let started = Instant::now();
            let error = read(&bucket).unwrap_err();
            assert!(error.contains("try again") || error.contains("network"), "{error}");
            assert!(started.elapsed() < FAILURE_MAX, "{:?}", started.elapsed());
        }
    }
}

#[test]
fn a_byte_that_changes_on_its_way_is_damage_or_an_error() {
    let (bucket, requests, expected) = sound(segmented_run().path());
    let mut found_out = 0;
    for failing in 0..requests {
        bucket.server.asked();
        let fails = move |asked: &Asked| asked.number == failing && is_read(asked);
        bucket.server.fail(move |asked| if fails(asked) { Fault::Flipped } else { Fault::Nothing });
        match read(&bucket) {
            Ok(found) if found == expected => {}
            Ok(found) => {
                assert!(found.contains("Damage {") || found.contains("checkpoint_faults: [("), "at {failing}");
                found_out += 1;
            }
            Err(_) => found_out += 1,
        }
    }
    assert!(found_out > 10, "{found_out} of {requests}");
}

fn several_workers() -> TempDir {
    let dir = Arc::new(TempDir::new().unwrap());
    for rank in 0..2 {
        small_run(Some((rank, 2)), dir.clone());
    }
    let copy = TempDir::new().unwrap();
    for rank in ["worker-0000", "worker-0001"] {
        std::fs::create_dir(copy.path().join(rank)).unwrap();
        for entry in std::fs::read_dir(dir.path().join(rank)).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), copy.path().join(rank).join(entry.file_name())).unwrap();
        }
    }
    copy
}
