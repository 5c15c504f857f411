//! What is read of a store is what is read of a folder.

use crate::support::{cells, everything, large_run, segmented_run, small_run, Bucket};
use gradlog_analysis::{Score, ScoreQuestion};
use gradlog_format::run::Run;
use gradlog_store::{open_run, Store};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Asserts that a folder and its copy in a bucket read the same.
fn check(bucket: &Bucket, folder: &Path, prefix: &str) -> Result<String, String> {
    bucket.put(folder, prefix);
    let local = Run::open(folder).map_err(|error| error.to_string()).and_then(|run| everything(&run));
    let remote = bucket.open(prefix).map_err(|error| error.to_string()).and_then(|run| everything(&run));
    let folder_name = folder.display().to_string();
    let local = local.map_err(|error| error.replace(&folder_name, "RUN"));
    let remote = remote.map_err(|error| error.replace(&format!("s3://bucket/{prefix}"), "RUN"));
    assert!(local == remote, "{prefix}:\n{local:?}\n\n{remote:?}");
    local
}

#[test]
fn cells_scores_influence_and_reports_are_those_of_the_folder() {
    let bucket = Bucket::new();
    let run = segmented_run();
    let read = check(&bucket, run.path(), "runs/segmented").unwrap();
    assert!(read.contains("finished: true") && read.contains("checkpoint_faults: [(") && read.len() > 100_000);
    // At the root of the bucket, and with other names beside it.
    check(&bucket, run.path(), "a run with blanks").unwrap();
    for fixture in ["v1", "v1-cards", "v1-checks", "v1-events", "v1-gaps", "v1-planes", "v1-replay", "v1-two-sided"] {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data")).join(fixture);
        check(&bucket, &folder, fixture).unwrap();
    }
}

#[test]
fn a_run_of_several_workers_is_that_of_the_folder() {
    let bucket = Bucket::new();
    let dir = Arc::new(TempDir::new().unwrap());
    for rank in 0..3 {
        small_run(Some((rank, 3)), dir.clone());
    }
    let read = check(&bucket, dir.path(), "workers").unwrap();
    assert!(read.contains("finished: true"));
    assert_eq!(bucket.open("workers").unwrap().parts().len(), 3);
    let part = bucket.open("workers/worker-0001").unwrap();
    assert!(part.parts().is_empty() && part.verify().unwrap().visits > 0);
    std::fs::remove_dir_all(bucket.file("workers/worker-0001")).unwrap();
    std::fs::remove_dir_all(dir.path().join("worker-0001")).unwrap();
    check(&bucket, dir.path(), "workers").unwrap();
}

/// Every cut and every flipped bit is tested where the files are local. Here it is some of each, over all files.
#[test]
fn damage_is_reported_as_in_the_folder() {
    let bucket = Bucket::new();
    let run = segmented_run();
    let mut files: Vec<PathBuf> = std::fs::read_dir(run.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file() && !path.ends_with("lock"));
    files.sort();
    let mut damaged = 0;
    for (number, file) in files.iter().enumerate() {
        let bytes = std::fs::read(file).unwrap();
        let places = [0, 9, 40, 70, 130, bytes.len() / 2, bytes.len() - 9];
        for (turn, place) in places.into_iter().filter(|place| *place < bytes.len()).enumerate() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 0x10;
            std::fs::write(file, &flipped).unwrap();
            let read = check(&bucket, run.path(), &format!("flip-{number}-{turn}"));
            damaged += usize::from(read.is_err() || read.is_ok_and(|read| read.contains("Some(Damage")));
            std::fs::write(file, &bytes[..place]).unwrap();
            let _ = check(&bucket, run.path(), &format!("cut-{number}-{turn}"));
        }
        std::fs::remove_file(file).unwrap();
        let _ = check(&bucket, run.path(), &format!("gone-{number}"));
        std::fs::write(file, &bytes).unwrap();
    }
    assert!(damaged > 2 * files.len(), "{damaged} of {} files", files.len());
}

#[test]
fn a_whole_scan_takes_few_long_requests_and_a_column_few_bytes() {
    let bucket = Bucket::new();
    let run = large_run();
    bucket.put(run.path(), "large");
    let bytes: u64 = std::fs::read_dir(run.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes > 18 << 20, "{bytes}");
    let open = || {
        let store = Arc::new(Store::open("s3://bucket/large", bucket.patient_options()).unwrap());
        (Run::open_in(store.clone(), store.root()).unwrap(), store)
    };

    let (remote, store) = open();
    assert_eq!(cells(&remote).unwrap(), cells(&Run::open(run.path()).unwrap()).unwrap());
    let whole = store.requests();
    assert!(whole.bytes_read < bytes + bytes / 4, "{whole:?} of {bytes}");
    assert!(whole.reads < 60, "{whole:?}");

    let (remote, store) = open();
    let table = ScoreQuestion::new(Score::Aum).compute(&remote).unwrap();
    assert_eq!(table.rows.len(), 997);
    let column = store.requests();
    assert!(column.bytes_read < bytes * 4 / 10, "{column:?} of {bytes}");
    assert_eq!(column.looks, 1);

    let (remote, store) = open();
    let blocks = remote.scan().count();
    let headers = store.requests();
    assert!(blocks == 13 && headers.bytes_read < bytes / 3 && headers.reads < 24, "{headers:?} for {blocks} blocks");
    println!("{bytes} bytes: whole {whole:?}, a column {column:?}, headers {headers:?}");
}

#[test]
fn what_is_kept_in_memory_is_bounded_and_does_not_change_what_is_read() {
    let bucket = Bucket::new();
    let run = large_run();
    bucket.put(run.path(), "large");
    let mut options = bucket.patient_options();
    (options.cache_bytes, options.in_flight_max, options.request_bytes) = (1, 1, 1);
    let remote = open_run("s3://bucket/large", options).unwrap();
    assert_eq!(cells(&remote).unwrap(), cells(&Run::open(run.path()).unwrap()).unwrap());
}

#[test]
fn a_file_that_is_replaced_or_gone_while_it_is_read_is_an_error() {
    let bucket = Bucket::new();
    let run = large_run();
    bucket.put(run.path(), "large");
    let file = bucket.file("large/segment-00001.glog");
    let sound = std::fs::read(&file).unwrap();
    let read_after = |change: &dyn Fn()| {
        std::fs::write(&file, &sound).unwrap();
        let remote = bucket.open("large").unwrap();
        let mut scan = remote.scan();
        let first: Vec<_> = scan.by_ref().take(5).collect();
        change();
        let read: Vec<_> = first.iter().map(|block| block.check()).collect();
        let error = read.into_iter().find_map(Result::err).or_else(|| {
            scan.by_ref().for_each(drop);
            scan.damage().err()
        });
        error.map(|error| error.to_string()).unwrap_or_default()
    };
    let error = read_after(&|| {
        let other: Vec<u8> = sound.iter().rev().copied().collect();
        std::fs::write(&file, other).unwrap();
    });
    assert!(
        error.contains("s3://bucket/large/segment-00001.glog") && error.contains("replaced while it was read"),
        "{error}"
    );
    let error = read_after(&|| std::fs::remove_file(&file).unwrap());
    assert!(error.contains("it was there a moment ago"), "{error}");
}

#[test]
fn errors_name_the_place_and_what_to_do() {
    let bucket = Bucket::new();
    let run = segmented_run();
    bucket.put(run.path(), "run");
    let started = Instant::now();
    let error = |address: &str, name: &str, value: &str| {
        let mut options = bucket.options();
        options.settings.push((name.into(), value.into()));
        open_run(address, options).unwrap_err().to_string()
    };
    for (found, expected) in [
        (error("s3://bucket/none", "", ""), "s3://bucket/none is not a gradlog run: there is no such folder"),
        (error("s3://bucket/run/checkpoints", "", ""), "it has no file `manifest`"),
        (error("s3://nobody/run", "", ""), "s3://nobody/run"),
        (error("s3://bucket/run", "AWS_SECRET_ACCESS_KEY", "wrong"), "do not permit it"),
        (error("s3://bucket/run", "AWS_ACCESS_KEY_ID", "nobody"), "do not permit it"),
        (error("s3://bucket/run", "AWS_ENDPOINT_URL", "http://127.0.0.1:1"), "check the address, the network"),
        (error("https://127.0.0.1:1/run", "", ""), "https://127.0.0.1:1/run"),
    ] {
        assert!(found.contains(expected), "{found}");
    }
    assert!(started.elapsed() < Duration::from_secs(60));
}
