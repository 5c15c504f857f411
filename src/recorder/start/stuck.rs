//! A disk that does not answer: the training waits for the stated time and goes on.

use super::*;
use candle_core::{Device, Tensor, Var};
use gradlog_format::log::{MmapStorage, Storage};
use std::io;
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
}

impl Gate {
    fn pass(&self) {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
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
    pass.commit(0.1)
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
