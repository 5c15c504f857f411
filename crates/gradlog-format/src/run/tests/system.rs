//! What the file system refuses, and what stands under the name of a file and is none.
//!
//! A limit holds for a whole process, so these tests start themselves again as a child, under `ulimit -n` or as another
//! user.

use super::*;
use crate::log::{segment_path, ResumePlace, Totals};
use gradlog_testing::child::{play, RUN};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

/// A run that was resumed, so that a scan that does not know of that would count visits twice.
fn resumed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), 5).unwrap().finish().unwrap();
    let (next_segment, sequence) = {
        let run = Run::open(dir.path()).unwrap();
        let mut scan = run.part_scan();
        assert_eq!(scan.by_ref().count(), 5);
        scan.place()
    };
    let place = ResumePlace { run_id: manifest().run_id, next_segment, sequence, step: 2, totals: Totals::default() };
    let mut writer = LogWriter::resume(dir.path(), place, options()).unwrap();
    for index in [3, 6, 7] {
        writer.append(&mut sample_block(index)).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    dir
}

/// Says that a result is an error of the system that names what to do, or what it is without one; which of the two.
#[track_caller]
pub(super) fn refused_or<T: PartialEq + std::fmt::Debug>(
    result: Result<T, ReadError>,
    expected: &T,
    advice: &str,
) -> bool {
    match result {
        Ok(found) => {
            assert_eq!(found, *expected);
            false
        }
        Err(error) => {
            assert!(matches!(error, ReadError::Io { .. }) && error.to_string().contains(advice), "{error:?}");
            true
        }
    }
}

pub(super) fn scan(run: &Run) -> Result<(usize, Option<Damage>), ReadError> {
    let mut scan = run.scan();
    let rows = scan.by_ref().map(|block| block.rows()).sum();
    Ok((rows, scan.damage()?.cloned()))
}

#[test]
fn too_many_open_files_are_an_error_and_no_damage() {
    assert!(play("run::tests::system::with_few_files", 64, resumed().path(), None));
}

#[test]
#[ignore = "the child of another test"]
fn with_few_files() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let run = Run::open(&dir).unwrap();
    let expected = (scan(&run).unwrap(), run.verify().unwrap(), run.survey().unwrap(), run.probe_sets().unwrap());
    assert!(expected.1.superseded > 0 && expected.1.damage.is_none());
    let to = tempfile::tempdir().unwrap();
    let (mut refused, mut read) = (0, 0);
    for free in 0..24 {
        let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        held.truncate(held.len() - free);
        let advice = "ulimit -n";
        // Nothing is open of a run that was opened by name only.
        let results = [
            refused_or(Run::open(&dir).map(|run| run.manifest().seed), &7, advice),
            refused_or(Run::open(&dir).and_then(|run| scan(&run)), &expected.0, advice),
            refused_or(Run::open(&dir).and_then(|run| run.verify()), &expected.1, advice),
            refused_or(Run::open(&dir).and_then(|run| run.survey()), &expected.2, advice),
            refused_or(Run::open(&dir).and_then(|run| run.probe_sets()), &expected.3, advice),
        ];
        let new = to.path().join(format!("{free}"));
        if let Ok(report) = run.recover(&new) {
            assert!(report.survey.is_whole() && report.written.damage.is_none());
            assert_eq!(report.survey, expected.2);
        } else {
            assert!(!new.exists());
        }
        drop(held);
        match results {
            [true, true, true, true, true] => refused += 1,
            [false, false, false, false, false] => read += 1,
            _ => {}
        }
    }
    assert!(refused > 0 && read > 10, "{refused} {read}");
    // The folder of a run that is being written: that the lock cannot be asked must not make damage of its last header.
    let path = segment_path(Path::new(&dir), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    for index in 1.. {
        if std::fs::remove_file(segment_path(Path::new(&dir), index)).is_err() {
            break;
        }
    }
    let second = {
        let mut scan = run.scan();
        assert_eq!(scan.next().unwrap().sequence(), 0);
        scan.next().unwrap().offset as usize
    };
    bytes.truncate(second + 64);
    bytes[second + 20..].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let lock = File::create(Path::new(&dir).join("lock")).unwrap();
    lock.try_lock().unwrap();
    assert_eq!(scan(&run).unwrap(), (1, None));
    let mut scan = run.scan();
    assert!(scan.next().is_some());
    let held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // The segment is open already, the lock is not.
    let after = (scan.next().is_some(), scan.damage().map(|damage| damage.cloned()));
    drop(held);
    assert!(!after.0 && refused_or(after.1, &None, "ulimit -n"));
}

#[test]
fn a_file_that_may_not_be_read_is_an_error_and_no_damage() {
    let dir = resumed();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(dir.path(), 0o755);
    mode(&segment_path(dir.path(), 1), 0o000);
    // Nothing is forbidden to root.
    let root = std::os::unix::fs::MetadataExt::uid(&dir.path().metadata().unwrap()) == 0;
    play("run::tests::system::without_permission", 256, dir.path(), root.then_some(65_534));
}

#[test]
#[ignore = "the child of another test"]
fn without_permission() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let run = Run::open(&dir).unwrap();
    let advice = "permission";
    assert!(refused_or(scan(&run), &(0, None), advice));
    // What is superseded is said by a segment that cannot be read, so not one row comes out.
    assert_eq!(run.scan().count(), 0);
    assert!(refused_or(run.verify(), &VerifyReport::default(), advice));
    assert!(refused_or(run.survey().map(|_| ()), &(), advice));
    let to = tempfile::tempdir().unwrap();
    let error = run.recover(to.path().join("new")).unwrap_err().to_string();
    assert!(error.contains(advice) && error.contains("segment-00001"), "{error}");
}

/// Runs `f` on a thread of its own and gives up on it after a while.
#[track_caller]
fn in_time<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("in time".into()).spawn(move || sender.send(f()));
    let answer = receiver.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("{what}: no answer"));
    drop(thread.unwrap().join());
    answer
}

type Puts = fn(&Path);

#[test]
fn pipes_devices_and_folders_under_the_names_of_files_are_refused_at_once() {
    let puts: [(&str, Puts); 5] = [
        ("pipe", |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
        ("folder", |path| std::fs::create_dir(path).unwrap()),
        ("device", |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
        ("pipe behind a link", |path| {
            let pipe = path.with_extension("pipe");
            assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            std::os::unix::fs::symlink(pipe, path).unwrap();
        }),
        ("socket", |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
    ];
    let place = |next_segment| ResumePlace {
        run_id: manifest().run_id,
        next_segment,
        sequence: 8,
        step: 9,
        totals: Totals::default(),
    };
    for (what, put) in puts {
        for name in ["manifest", "lock", "segment-00000.glog", "segment-00001.glog"] {
            let dir = tempfile::tempdir().unwrap();
            write_sample(dir.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
            let path = dir.path().join(name);
            std::fs::remove_file(&path).unwrap();
            put(&path);
            let folder = dir.path().to_owned();
            let what = format!("{what} for {name}");
            let opened = in_time(&what, move || Run::open(folder));
            if name == "manifest" {
                // A socket cannot even be opened.
                assert!(matches!(opened, Err(ReadError::NotARun { .. } | ReadError::Io { .. })), "{what}: {opened:?}");
                continue;
            }
            let (run, new) = (opened.unwrap(), dir.path().join("new"));
            let again = run.clone();
            let verified = in_time(&what, move || again.verify());
            let recovered = in_time(&what, move || run.recover(new));
            let socket = what.starts_with("socket");
            if name == "lock" {
                let folder = dir.path().to_owned();
                let resumed = in_time(&what, move || LogWriter::resume(&folder, place(9), options()).err());
                assert!(matches!(resumed, Some(LogError::Io { .. })), "{what}: {resumed:?}");
                assert!(socket || verified.unwrap().damage.is_none(), "{what}");
            } else if socket {
                assert!(matches!((verified, recovered), (Err(ReadError::Io { .. }), Err(_))), "{what}");
            } else {
                assert!(verified.unwrap().damage.unwrap().what.contains("no file"), "{what}");
                assert!(!recovered.unwrap().survey.is_whole(), "{what}");
                let (folder, index) = (dir.path().to_owned(), u32::from(name.contains('1')));
                let resumed = in_time(&what, move || LogWriter::resume(&folder, place(index), options()).err());
                assert!(matches!(resumed, Some(LogError::Io { .. })), "{what}: {resumed:?}");
            }
        }
    }
}

#[test]
fn links_that_lead_nowhere_end_the_run_or_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    let path = segment_path(dir.path(), 0);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("nothing", &path).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(run.verify().unwrap().damage.unwrap().what.contains("missing"));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert!(matches!(run.verify(), Err(ReadError::Io { .. })));
}

/// Nobody waits while a terabyte of nothing is read.
#[test]
fn a_file_of_holes_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), 3).unwrap().finish().unwrap();
    let next = files(dir.path()).len() as u32 - 1;
    let last = segment_path(dir.path(), next - 1);
    let lengthen = |path: &Path| {
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        file.set_len(1 << 40).is_ok()
    };
    if !lengthen(&last) || !lengthen(&segment_path(dir.path(), next)) {
        println!("skipped: the file system knows no holes");
        return;
    }
    let run = Run::open(dir.path()).unwrap();
    let again = run.clone();
    assert_eq!(in_time("verify", move || again.verify()).unwrap().damage, None);
    let to = dir.path().join("new");
    assert!(in_time("recover", move || run.recover(to)).unwrap().survey.is_whole());
    let place =
        ResumePlace { run_id: manifest().run_id, next_segment: next, sequence: 3, step: 9, totals: Totals::default() };
    let folder = dir.path().to_owned();
    assert!(in_time("resume", move || LogWriter::resume(&folder, place, options()).map(drop)).is_ok());
}
