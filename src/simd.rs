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
