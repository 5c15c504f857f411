//! What two processes can gain on this machine at most: work that shares nothing, beside itself.

use gradlog_kernels::simd::vectorized;
use std::hint::black_box;
use std::time::Instant;

/// Bytes that each copies over and over: more than the caches of a core hold.
const BYTES: usize = 64 << 20;
const COPIES: usize = 24;
const PRODUCTS: usize = 400_000;
const REPEATS: usize = 5;

/// How efficient two threads are beside one, each with the same work: 1 is twice as much in the same time.
///
/// The first number is that of arithmetic in registers, the second that of copying memory. Each is the median of five,
/// one and two threads in turn.
pub fn efficiency() -> [f64; 2] {
    [ratio(multiply), ratio(copy)]
}

fn ratio(work: impl Fn() + Sync) -> f64 {
    let mut ratios: Vec<f64> = (0..REPEATS).map(|_| threads(1, &work) / threads(2, &work)).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[REPEATS / 2]
}

/// The seconds of so many threads, each of which does the whole work.
fn threads(count: usize, work: &(impl Fn() + Sync)) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| (0..count).for_each(|_| drop(scope.spawn(work))));
    start.elapsed().as_secs_f64()
}

/// Sums that the compiler holds in vector registers.
fn multiply() {
    let mut sums = [1.0f32; 128];
    for _ in 0..PRODUCTS {
        let factor = black_box(0.999f32);
        vectorized(
            #[inline(always)]
            || sums.iter_mut().for_each(|sum| *sum = *sum * factor + factor),
        );
    }
    black_box(sums);
}

fn copy() {
    let (from, mut to) = (vec![1u8; BYTES], vec![2u8; BYTES]);
    for _ in 0..COPIES {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
}
