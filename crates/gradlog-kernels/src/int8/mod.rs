//! Products of matrices of 8-bit integers, summed in 32 bits. Quantized gradients are multiplied with it as they are
//! stored.
//!
//! The left side has rows of signed codes, the right side has columns of signed codes. The summed dimension is in
//! groups of four ("quads"), padded with zeros. The right side is packed once into [`Panels`], as unsigned numbers
//! `code + 128`: the instructions multiply a signed by an unsigned number. The result is then too large by a number
//! that depends on the row alone ([`offset`]): `Σ (p + 128)·v = Σ p·v + 128·Σ v`. Results are exact, so every
//! instruction set gives the same bits.
//!
//! [`Isa::detect`] chooses the kernel when the program runs:
//!
//! - AMX: 8,192 products an instruction.
//! - AVX-512 VNNI: 64 products an instruction.
//! - AVX2: products of 4-bit by 8-bit codes are added in 16 bits and widened before they can saturate.
//! - Plain Rust everywhere else.

#[cfg(target_arch = "x86_64")]
mod amx;
mod column;
mod kernels;
mod panels;
#[cfg(test)]
mod tests;

pub use column::Column;
use kernels::*;
pub use panels::{offset, quads, Panels, UsedQuads};

/// Rows of a [`Tile`].
pub const ROWS: usize = 8;
/// Columns that are multiplied by one AVX-512 instruction.
const LANES: usize = 16;
/// Columns of a [`Tile`]. Three vectors by eight rows are 24 sums, which leaves registers for the factors.
pub const COLUMNS: usize = 3 * LANES;
/// Quads that AMX multiplies at a time.
const GROUP: usize = 16;
/// The most numbers in a row: `255·128·WIDTH_MAX` fits 31 bits.
pub const WIDTH_MAX: usize = 1 << 16;
/// Codes of at most this magnitude are *narrow*: all of 4 bits and fewer.
pub const NARROW_MAX: i8 = 8;

/// The results of one call of [`Isa::multiply`]: [`ROWS`] rows of [`COLUMNS`] numbers, row after row.
pub type Tile<T> = [T; ROWS * COLUMNS];

/// Loops for [`Isa::run`]. Closures implement it.
///
/// Loops must be inlined to be compiled for an instruction set. Mark `run` and all functions it calls
/// `#[inline(always)]`.
pub trait Work {
    /// What the loops return.
    type Output;

    /// Runs the loops.
    fn run(self) -> Self::Output;
}

impl<R, F: FnOnce() -> R> Work for F {
    type Output = R;

    #[inline(always)]
    fn run(self) -> R {
        self()
    }
}

/// An instruction set that this machine has and that a kernel exists for.
///
/// Only [`Isa::detect`] and [`Isa::available`] make one, so the kernels can rely on its features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kernel);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// AVX-512 with VNNI, and products in the tiles of AMX where `tiles` says so.
    #[cfg(target_arch = "x86_64")]
    Avx512 { tiles: bool },
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust.
    Portable,
}

impl Isa {
    /// The fastest instruction set of this machine.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All instruction sets of this machine that a kernel exists for, the fastest first.
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
                if amx::is_granted() {
                    all.push(Self(Kernel::Avx512 { tiles: true }));
                }
                all.push(Self(Kernel::Avx512 { tiles: false }));
            }
            if is_x86_feature_detected!("avx2") {
                all.push(Self(Kernel::Avx2));
            }
        }
        all.push(Self(Kernel::Portable));
        all
    }

    /// Runs `work`, with its loops compiled for this instruction set, and returns its result.
    ///
    /// Results do not depend on the instruction set: no multiplication is fused with an addition.
    /// A closure will do if it is short enough that the compiler inlines it anyway.
    #[inline]
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self.0 {
            // SAFETY: this value exists only where `available` found the features.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 { .. } => unsafe { run_avx512(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { run_avx2(work) },
            Kernel::Portable => work.run(),
        }
    }

    /// Unpacks signed 4-bit codes to one byte each. A byte holds two codes, the first in its low half.
    ///
    /// # Panics
    /// If `bytes` is not half as long as `out`, rounded up.
    #[inline(always)]
    pub fn spread(self, bytes: &[u8], out: &mut [i8]) {
        assert_eq!(bytes.len(), out.len().div_ceil(2), "codes of another number");
        let done = match self.0 {
            // SAFETY: this value exists only where `available` found the features. `out` has room for two codes of each
            // byte that is passed: `len / 2` leaves out a last byte that holds one code.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 { .. } => unsafe { spread_avx512(bytes.as_ptr(), out.len() / 2, out.as_mut_ptr()) },
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

    /// Writes the products of [`ROWS`] rows with the columns of panel number `panel` into `out`.
    ///
    /// Each product is too large by the [`offset`] of its row. Columns that the panel does not have are left undefined.
    ///
    /// `rows` is `[ROWS, 4·quads]`, and `used` was computed from it. Set `narrow` if every code in it is at most
    /// [`NARROW_MAX`] in magnitude: AVX2 is then faster.
    ///
    /// # Panics
    /// If `rows` or `used` has another number of quads than `panels`, or if there is no such panel.
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
            // SAFETY: this value exists only where `available` found the features. The assertions above say that `rows`
            // and `bytes` have the lengths that the kernels read. The quads in `used` are below `quads`, and its groups
            // are those of them.
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx512 { tiles }, vectors) => unsafe {
                let (rows, bytes) = (rows.as_ptr(), bytes.as_ptr());
                match (tiles, vectors) {
                    (true, 1) => amx::tile_amx::<1>(rows, bytes, used, out),
                    (true, 2) => amx::tile_amx::<2>(rows, bytes, used, out),
                    (true, 3) => amx::tile_amx::<3>(rows, bytes, used, out),
                    (false, 1) => tile_avx512::<1>(rows, bytes, used, out),
                    (false, 2) => tile_avx512::<2>(rows, bytes, used, out),
                    (false, 3) => tile_avx512::<3>(rows, bytes, used, out),
                    _ => unreachable!("a panel has one to three vectors"),
                }
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx2, _) => unsafe { tile_avx2(rows.as_ptr(), bytes.as_ptr(), quads, vectors, narrow, out) },
            (Kernel::Portable, _) => tile_portable(rows, bytes, quads, vectors, out),
        }
    }
}
