//! A disk that does not answer: the training waits for the stated time and goes on.

use super::super::config::{OnFailure, Overflow};
use super::*;
use candle_core::{Device, Tensor, Var};
use gradlog_format::log::{MmapStorage, Storage};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// The call that does not return.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    Write,
    Sync,
}

/// Opening the gate lets the call return.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    reached: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        self.reached.store(true, Ordering::Release);
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
    }

    /// Waits until a call hangs.
    fn wait_for_call(&self) {
        let over = Instant::now() + Duration::from_secs(60);
        while !self.reached.load(Ordering::Acquire) {
            assert!(Instant::now() < over, "nothing is written");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

struct Stuck {
    real: MmapStorage,
    call: Call,
    gate: Arc<Gate>,
}

impl Stuck {
    fn wait(&self, call: Call) {
        if call == self.call {
            self.gate.pass();
        }
    }
}

impl Storage for Stuck {
    fn open(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        self.real.open(path, bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.wait(Call::Write);
        self.real.write(offset, bytes)
    }

    fn commit(&mut self, offset: u64, header: &[u8]) -> io::Result<()> {
        self.real.commit(offset, header)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.wait(Call::Sync);
        self.real.sync()
    }

    fn close(&mut self, used: u64) -> io::Result<()> {
        self.real.close(used)
    }
}

const WAIT_MS: u64 = 80;

/// One step over two examples, outputs only.
fn step(recorder: &mut Recorder, id: u64) -> Result<(), RecordError> {
    let logits = Var::from_tensor(&Tensor::new(&[[0.5f32, -0.5], [0.1, 0.2]], &Device::Cpu)?)?;
    let labels = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    let mut pass = recorder.pass(&[id, id + 1])?;
    let loss = pass.cross_entropy(logits.as_tensor(), &labels)?;
    loss.backward()?;
    pass.commit(0.1).map(drop)
}

/// Checks that `f` times out after the stated wait and not much later. A step waits for room in the queue; the last
/// pass of a step of several passes waits once more.
#[track_caller]
fn assert_times_out<T>(what: &str, f: impl FnOnce() -> Result<T, RecordError>) {
    let start = Instant::now();
    let result = f().map(|_| ());
    let waited = start.elapsed();
    assert!(
        matches!(result, Err(RecordError::Timeout(wait)) if wait == Duration::from_millis(WAIT_MS)),
        "{what}: {result:?}"
    );
    assert!(waited >= Duration::from_millis(WAIT_MS), "{what} gave up after {waited:?}");
    // On a busy machine a thread may wake up late. Without a bound it would not wake up at all.
    assert!(waited < Duration::from_millis(WAIT_MS) + Duration::from_secs(10), "{what} waited for {waited:?}");
}

#[test]
fn a_disk_that_does_not_answer_costs_the_stated_wait_and_no_more() {
    for call in [Call::Write, Call::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let gate = Arc::new(Gate::default());
        let taps = Taps::new();
        let wait_max = Duration::from_millis(WAIT_MS);
        let config = Config { wait_max, queue_passes: 3, flush_interval: Duration::ZERO, ..Config::default() };
        let (manifest, held) = prepare_taps(&taps, &config).unwrap();
        let storage = Box::new(Stuck { real: MmapStorage::default(), call, gate: gate.clone() });
        let writer = LogWriter::create_on(storage, dir.path(), &manifest, config.writer_options()).unwrap();
        let mut recorder = start_recorder(dir.path(), &taps, held, config, manifest, writer, Past::default()).unwrap();
        let mut taken = 0;
        if call == Call::Sync {
            step(&mut recorder, 0).unwrap();
            taken += 2;
            assert_times_out("flush", || recorder.flush());
        }
        // The thread takes one message and hangs. Then the queue fills.
        let mut refused = 0;
        for id in 0..20 {
            match step(&mut recorder, 100 + 2 * id) {
                Ok(()) => taken += 2,
                Err(_) if refused == 0 => {
                    assert_times_out("commit", || step(&mut recorder, 900));
                    refused += 1;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refused == 1 && taken <= 2 * 6, "{taken} visits were taken although the disk does not answer");
        assert_times_out("flush", || recorder.flush());
        assert_times_out("finish", || recorder.finish());
        // The taps are free for another recorder, though the thread still hangs.
        assert!(Recorder::create(dir.path().join("other"), &taps, Config::default()).is_ok());
        gate.open();
        let over = Instant::now() + Duration::from_secs(60);
        let run = Run::open(dir.path()).unwrap();
        while run.is_being_written() {
            assert!(Instant::now() < over, "the thread does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        let report = run.verify().unwrap();
        assert_eq!((report.visits, report.damage), (taken, None), "everything taken is in the log");
    }
}

/// A recorder on a disk whose call never returns, until the gate is opened.
fn stuck_recorder(dir: &Path, call: Call, config: Config) -> (Recorder, Arc<Gate>) {
    let (taps, gate) = (Taps::new(), Arc::new(Gate::default()));
    let (manifest, held) = prepare_taps(&taps, &config).unwrap();
    let storage = Box::new(Stuck { real: MmapStorage::default(), call, gate: gate.clone() });
    let writer = LogWriter::create_on(storage, dir, &manifest, config.writer_options()).unwrap();
    let recorder = start_recorder(dir, &taps, held, config, manifest, writer, Past::default()).unwrap();
    (recorder, gate)
}

/// A probe of two examples.
fn probe(recorder: &mut Recorder) -> Result<(), RecordError> {
    let logits = Var::from_tensor(&Tensor::new(&[[0.5f32, -0.5], [0.1, 0.2]], &Device::Cpu)?)?;
    let mut pass = recorder.probe("test", &[7, 8])?;
    pass.cross_entropy(logits.as_tensor(), &Tensor::new(&[0u32, 1], &Device::Cpu)?)?.backward()?;
    pass.commit()
}

/// All waits of a dropped recorder together take the stated time once.
#[test]
fn a_dropped_recorder_waits_once() {
    let dir = tempfile::tempdir().unwrap();
    let wait_max = Duration::from_secs(2);
    let config = Config { wait_max, queue_passes: 1, flush_interval: Duration::ZERO, ..Config::default() };
    let (mut recorder, gate) =
        stuck_recorder(dir.path(), Call::Write, Config { overflow: Overflow::DropNewest, ..config });
    // The thread hangs, the queue is full, and a gap waits to be sent.
    step(&mut recorder, 0).unwrap();
    gate.wait_for_call();
    (1..5).for_each(|id| step(&mut recorder, 2 * id).unwrap());
    let start = Instant::now();
    drop(recorder);
    let waited = start.elapsed();
    gate.open();
    assert!(waited >= wait_max && waited < wait_max.mul_f64(1.8), "{waited:?}");
}

/// The end of a training that went on beside a stuck disk says which visits and probes are missing.
#[test]
fn a_stuck_disk_is_said_in_full_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        on_failure: OnFailure::GoOn,
        wait_max: Duration::from_millis(WAIT_MS),
        queue_passes: 1,
        flush_interval: Duration::ZERO,
        ..Config::default()
    };
    let (mut recorder, gate) = stuck_recorder(dir.path(), Call::Write, config);
    step(&mut recorder, 0).unwrap();
    gate.wait_for_call();
    (1..6).for_each(|id| step(&mut recorder, 2 * id).unwrap());
    for _ in 0..3 {
        probe(&mut recorder).unwrap();
    }
    for error in [recorder.flush().unwrap_err(), recorder.finish().unwrap_err()] {
        let RecordError::Unrecorded { step, visits, probes, cause } = &error else { panic!("{error}") };
        assert!(matches!(**cause, RecordError::Timeout(_)), "{error}");
        assert_eq!((*step, *visits, *probes), (0, 12, 6), "{error}");
    }
    gate.open();
}
