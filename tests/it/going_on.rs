//! A training that goes on without recording: no call of a step fails, and the end says what is missing.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{linear, Linear, VarBuilder, VarMap};
use gradlog::taps::{LayerSpec, Parameter, PerExample};
use gradlog::{Config, OnFailure, RecordError, Recorder, Tap, Tapped, Taps};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn labels(n: usize) -> Tensor {
    Tensor::from_vec((0..n as u32).map(|i| i % 3).collect::<Vec<_>>(), n, &Device::Cpu).unwrap()
}

fn pass<M: Module>(recorder: &mut Recorder, model: &M, ids: &[u64]) -> std::result::Result<(), RecordError> {
    let mut pass = recorder.pass(ids)?;
    let x = noise(ids[0], &[ids.len(), 4]);
    pass.cross_entropy(&model.forward(&x).unwrap(), &labels(ids.len()))?.backward().unwrap();
    pass.commit(0.1)
}

fn wait_until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < PATIENCE, "it did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn vanishing(dir: &Path, config: Config) -> (Recorder, Tapped<Linear>) {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let layer = taps.tap("fc", linear(4, 3, vb.pp("fc")).unwrap());
    let mut recorder =
        Recorder::create(dir, &taps, Config { flush_interval: Duration::from_millis(1), ..config }).unwrap();
    for step in 0..3 {
        pass(&mut recorder, &layer, &[step, 10 + step]).unwrap();
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
    pass(&mut recorder, &layer, &[1, 2]).unwrap();
    wait_until(|| recorder.failure().is_some());
    assert!(matches!(recorder.failure(), Some(RecordError::Log(_))));
    // Everything that a step can ask for, and none of it fails.
    pass(&mut recorder, &layer, &[1, 2, 3]).unwrap();
    let mut accumulated = recorder.pass(&[1, 2]).unwrap();
    accumulated.weights(&[1.0, 2.0]);
    accumulated.cross_entropy(&layer.forward(&noise(1, &[2, 4])).unwrap(), &labels(2)).unwrap();
    accumulated.accumulate().unwrap();
    pass(&mut recorder, &layer, &[4]).unwrap();
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
        let RecordError::Unrecorded { step, visits, cause } = &error else { panic!("{error}") };
        // Steps 3 to 6: passes of 2, 3, 2 + 1 and 1; one was never committed.
        assert_eq!((*step, *visits), (3, 9), "{error}");
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
        let config =
            Config { on_failure: OnFailure::GoOn, flush_interval: Duration::from_secs(3_600), ..Config::default() };
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let layer = taps.tap("fc", linear(4, 3, vb.pp("fc")).unwrap());
        let mut recorder = Recorder::create(&dir, &taps, config).unwrap();
        for step in 0..3 {
            pass(&mut recorder, &layer, &[step, 10 + step]).unwrap();
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
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let layer = taps.tap("fc", linear(4, 3, vb.pp("fc")).unwrap());
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    pass(&mut recorder, &layer, &[1, 2]).unwrap();
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
    let _ = pass(&mut recorder, &layer, &[1, 2]);
    wait_until(|| recorder.failure().is_some());
    assert!(matches!(pass(&mut recorder, &layer, &[1, 2]), Err(RecordError::Log(_))));
    assert!(matches!(recorder.finish(), Err(RecordError::Log(_))));
}

/// A layer whose gradients the background thread cannot make before a gate is opened: a disk that is stuck.
struct Gated {
    layer: Linear,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Tap for Gated {
    fn spec(&self) -> std::result::Result<LayerSpec, String> {
        let parameters = vec![Parameter::new("weight", self.layer.weight())];
        Ok(LayerSpec::new("gated", parameters))
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layer.forward(x)
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        let (gate, opened) = &*self.gate;
        let mut open = gate.lock().unwrap();
        while !*open {
            open = opened.wait(open).unwrap();
        }
        Ok(PerExample::Dense(delta.unsqueeze(2)?.matmul(&x.unsqueeze(1)?)?.flatten_from(1)?))
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }
}

#[test]
fn a_disk_that_is_stuck_is_waited_for_once_and_what_it_misses_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let taps = Taps::new();
    let weight = Var::from_tensor(&noise(5, &[3, 4])).unwrap().as_tensor().clone();
    let layer = taps.tap("fc", Gated { layer: Linear::new(weight, None), gate: gate.clone() });
    let wait_max = Duration::from_millis(200);
    let config = Config { on_failure: OnFailure::GoOn, queue_passes: 1, wait_max, ..Config::default() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    // One is with the thread and one in the queue, the third waits in vain, and the others do not wait.
    let start = Instant::now();
    for step in 0..40 {
        pass(&mut recorder, &layer, &[step, 100 + step]).unwrap();
    }
    // Nor does what else has to reach it.
    for set in 0..15 {
        let _ = recorder.probe(&set.to_string(), &[7]).unwrap();
        recorder.checkpoint_tensors([("w".to_string(), noise(1, &[2]))]).unwrap();
    }
    assert!(start.elapsed() < 10 * wait_max, "{:?}", start.elapsed());
    assert!(recorder.failure().is_none(), "it may still come round");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    // Now it takes passes again, sooner or later.
    let mut more = 0;
    wait_until(|| recorder.failure().is_none());
    while more < 50 {
        pass(&mut recorder, &layer, &[40 + more, 200 + more]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        more += 1;
    }
    let summary = recorder.finish().unwrap();
    assert_eq!(summary.visits + summary.dropped, 2 * (40 + more));
    assert!(summary.dropped >= 2 * 37 && summary.visits > 4, "{summary}");
    let run = Run::open(dir.path()).unwrap();
    let report = run.verify().unwrap();
    assert_eq!((report.visits, report.dropped, report.finished), (summary.visits, summary.dropped, true));
    let gaps: Vec<u64> =
        blocks(dir.path(), BlockKind::Gaps).iter().flat_map(|b| b.u64s(Column::Step).unwrap()).collect();
    assert_eq!(gaps[0], 2, "{gaps:?}");
}
