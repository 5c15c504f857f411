//! A training that goes on without recording: no call of a step fails, and the end says what is missing.

use crate::common::*;
use candle_core::{Device, Module, Tensor};
use candle_nn::Linear;
use gradlog::taps::{Tapped, Taps};
use gradlog::{Config, OnFailure, RecordError, Recorder};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;
use std::time::{Duration, Instant};

/// A recorder whose folder was deleted after three steps.
fn vanishing(dir: &Path, config: Config) -> (Recorder, Tapped<Linear>) {
    let OneLayer { taps, layer, .. } = one_layer(3);
    let mut recorder =
        Recorder::create(dir, &taps, Config { flush_interval: Duration::from_millis(1), ..config }).unwrap();
    for step in 0..3 {
        record_noise(&mut recorder, &layer, &[step, 10 + step]).unwrap();
    }
    recorder.flush().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    (recorder, layer)
}

#[test]
fn a_vanished_folder_fails_no_step_and_is_told_of_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recorder, layer) =
        vanishing(&dir.path().join("run"), Config { on_failure: OnFailure::GoOn, ..Config::default() });
    assert!(recorder.failure().is_none());
    record_noise(&mut recorder, &layer, &[1, 2]).unwrap();
    wait_until("the recorder fails", || recorder.failure().is_some());
    assert!(matches!(recorder.failure(), Some(RecordError::Log(_))));
    // Everything that a step can ask for, and none of it fails.
    record_noise(&mut recorder, &layer, &[1, 2, 3]).unwrap();
    let mut accumulated = recorder.pass(&[1, 2]).unwrap();
    accumulated.weights(&[1.0, 2.0]);
    accumulated.cross_entropy(&layer.forward(&noise(1, &[2, 4])).unwrap(), &labels(2)).unwrap();
    accumulated.accumulate().unwrap();
    record_noise(&mut recorder, &layer, &[4]).unwrap();
    for set in ["test", "new"] {
        let mut probe = recorder.probe(set, &[7]).unwrap();
        probe.cross_entropy(&layer.forward(&noise(3, &[1, 4])).unwrap(), &labels(1)).unwrap().backward().unwrap();
        probe.commit().unwrap();
    }
    recorder.checkpoint_tensors([("w".to_string(), noise(1, &[2]))]).unwrap();
    assert!(!dir.path().join("run").exists(), "a checkpoint that no log names");
    // A pass without a loss or a backward costs nothing and is not looked at: nothing is armed.
    recorder.pass(&[5]).unwrap().commit(0.1).unwrap();
    let own = recorder.pass(&[6, 7]).unwrap().per_example(|i| Tensor::new(i as f32, &Device::Cpu)).unwrap();
    assert_eq!(numbers(&own), [0.0, 1.0]);
    for error in [recorder.flush().unwrap_err(), recorder.finish().unwrap_err()] {
        let RecordError::Unrecorded { step, visits, probes, cause } = &error else { panic!("{error}") };
        // Steps 3 to 6: passes of 2, 3, 2 + 1 and 1; one was never committed. And two probes.
        assert_eq!((*step, *visits, *probes), (3, 9, 2), "{error}");
        assert!(matches!(**cause, RecordError::Log(_)));
        assert!(error.to_string().contains("from step 3 on") && error.to_string().contains("deleted"), "{error}");
    }
}

/// Nothing was written before, so that nobody knew.
#[test]
fn what_fails_at_the_end_first_is_told_in_full() {
    for flushed in [false, true] {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("run");
        let config = Config {
            on_failure: OnFailure::GoOn,
            flush_interval: Duration::from_millis(3_600_000),
            ..Config::default()
        };
        let OneLayer { taps, layer, .. } = one_layer(3);
        let mut recorder = Recorder::create(&dir, &taps, config).unwrap();
        for step in 0..3 {
            record_noise(&mut recorder, &layer, &[step, 10 + step]).unwrap();
        }
        std::fs::remove_dir_all(&dir).unwrap();
        let error = if flushed { recorder.flush().unwrap_err() } else { recorder.finish().unwrap_err() };
        assert!(matches!(error, RecordError::Unrecorded { step: 0, visits: 6, .. }), "{flushed}: {error}");
    }
}

/// A segment that a recorder begins in a folder that is being deleted makes the folder stay, without what makes it a
/// run.
#[test]
fn a_run_without_its_manifest_is_not_called_done() {
    let dir = tempfile::tempdir().unwrap();
    let OneLayer { taps, layer, .. } = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    record_noise(&mut recorder, &layer, &[1, 2]).unwrap();
    recorder.flush().unwrap();
    std::fs::remove_file(dir.path().join("manifest")).unwrap();
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains("manifest") && error.contains("deleted"), "{error}");
    // What is left there is somebody's.
    let error = Recorder::create(dir.path(), &taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("holds a run already"), "{error}");
}

#[test]
fn by_default_the_next_step_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recorder, layer) = vanishing(&dir.path().join("run"), Config::default());
    let _ = record_noise(&mut recorder, &layer, &[1, 2]);
    wait_until("the recorder fails", || recorder.failure().is_some());
    assert!(matches!(record_noise(&mut recorder, &layer, &[1, 2]), Err(RecordError::Log(_))));
    assert!(matches!(recorder.finish(), Err(RecordError::Log(_))));
}

#[test]
fn a_disk_that_is_stuck_is_waited_for_once_and_what_it_misses_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, gate) = (Taps::new(), Gate::default());
    let layer = taps.tap("fc", Gated { layer: noise_linear(5, 3, 4), gate: gate.clone() });
    let wait_max = Duration::from_millis(200);
    let config = Config { on_failure: OnFailure::GoOn, queue_passes: 1, wait_max, ..Config::default() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    // One is with the thread and one in the queue, the third waits in vain, and the others do not wait.
    let start = Instant::now();
    for step in 0..40 {
        record_noise(&mut recorder, &layer, &[step, 100 + step]).unwrap();
    }
    // Nor does what else has to reach it.
    for set in 0..15 {
        let _ = recorder.probe(&set.to_string(), &[7]).unwrap();
        recorder.checkpoint_tensors([("w".to_string(), noise(1, &[2]))]).unwrap();
    }
    assert!(start.elapsed() < 10 * wait_max, "{:?}", start.elapsed());
    assert!(recorder.failure().is_none(), "it may still come round");
    gate.open();
    // It takes passes again. After a flush the queue is empty.
    recorder.flush().unwrap();
    let more = 5;
    for step in 40..40 + more {
        record_noise(&mut recorder, &layer, &[step, 160 + step]).unwrap();
        recorder.flush().unwrap();
    }
    let summary = recorder.finish().unwrap();
    assert_eq!(summary.visits + summary.dropped, 2 * (40 + more));
    assert!(summary.dropped >= 2 * 37 && summary.visits >= 2 * (2 + more), "{summary}");
    let run = Run::open(dir.path()).unwrap();
    let report = run.verify().unwrap();
    assert_eq!((report.visits, report.dropped, report.finished), (summary.visits, summary.dropped, true));
    let gaps = u64s(dir.path(), BlockKind::Gaps, Column::Step);
    assert_eq!(gaps[0], 2, "{gaps:?}");
}
