//! What was committed arrives: after a flush, after a drop of the recorder, and what did not arrive is counted.

use crate::common::*;
use candle_nn::Module;
use gradlog::taps::{Tapped, Taps};
use gradlog::{Config, Overflow, Recorder};
use gradlog_format::log::{QueueFill, QUEUE_FILE};
use gradlog_format::run::Run;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_recorder_that_is_dropped_leaves_a_readable_run() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    for id in 0..50 {
        record_noise(&mut recorder, &model.layer, &[id, id + 100]).unwrap();
    }
    drop(recorder);
    assert_eq!(visited(dir.path()).len(), 100);
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert!(report.damage.is_none() && !report.finished);
}

#[test]
fn flush_makes_what_was_committed_readable_while_recording_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    for round in 1..4u64 {
        record_noise(&mut recorder, &model.layer, &[round, round + 10]).unwrap();
        recorder.flush().unwrap();
        assert_eq!(visited(dir.path()).len() as u64, 2 * round);
    }
    recorder.finish().unwrap();
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().finished);
}

/// A recorder with a layer that holds the background thread up until the gate opens.
fn gated(dir: &Path, config: Config) -> (Recorder, Tapped<Gated>, Gate) {
    let (taps, gate) = (Taps::new(), Gate::default());
    let layer = taps.tap("fc", Gated { layer: noise_linear(5, 3, 4), gate: gate.clone() });
    (Recorder::create(dir, &taps, config).unwrap(), layer, gate)
}

#[test]
fn drops_are_counted_and_written_and_equal_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { overflow: Overflow::DropNewest, queue_passes: 1, ..Config::default() };
    let (mut recorder, layer, gate) = gated(dir.path(), config);
    // The thread holds one pass at most and the queue another.
    for id in 0..10 {
        record_noise(&mut recorder, &layer, &[id, id, id]).unwrap();
    }
    gate.open();
    recorder.flush().unwrap();
    record_noise(&mut recorder, &layer, &[10, 10, 10]).unwrap();
    let summary = recorder.finish().unwrap();
    assert!(summary.dropped >= 3 * 8, "a queue of one pass was never full: nothing was tested");
    assert!(summary.visits >= 3 * 2);
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!(summary.visits + summary.dropped, 3 * 11);
    assert_eq!((report.visits, report.dropped), (summary.visits, summary.dropped));
    assert_eq!(visited(dir.path()).len() as u64, summary.visits);
}

/// A step of two passes whose second found the queue full is complete: what a flush promises is there, and counted.
#[test]
fn a_flush_covers_drops_too() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        overflow: Overflow::DropNewest,
        queue_bytes_max: 1,
        flush_interval: Duration::from_millis(3_600_000),
        ..Config::default()
    };
    let (mut recorder, layer, gate) = gated(dir.path(), config);
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    pass.cross_entropy(&layer.forward(&noise(1, &[2, 4])).unwrap(), &labels(2)).unwrap().backward().unwrap();
    pass.accumulate().unwrap();
    record_noise(&mut recorder, &layer, &[9999]).unwrap();
    gate.open();
    recorder.flush().unwrap();
    let flushed = Run::open(dir.path()).unwrap().verify().unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped), (2, 1), "the second pass was not dropped: nothing was tested");
    assert_eq!((flushed.visits, flushed.dropped), (2, 1));
}

/// The fill that the recorder says, once it is as wanted.
fn wait_for_fill(run: &Run, wanted: impl Fn(&QueueFill) -> bool) -> QueueFill {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match run.queue_fill() {
            Some(fill) if wanted(&fill) => return fill,
            other => assert!(Instant::now() < until, "the queue says {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_recorder_says_how_full_its_queue_is_while_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { queue_passes: 8, queue_bytes_max: 1 << 20, ..Config::default() };
    let (mut recorder, layer, gate) = gated(dir.path(), config);
    let run = Run::open(dir.path()).unwrap();
    // The thread holds one of five passes, so that three at least were waiting when the last one came.
    for id in 0..5 {
        record_noise(&mut recorder, &layer, &[id, id, id]).unwrap();
    }
    assert_eq!(run.queue_fill(), None, "nothing is done yet");
    gate.open();
    let full = wait_for_fill(&run, |_| true);
    assert_eq!((full.passes_max, full.bytes_max), (8, 1 << 20));
    assert!((3..=5).contains(&full.passes_peak) && full.passes <= full.passes_peak, "{full:?}");
    assert!(full.bytes < full.bytes_peak && full.peak() >= 0.375 && full.peak() <= 0.625, "{full:?}");
    // The recorder says that its queue is empty, even if no pass comes.
    let empty = wait_for_fill(&run, |fill| fill.peak() == 0.0);
    assert!(empty.wall_clock_ms > full.wall_clock_ms && (empty.passes, empty.bytes) == (0, 0), "{empty:?}");
    recorder.finish().unwrap();
    assert_eq!(run.queue_fill(), None);
    assert!(!dir.path().join(QUEUE_FILE).exists());
}
