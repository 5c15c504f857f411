//! Products of matrices of 8-bit integers, summed in 32 bits: how quantized gradients are multiplied as they are stored.
//!
//! The left side has rows of signed codes, the right side columns of signed codes, both with the summed dimension in
//! groups of four ("quads"), padded with zeros. The right side is packed once into [`Panels`] as unsigned numbers, code +
//! 128, because that is what the instructions take: `Σ (p + 128)·v = Σ p·v + 128·Σ v`, and the second sum is a number a
//! row ([`offset`]). The results are exact, so every instruction set gives the same bits.
//!
//! Which kernel runs is decided when the program runs: AVX-512 VNNI (64 products an instruction), AVX2 (products of four bits
//! by eight in 16 bits, widened before they can saturate), or plain Rust. All unsafe code of the analysis is in this folder.

mod kernels;
mod panels;
#[cfg(test)]
mod tests;

use kernels::*;
pub use panels::{offset, quads, Panels, UsedQuads};

/// Rows of a tile.
pub const ROWS: usize = 8;
/// Columns that are multiplied by one AVX-512 instruction.
const LANES: usize = 16;
/// Columns of a tile: three vectors by eight rows are 24 sums, which leaves registers for what is multiplied.
pub const COLUMNS: usize = 3 * LANES;
/// The most numbers in a row: `255·128·WIDTH_MAX` fits 31 bits.
pub const WIDTH_MAX: usize = 1 << 16;
/// Codes of at most this magnitude are *narrow*: all of 4 bits and fewer.
pub const NARROW_MAX: i8 = 8;

/// The results of a tile: `[ROWS, COLUMNS]`.
pub type Tile<T> = [T; ROWS * COLUMNS];

/// Loops for [`Isa::run`]. To be compiled for an instruction set they have to be inlined: `run` and all that it calls
/// should be `#[inline(always)]`.
pub trait Work {
    type Output;
    fn run(self) -> Self::Output;
}

impl<R, F: FnOnce() -> R> Work for F {
    type Output = R;

    #[inline(always)]
    fn run(self) -> R {
        self()
    }
}

/// An instruction set that this machine has and that there is a kernel for. Nothing outside this file can make one up, so the kernels can rely on its features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kernel);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust.
    Portable,
}

impl Isa {
    /// The fastest that this machine has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this machine has, the fastest first.
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self(Kernel::Avx512));
            }
            if is_x86_feature_detected!("avx2") {
                all.push(Self(Kernel::Avx2));
            }
        }
        all.push(Self(Kernel::Portable));
        all
    }

    /// Does `work` with its loops compiled for this instruction set. The results are the same: no multiplication is fused
    /// with an addition. A closure is enough where it is so short that the compiler inlines it anyway.
    #[inline]
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self.0 {
            // SAFETY: this value exists only where `available` found the features.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => unsafe { run_avx512(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { run_avx2(work) },
            Kernel::Portable => work.run(),
        }
    }

    /// Writes 4-bit codes, two to a byte with the first in the low half, to a byte each.
    ///
    /// # Panics
    /// If `bytes` is not half as long as `out`, rounded up.
    #[inline(always)]
    pub fn spread(self, bytes: &[u8], out: &mut [i8]) {
        assert_eq!(bytes.len(), out.len().div_ceil(2), "codes of another number");
        let done = match self.0 {
            // SAFETY: this value exists only where `available` found the features; `out` has room for two codes of each byte
            // but the last, which `len / 2` leaves out where it has one.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => unsafe { spread_avx512(bytes.as_ptr(), out.len() / 2, out.as_mut_ptr()) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { spread_avx2(bytes.as_ptr(), out.len() / 2, out.as_mut_ptr()) },
            Kernel::Portable => 0,
        };
        for (pair, &raw) in out[2 * done..].chunks_mut(2).zip(&bytes[done..]) {
            // Shifting up and down again as a signed number spreads the sign bit of the nibble.
            pair[0] = ((raw << 4) as i8) >> 4;
            if let Some(second) = pair.get_mut(1) {
                *second = (raw as i8) >> 4;
            }
        }
    }

    /// Writes the products of [`ROWS`] rows with the columns of a panel into `out`, each too large by its row's
    /// [`offset`]. Places of columns that the panel does not have hold anything.
    ///
    /// `rows` is `[ROWS, 4·quads]`, and `used` is made of them. `narrow` says that every code in it is of at most [`NARROW_MAX`].
    ///
    /// # Panics
    /// If `rows` or `used` has another size.
    #[inline]
    pub fn multiply(
        self,
        (rows, used): (&[i8], &UsedQuads),
        panels: &Panels,
        panel: usize,
        narrow: bool,
        out: &mut Tile<i32>,
    ) {
        let quads = panels.quads;
        assert_eq!(used.of, quads, "the quads of other rows");
        assert_eq!(rows.len(), ROWS * 4 * quads, "rows of another width than the panel's columns");
        let (bytes, vectors) = panels.panel(panel);
        assert_eq!(bytes.len(), quads * vectors * LANES * 4);
        debug_assert!(!narrow || rows.iter().all(|code| (-NARROW_MAX..=NARROW_MAX).contains(code)));
        match (self.0, vectors) {
            // SAFETY: this value exists only where `available` found the features; the assertions above say that `rows` and
            // `bytes` have the lengths that the kernels read, and that the quads in `used` are below `quads`.
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx512, 1) => unsafe { tile_avx512::<1>(rows.as_ptr(), bytes.as_ptr(), used, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx512, 2) => unsafe { tile_avx512::<2>(rows.as_ptr(), bytes.as_ptr(), used, out) },
            // SAFETY: as above; a panel has at most three vectors.
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx512, _) => unsafe { tile_avx512::<3>(rows.as_ptr(), bytes.as_ptr(), used, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx2, _) => unsafe { tile_avx2(rows.as_ptr(), bytes.as_ptr(), quads, vectors, narrow, out) },
            (Kernel::Portable, _) => tile_portable(rows, bytes, quads, vectors, out),
        }
    }
}
