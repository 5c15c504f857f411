use super::*;
use candle_core::Device;
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
