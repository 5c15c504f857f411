//! What the file system refuses of a run of several workers: an error, and never a worker that has ended.

use super::several_workers::{part_manifest, run_of, steps, visits, writer};
use super::system::{refused_or, scan};
use super::*;
use crate::log::{segment_path, worker_folder, AllReduce, WorkerRecord};
use gradlog_testing::child::{play, RUN};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;

#[test]
fn too_many_open_files_end_no_worker() {
    assert!(play("run::tests::refused_parts::with_few_files", 64, run_of([40, 33, 40], true).path(), None));
}

#[test]
#[ignore = "the child of another test"]
fn with_few_files() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let advice = "ulimit -n";
    let lock = File::create(worker_folder(Path::new(&dir), 2).join("lock")).unwrap();
    // Nobody records; then worker 2 does, so that its lock is asked for and it is read for how far it has come.
    for live in [false, true] {
        assert!(!live || lock.try_lock().is_ok());
        let run = Run::open(&dir).unwrap();
        assert_eq!(run.is_being_written(), live);
        let (expected, workers) = ((scan(&run).unwrap(), run.verify().unwrap()), run.workers().unwrap());
        assert!(expected.0 .0 > 200 && expected.1.damage.is_none());
        let survey = run.survey().unwrap();
        let (mut refused, mut read) = ([0; 7], 0);
        for free in 0..40 {
            let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            held.truncate(held.len() - free);
            let results = [
                refused_or(Run::open(&dir).map(|run| run.parts().len()), &3, advice),
                refused_or(Run::open(&dir).and_then(|run| scan(&run)), &expected.0, advice),
                refused_or(Run::open(&dir).and_then(|run| run.verify()), &expected.1, advice),
                refused_or(Run::open(&dir).and_then(|run| run.workers()), &workers, advice),
                refused_or(Run::open(&dir).and_then(|run| run.survey()), &survey, advice),
                // Of the run as it was opened before, some files are open and others are not.
                refused_or(scan(&run), &expected.0, advice),
                refused_or(run.workers(), &workers, advice),
            ];
            drop(held);
            for (refused, result) in refused.iter_mut().zip(results) {
                *refused += usize::from(result);
            }
            read += usize::from(results == [false; 7]);
        }
        // A run that has been read keeps so many files open that it can always go on with these.
        assert!(refused[..5].iter().all(|refused| *refused > 0) && read > 10, "{refused:?} {read}");
    }
}

const MANY: u32 = 100;

#[test]
fn a_hundred_workers_are_read_with_64_open_files() {
    let dir = tempfile::tempdir().unwrap();
    for rank in 0..MANY {
        let worker = WorkerRecord { rank, workers: MANY, reduction: AllReduce::Sum };
        let mut writer = writer(dir.path(), &Manifest { worker: Some(worker), ..part_manifest(rank) });
        for step in 0..6 {
            writer.append(&mut steps(rank, step..step + 1)).unwrap();
            writer.append(&mut visits(rank, step..step + 1)).unwrap();
        }
        writer.append_end().unwrap();
        writer.finish().unwrap();
    }
    assert!(segment_path(&worker_folder(dir.path(), MANY - 1), 1).exists());
    assert!(play("run::tests::refused_parts::with_many_workers", 64, dir.path(), None));
}

#[test]
#[ignore = "the child of another test"]
fn with_many_workers() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let run = Run::open(&dir).unwrap();
    let all = u64::from(MANY) * 6 * 2;
    // Blocks that are kept hold no file.
    let blocks: Vec<Block> = run.scan().collect();
    blocks.iter().for_each(|block| block.check().unwrap());
    let end = blocks.last().unwrap();
    assert_eq!((end.kind(), end.u64s(Column::Visits).unwrap()), (Some(BlockKind::End), vec![all]));
    let report = run.verify().unwrap();
    assert_eq!((report.visits, report.steps, report.finished, report.damage), (all, 6, true, None));
    assert_eq!(run.workers().unwrap().unwrap().parts.len(), MANY as usize);
    let to = tempfile::tempdir().unwrap();
    assert!(run.recover(to.path().join("new")).unwrap().survey.is_whole());
}

#[test]
fn one_part_that_may_not_be_read_is_an_error_of_the_whole() {
    let dir = run_of([40, 40, 40], true);
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(dir.path(), 0o755);
    let root = std::os::unix::fs::MetadataExt::uid(&dir.path().metadata().unwrap()) == 0;
    let user = root.then_some(65_534);
    let segment = segment_path(&worker_folder(dir.path(), 1), 1);
    mode(&segment, 0o000);
    play("run::tests::refused_parts::without_permission_for_a_segment", 256, dir.path(), user);
    mode(&segment, 0o644);
    mode(&worker_folder(dir.path(), 1), 0o000);
    play("run::tests::refused_parts::without_permission_for_a_part", 256, dir.path(), user);
    mode(&worker_folder(dir.path(), 1), 0o755);
}

#[test]
#[ignore = "the child of another test"]
fn without_permission_for_a_segment() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let (run, advice) = (Run::open(&dir).unwrap(), "permission");
    assert!(refused_or(scan(&run), &(0, None), advice));
    // What is superseded in the part cannot be known, so not one of its rows comes out, and of the others none before
    // these.
    assert_eq!(run.scan().count(), 0);
    assert!(refused_or(run.verify(), &VerifyReport::default(), advice));
    assert!(refused_or(run.workers(), &None, advice));
    assert!(refused_or(run.probe_sets(), &Vec::new(), advice));
    let to = tempfile::tempdir().unwrap();
    let error = run.recover(to.path().join("new")).unwrap_err().to_string();
    assert!(error.contains(advice) && error.contains("worker-0001"), "{error}");
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0);
    // The others' parts are as good as ever.
    assert!(run.parts()[0].verify().unwrap().damage.is_none());
}

#[test]
#[ignore = "the child of another test"]
fn without_permission_for_a_part() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let error = Run::open(&dir).unwrap_err().to_string();
    assert!(error.contains("worker-0001") && error.contains("permission"), "{error}");
}
