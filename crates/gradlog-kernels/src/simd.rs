//! Compiling hot loops for the machine they run on.

use num_traits::Float;

/// Calls `loops` and returns its result. The loops in it are compiled for the widest vectors of this machine.
///
/// On x86-64 these are AVX2 or AVX-512. They are detected once. The crate itself may be compiled for any older machine.
///
/// Only code that is inlined into the closure becomes faster. Results do not depend on the machine: the compiler
/// neither reorders sums nor fuses a product with an addition.
///
/// ```
/// let mut values = vec![1.0f32; 1000];
/// gradlog_kernels::simd::vectorized(|| values.iter_mut().for_each(|v| *v *= 2.0));
/// assert_eq!(values, vec![2.0; 1000]);
/// ```
#[inline(always)]
pub fn vectorized<R>(loops: impl FnOnce() -> R) -> R {
    struct Loops<F>(F);

    impl<R, F: FnOnce() -> R> pulp::WithSimd for Loops<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _simd: S) -> R {
            (self.0)()
        }
    }

    pulp::Arch::new().dispatch(Loops(loops))
}

/// Asks the processor to bring `values` into its nearest cache while it does other work.
///
/// Processors fetch ahead by themselves, but not beyond a page of memory, so a row of a few KiB begins with waiting.
/// This changes no result. It does nothing on processors other than x86-64, for which stable Rust has no such
/// instruction.
#[inline]
pub fn prefetch(values: &[f32]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in values.chunks(LINE) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: every processor of this architecture has the instruction, and it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = values;
}

/// Numbers in a cache line of 64 bytes.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 16;

/// The sum of 16 partial sums, added pair by pair: one after the other, each addition waits for the one before.
#[inline(always)]
pub fn sum_of_lanes<T: Copy + std::ops::Add<Output = T>>(lanes: [T; 16]) -> T {
    let by_8: [T; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let by_4: [T; 4] = std::array::from_fn(|i| by_8[i] + by_8[i + 4]);
    (by_4[0] + by_4[2]) + (by_4[1] + by_4[3])
}

/// `Σ_i term([a_i, b_i, ..])` in `f32` over the numbers of slices, as far as the shortest goes; 0 for an empty one.
///
/// It has 16 partial sums: inside of [`vectorized`] it compiles to vector instructions, which one running sum does not.
#[inline(always)]
pub fn sum_over<const N: usize>(slices: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let length = slices.iter().map(|slice| slice.len()).min().unwrap_or(0);
    let slices = slices.map(|slice| slice[..length].as_chunks::<16>());
    let mut lanes = [0f32; 16];
    for chunk in 0..length / 16 {
        let numbers = slices.map(|(chunks, _)| &chunks[chunk]);
        for (place, lane) in lanes.iter_mut().enumerate() {
            *lane += term(numbers.map(|numbers| numbers[place]));
        }
    }
    for (place, lane) in lanes.iter_mut().enumerate().take(length % 16) {
        *lane += term(slices.map(|(_, rest)| rest[place]));
    }
    sum_of_lanes(lanes)
}

/// The largest number, negative infinity for an empty slice. NaN is passed over. It vectorizes as [`sum_over`].
#[inline(always)]
pub fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a < b { b } else { a };
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane = larger(*lane, *value));
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, value| larger(largest, *value))
}

/// `Σ v²` in `f32`, 0 for an empty slice.
///
/// It has 32 partial sums: it vectorizes, and rounds less than one running sum.
pub fn squared_norm(values: &[f32]) -> f32 {
    sum_of_squares(values)
}

/// `Σ v²` in `f64`, for numbers whose squares may be too small or too large for an `f32`.
pub fn squared_norm_f64(values: &[f32]) -> f64 {
    sum_of_squares(values)
}

fn sum_of_squares<T: Float + From<f32>>(values: &[f32]) -> T {
    #[inline(always)]
    fn square<T: Float + From<f32>>(value: &f32) -> T {
        let value = <T as From<f32>>::from(*value);
        value * value
    }

    vectorized(
        #[inline(always)]
        || {
            let mut lanes = [T::zero(); 32];
            let chunks = values.chunks_exact(32);
            let rest = chunks.remainder().iter().map(square).fold(T::zero(), T::add);
            for chunk in chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane = *lane + square(value);
                }
            }
            lanes.into_iter().fold(T::zero(), T::add) + rest
        },
    )
}

/// A weight of a squared norm: an f32, or the upper half of one (bf16).
pub trait Weight: Copy + Send + Sync {
    /// The number that it stands for.
    fn to_f32(self) -> f32;
}

impl Weight for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Weight for u16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
}

/// `Σ w v²` in `f32`. Numbers without a weight do not count. It has the partial sums of [`squared_norm`].
pub fn weighted_squared_norm<W: Weight>(values: &[f32], weights: &[W]) -> f32 {
    weighted_sum_of_squares(values, weights)
}

/// `Σ w v²` in `f64`, for numbers whose squares may be too small or too large for an `f32`.
pub fn weighted_squared_norm_f64<W: Weight>(values: &[f32], weights: &[W]) -> f64 {
    weighted_sum_of_squares(values, weights)
}

fn weighted_sum_of_squares<T: Float + From<f32>, W: Weight>(values: &[f32], weights: &[W]) -> T {
    #[inline(always)]
    fn square<T: Float + From<f32>, W: Weight>((value, weight): (&f32, &W)) -> T {
        let value = <T as From<f32>>::from(*value);
        <T as From<f32>>::from(weight.to_f32()) * value * value
    }

    let count = values.len().min(weights.len());
    let (values, weights) = (&values[..count], &weights[..count]);
    vectorized(
        #[inline(always)]
        || {
            let mut lanes = [T::zero(); 32];
            let (values, weights) = (values.chunks_exact(32), weights.chunks_exact(32));
            let rest = values.remainder().iter().zip(weights.remainder());
            let rest = rest.map(square).fold(T::zero(), T::add);
            for (values, weights) in values.zip(weights) {
                for (lane, pair) in lanes.iter_mut().zip(values.iter().zip(weights)) {
                    *lane = *lane + square(pair);
                }
            }
            lanes.into_iter().fold(T::zero(), T::add) + rest
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_lanes_has_each_of_them_once() {
        let powers: [u32; 16] = std::array::from_fn(|lane| 1 << lane);
        assert_eq!(sum_of_lanes(powers), 0xFFFF);
    }

    #[test]
    fn sums_and_the_largest_number_of_any_length() {
        for count in 0..70usize {
            let a: Vec<f32> = (0..count).map(|i| ((i * 7 + 3) % 23) as f32 - 11.0).collect();
            let b: Vec<f32> = (0..count + 3).map(|i| (i % 5) as f32).collect();
            // Small whole numbers: every order of summing is exact.
            assert_eq!(sum_over([&a], |[a]| a), a.iter().sum::<f32>());
            assert_eq!(sum_over([&a, &b], |[a, b]| a * b), a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>());
            assert_eq!(largest(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn weighted_norms_equal_their_sum() {
        for count in [0, 1, 31, 32, 33, 200] {
            let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
            let weights: Vec<f32> = (0..count).map(|i| 0.25 * (i % 9) as f32).collect();
            // Multiples of a quarter lose nothing in the upper half of an f32.
            let halves: Vec<u16> = weights.iter().map(|weight| (weight.to_bits() >> 16) as u16).collect();
            let right: f64 = values.iter().zip(&weights).map(|(v, w)| f64::from(*w) * f64::from(*v).powi(2)).sum();
            let close =
                |made: f64, tolerance: f64| assert!((made - right).abs() <= tolerance * right, "{made} {right}");
            close(f64::from(weighted_squared_norm(&values, &weights)), 1e-6);
            close(f64::from(weighted_squared_norm(&values, &halves)), 1e-6);
            close(weighted_squared_norm_f64(&values, &halves), 1e-12);
        }
        assert_eq!(weighted_squared_norm(&[1.0, 2.0], &[3.0f32]), 3.0);
        assert!((weighted_squared_norm_f64(&[1e-25], &[1e8f32]) / 1e-42 - 1.0).abs() < 1e-6);
    }
}
