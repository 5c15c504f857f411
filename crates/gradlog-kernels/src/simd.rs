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
