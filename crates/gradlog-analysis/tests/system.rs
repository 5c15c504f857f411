//! Analyses where the file system refuses: an error that says what to do, and never another answer.
//!
//! A limit holds for a whole process, so these tests start themselves again as a child, under `ulimit -n` or as another
//! user.

#![cfg(unix)]

use gradlog_analysis::{InfluenceQuestion, Run, Score, ScoreQuestion, SummaryQuestion};
use gradlog_format::log::segment_path;
use gradlog_testing::child::{play, RUN};
use gradlog_testing::{visits, Draws, Encoding, Synthetic, Written};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// A run of probe and visit blocks.
fn written(blocks: u64) -> Written {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    for (step, visit) in visits(&mut Draws(1), blocks / 2, 1, 1).iter().enumerate() {
        run.probes(&[Draws(9).visit(3, step as u64, 0)]);
        run.visits(std::slice::from_ref(visit));
    }
    run.end();
    run.finish()
}

/// The same with a segment for each block.
fn split(blocks: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    written(blocks).split(dir.path());
    dir
}

#[test]
fn three_thousand_segments_are_analyzed_with_256_open_files() {
    let (whole, split) = (written(3_000), tempfile::tempdir().unwrap());
    whole.split(split.path());
    std::os::unix::fs::symlink(whole.path(), split.path().join("whole")).unwrap();
    assert!(play("with_many_segments", 256, split.path(), None));
}

#[test]
#[ignore = "the child of another test"]
fn with_many_segments() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let (run, whole) = (Run::open(&dir).unwrap(), Run::open(Path::new(&dir).join("whole")).unwrap());
    assert!(segment_path(Path::new(&dir), 3_000).exists() && !segment_path(&Path::new(&dir).join("whole"), 1).exists());
    let question = InfluenceQuestion::new("test");
    let (found, expected) = (question.compute(&run).unwrap(), question.compute(&whole).unwrap());
    assert!(found.visits >= 1_500);
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    for score in Score::ALL {
        let of = |run: &Run| ScoreQuestion::new(score).compute(run).unwrap();
        assert_eq!(format!("{:?}", of(&run)), format!("{:?}", of(&whole)));
    }
    assert_eq!(SummaryQuestion::new().compute(&run).unwrap(), SummaryQuestion::new().compute(&whole).unwrap());
    assert_eq!(run.verify().unwrap().visits, whole.verify().unwrap().visits);
    let to = tempfile::tempdir().unwrap();
    assert!(run.recover(to.path().join("new")).unwrap().survey.is_whole());
}

#[test]
fn too_many_open_files_are_an_error_of_the_analysis() {
    assert!(play("with_few_files", 64, split(8).path(), None));
}

#[test]
#[ignore = "the child of another test"]
fn with_few_files() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let summary = SummaryQuestion::new().compute(&Run::open(&dir).unwrap()).unwrap();
    let (mut refused, mut read) = (0, 0);
    for free in 0..24 {
        let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        held.truncate(held.len() - free);
        let result = Run::open(&dir)
            .map_err(|e| e.to_string())
            .and_then(|run| SummaryQuestion::new().compute(&run).map_err(|e| e.to_string()));
        drop(held);
        match result {
            Ok(found) => {
                assert_eq!(found, summary);
                read += 1;
            }
            Err(error) => {
                assert!(error.contains("ulimit -n"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && read > 10, "{refused} {read}");
}

#[test]
fn a_segment_that_may_not_be_read_is_an_error_of_the_analysis() {
    let dir = split(8);
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(dir.path(), 0o755);
    mode(&segment_path(dir.path(), 1), 0o000);
    // Nothing is forbidden to root.
    let root = std::os::unix::fs::MetadataExt::uid(&dir.path().metadata().unwrap()) == 0;
    play("without_permission", 256, dir.path(), root.then_some(65_534));
}

#[test]
#[ignore = "the child of another test"]
fn without_permission() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let error = SummaryQuestion::new().compute(&Run::open(&dir).unwrap()).unwrap_err().to_string();
    assert!(error.contains("permission") && error.contains("segment-00001"), "{error}");
}
