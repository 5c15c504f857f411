use super::*;
use crate::recorder::{Config, Recorder, RecordingSummary, Sketching};
use crate::taps::Taps;
use candle_core::{DType, Module};
use candle_nn::{linear, VarBuilder, VarMap};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A device whose copies end when they are waited for, or when the test says so.
#[derive(Default)]
struct Fake {
    allocated: Arc<AtomicUsize>,
    freed: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
}

struct Buffer(Vec<f32>, Arc<AtomicUsize>);

impl Drop for Buffer {
    fn drop(&mut self) {
        self.1.fetch_add(self.0.len(), Ordering::Relaxed);
    }
}

impl Copier for Fake {
    type Buffer = Buffer;
    type Ticket = ();

    fn allocate(&self, length: usize) -> Result<Buffer> {
        if self.fails.load(Ordering::Relaxed) {
            candle_core::bail!("no pinned memory");
        }
        self.allocated.fetch_add(length, Ordering::Relaxed);
        Ok(Buffer(vec![0.0; length], self.freed.clone()))
    }

    fn start(&self, numbers: &Tensor, buffer: &mut Buffer) -> Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            candle_core::bail!("no copy was started");
        }
        let numbers: Vec<f32> = numbers.to_vec1()?;
        buffer.0[..numbers.len()].copy_from_slice(&numbers);
        Ok(())
    }

    fn has_ended(&self, (): &()) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    fn wait(&self, (): &()) -> Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            candle_core::bail!("the device is gone");
        }
        Ok(())
    }

    fn numbers<'a>(&self, buffer: &'a Buffer, length: usize) -> Result<&'a [f32]> {
        Ok(&buffer.0[..length])
    }
}

fn numbers(first: f32, count: usize) -> Tensor {
    Tensor::from_vec((0..count).map(|i| first + i as f32).collect::<Vec<f32>>(), count, &Device::Cpu).unwrap()
}

fn read(copy: Copy<Fake>) -> Vec<f32> {
    copy.read(|numbers| Ok(numbers.to_vec())).unwrap()
}

fn ring() -> (Arc<Ring<Fake>>, Fake) {
    let fake = Fake::default();
    let Fake { allocated, freed, ends, fails } = &fake;
    let own = Fake { allocated: allocated.clone(), freed: freed.clone(), ends: ends.clone(), fails: fails.clone() };
    (Arc::new(Ring::new(own)), fake)
}

#[test]
fn each_copy_has_its_own_numbers_and_buffers_are_used_again() {
    let (ring, fake) = ring();
    assert!(ring.start(&numbers(0.0, 5)).is_none(), "the training thread makes no buffer");
    ring.grow(5);
    ring.grow(5);
    for round in 0..10 {
        let first = 100.0 * round as f32;
        let (a, b) = (ring.start(&numbers(first, 5)).unwrap(), ring.start(&numbers(first + 50.0, 3)).unwrap());
        assert!(ring.start(&numbers(0.0, 5)).is_none(), "all buffers are taken");
        // They may be read in any order.
        let (b, a) = (read(b), read(a));
        assert_eq!((a[0], a.len(), b[0], b.len()), (first, 5, first + 50.0, 3));
    }
    assert_eq!(fake.allocated.load(Ordering::Relaxed), 2 * GRAIN);
}

#[test]
fn buffers_are_bounded_in_number_and_length() {
    let (ring, fake) = ring();
    (0..10).for_each(|_| ring.grow(5));
    assert_eq!(fake.allocated.load(Ordering::Relaxed), BUFFERS * GRAIN);
    // A longer tensor gets a longer buffer, in the place of a short one.
    assert!(ring.start(&numbers(0.0, GRAIN + 1)).is_none());
    ring.grow(GRAIN + 1);
    assert_eq!(read(ring.start(&numbers(7.0, GRAIN + 1)).unwrap())[GRAIN], 7.0 + GRAIN as f32);
    assert_eq!(fake.freed.load(Ordering::Relaxed), GRAIN);
    ring.grow(NUMBERS + 1);
    ring.grow(NUMBERS - GRAIN);
    let held = fake.allocated.load(Ordering::Relaxed) - fake.freed.load(Ordering::Relaxed);
    assert_eq!(held, (BUFFERS + 1) * GRAIN, "nothing longer than the bound");
    // A short copy takes the shortest buffer that fits.
    let short = ring.start(&numbers(0.0, 2)).unwrap();
    assert!(ring.start(&numbers(0.0, GRAIN + 1)).is_some());
    drop(short);
}

#[test]
fn a_dropped_copy_keeps_its_buffer_until_it_has_ended() {
    let (ring, fake) = ring();
    ring.grow(5);
    drop(ring.start(&numbers(0.0, 5)).unwrap());
    assert!(ring.start(&numbers(0.0, 5)).is_none(), "the device may still write");
    fake.ends.store(true, Ordering::Relaxed);
    assert_eq!(read(ring.start(&numbers(3.0, 5)).unwrap())[0], 3.0);
    assert_eq!(fake.freed.load(Ordering::Relaxed), 0);
    drop(ring);
    assert_eq!(fake.freed.load(Ordering::Relaxed), GRAIN);
}

#[test]
fn after_a_failure_no_copy_is_started_and_numbers_still_come() {
    let (ring, fake) = ring();
    ring.grow(5);
    ring.grow(5);
    let under_way = ring.start(&numbers(1.0, 5)).unwrap();
    assert_eq!(ring.failure(), None);
    fake.fails.store(true, Ordering::Relaxed);
    // By the plain copy.
    assert_eq!(read(under_way), [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(ring.failure().unwrap(), "the device is gone");
    fake.fails.store(false, Ordering::Relaxed);
    assert!(ring.start(&numbers(0.0, 5)).is_none());
    let allocated = fake.allocated.load(Ordering::Relaxed);
    ring.grow(100 * GRAIN);
    assert_eq!(fake.allocated.load(Ordering::Relaxed), allocated);
}

#[test]
fn a_buffer_that_cannot_be_made_or_used_ends_the_copies() {
    for at_start in [false, true] {
        let (ring, fake) = ring();
        if at_start {
            ring.grow(5);
        }
        fake.fails.store(true, Ordering::Relaxed);
        ring.grow(GRAIN + 5);
        assert!(ring.start(&numbers(0.0, 5)).is_none());
        assert_eq!(ring.failure().unwrap(), "no pinned memory");
    }
    let (ring, fake) = ring();
    ring.grow(5);
    fake.fails.store(true, Ordering::Relaxed);
    assert!(ring.start(&numbers(0.0, 5)).is_none());
    assert_eq!(ring.failure().unwrap(), "no copy was started");
}

/// Copies from main memory to main memory.
#[cfg(not(feature = "cuda"))]
pub(in crate::recorder) struct HostCopier;

#[cfg(not(feature = "cuda"))]
impl HostCopier {
    pub(super) fn new(_: &Device) -> Option<Result<Self>> {
        Some(Ok(Self))
    }
}

#[cfg(not(feature = "cuda"))]
impl Copier for HostCopier {
    type Buffer = Vec<f32>;
    type Ticket = ();

    fn allocate(&self, length: usize) -> Result<Vec<f32>> {
        Ok(vec![f32::NAN; length])
    }

    fn start(&self, numbers: &Tensor, buffer: &mut Vec<f32>) -> Result<()> {
        let numbers: Vec<f32> = numbers.to_vec1()?;
        buffer[..numbers.len()].copy_from_slice(&numbers);
        Ok(())
    }

    fn has_ended(&self, (): &()) -> bool {
        true
    }

    fn wait(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn numbers<'a>(&self, buffer: &'a Vec<f32>, length: usize) -> Result<&'a [f32]> {
        Ok(&buffer[..length])
    }
}

const PASSES: u64 = 6;

/// Squared norms of all visits of a run, whose last pass is smaller than the others.
#[cfg(not(feature = "cuda"))]
fn record(sketching: Sketching) -> (RecordingSummary, Vec<f32>) {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let layer = linear(8, 4, VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu)).unwrap();
    let some = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<f32>>();
    for variable in variables.all_vars() {
        variable.set(&Tensor::from_vec(some(variable.elem_count()), variable.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    let layer = taps.tap("layer", layer);
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &taps, Config { sketching, ..Config::default() }).unwrap();
    for step in 0..PASSES {
        let batch = if step + 1 == PASSES { 2 } else { 3 };
        let x = Tensor::from_vec(some(batch * 24), (batch, 3, 8), &Device::Cpu).unwrap();
        let x = (x + step as f64).unwrap();
        let ids: Vec<u64> = (0..batch as u64).map(|i| 10 * step + i).collect();
        let mut pass = recorder.pass(&ids).unwrap();
        let losses = layer.forward(&x).unwrap().sqr().unwrap().flatten_from(1).unwrap().sum(1).unwrap();
        pass.losses(&losses).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        // So that the pass before has given its buffer back.
        recorder.flush().unwrap();
    }
    let summary = recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let visits = run.scan().filter(|block| block.kind() == Some(BlockKind::Visits));
    let norms = visits.flat_map(|block| block.f32s(Column::SquaredNorm).unwrap()).collect();
    (summary, norms)
}

#[test]
#[cfg(not(feature = "cuda"))]
fn passes_that_are_copied_ahead_have_the_numbers_of_any_other() {
    let (ahead, made) = record(Sketching::OnDevice);
    let (without, right) = record(Sketching::InMainMemory);
    // For the first pass there was no buffer.
    assert_eq!((ahead.copied_ahead, without.copied_ahead), (PASSES - 1, 0));
    assert_eq!((ahead.copy_failure, without.copy_failure), (None, None));
    assert!(ahead.device_bytes > 0 && made.len() == 17 && right.len() == 17);
    for (made, right) in made.iter().zip(&right) {
        assert!((made / right - 1.0).abs() < 1e-4, "{made} {right}");
    }
}
