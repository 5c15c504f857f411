//! Compiling hot loops for the machine they run on.

/// Calls `loops`, compiled for the widest vectors that this machine has (on x86-64 AVX2 or AVX-512, detected once), where the
/// crate itself is compiled for the least of its kind.
///
/// What is to gain from it must be inlined into the closure. Results do not depend on the machine: the compiler neither
/// reorders sums nor fuses products into them.
#[inline(always)]
pub(crate) fn vectorized<R>(loops: impl FnOnce() -> R) -> R {
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
pub(crate) fn squared_norm(values: &[f32]) -> f32 {
    vectorized(
        #[inline(always)]
        || {
            let mut lanes = [0f32; 32];
            let chunks = values.chunks_exact(32);
            let rest: f32 = chunks.remainder().iter().map(|v| v * v).sum();
            for chunk in chunks {
                for (lane, v) in lanes.iter_mut().zip(chunk) {
                    *lane += v * v;
                }
            }
            lanes.iter().sum::<f32>() + rest
        },
    )
}
