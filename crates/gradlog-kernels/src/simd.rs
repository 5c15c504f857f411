//! Compiling hot loops for the machine they run on.

use num_traits::Float;

/// Calls `loops`, compiled for the widest vectors that this machine has (on x86-64 AVX2 or AVX-512, detected once), where the
/// crate itself is compiled for the least of its kind.
///
/// What is to gain from it must be inlined into the closure. Results do not depend on the machine: the compiler neither
/// reorders sums nor fuses products into them.
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

/// `Σ v²` with 32 partial sums, so that it vectorizes and rounds less than one running sum.
pub fn squared_norm(values: &[f32]) -> f32 {
    sum_of_squares(values)
}

/// The same in `f64`, for numbers that may be so small that no `f32` holds their squares.
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
