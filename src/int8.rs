//! Products of matrices of 8-bit integers, summed in 32 bits: how quantized gradients are multiplied as they are stored.
//!
//! The left side has rows of signed codes, the right side columns of signed codes, both with the summed dimension in
//! groups of four ("quads"), padded with zeros. The right side is packed once into [`Panels`] as unsigned numbers, code +
//! 128, because that is what the instructions take: `Σ (p + 128)·v = Σ p·v + 128·Σ v`, and the second sum is a number a
//! row ([`offset`]). The results are exact, so every instruction set gives the same bits.
//!
//! Which kernel runs is decided when the program runs: AVX-512 VNNI (64 products an instruction), AVX2 (products of four bits
//! by eight in 16 bits, widened before they can saturate), or plain Rust. All unsafe code of the analysis is in this file.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows of a tile.
pub(crate) const ROWS: usize = 8;
/// Columns that are multiplied by one AVX-512 instruction.
const LANES: usize = 16;
/// Columns of a tile: three vectors by eight rows are 24 sums, which leaves registers for what is multiplied.
pub(crate) const COLUMNS: usize = 3 * LANES;
/// The most numbers in a row: `255·128·WIDTH_MAX` fits 31 bits.
pub(crate) const WIDTH_MAX: usize = 1 << 16;
/// Codes of at most this magnitude are *narrow*: all of 4 bits and fewer.
pub(crate) const NARROW_MAX: i8 = 8;

/// The results of a tile: `[ROWS, COLUMNS]`.
pub(crate) type Tile<T> = [T; ROWS * COLUMNS];

/// How many quads hold `width` numbers.
pub(crate) fn quads(width: usize) -> usize {
    width.div_ceil(4)
}

/// What a row's products are too large by: `128·Σ codes`.
#[inline(always)]
pub(crate) fn offset(codes: &[i8]) -> i32 {
    // 16 bits hold 128 codes, and twice as many lanes as 32 do.
    let sum = |codes: &[i8]| i32::from(codes.iter().map(|&code| i16::from(code)).sum::<i16>());
    128 * codes.chunks(128).map(sum).sum::<i32>()
}

/// The quads of [`ROWS`] rows that are not zeros in all of them: borders of images and dead units are, and need no product.
#[derive(Default)]
pub(crate) struct UsedQuads {
    /// Ascending, each below `of`.
    quads: Vec<u32>,
    of: usize,
}

impl UsedQuads {
    /// All, whatever they hold: where they are multiplied once, finding the zeros takes longer than multiplying them.
    pub(crate) fn all(&mut self, rows: &[i8]) {
        self.of = rows.len() / ROWS / 4;
        self.quads.clear();
        self.quads.extend(0..self.of as u32);
    }

    /// Those of `rows`, `[ROWS, 4·quads]`. `scratch` is anything.
    #[inline(always)]
    pub(crate) fn find(&mut self, rows: &[i8], scratch: &mut Vec<i8>) {
        let row_bytes = rows.len() / ROWS;
        self.of = row_bytes / 4;
        scratch.clear();
        scratch.resize(row_bytes, 0);
        for row in rows.chunks_exact(row_bytes.max(1)) {
            scratch.iter_mut().zip(row).for_each(|(any, code)| *any |= code);
        }
        // Each is written, and stays if it is used: a branch here would be guessed wrong too often.
        self.quads.resize(self.of, 0);
        let mut count = 0;
        for (number, quad) in scratch.chunks_exact(4).enumerate() {
            self.quads[count] = number as u32;
            count += usize::from(quad != [0; 4]);
        }
        self.quads.truncate(count);
    }
}

/// The right side: up to [`COLUMNS`] columns to a panel, `[quad, column, 4]`.
pub(crate) struct Panels {
    columns: usize,
    quads: usize,
    bytes: Vec<u8>,
}

impl Panels {
    /// Columns of zeros.
    ///
    /// # Panics
    /// If `width` is above [`WIDTH_MAX`].
    pub(crate) fn new(width: usize, columns: usize) -> Self {
        assert!(width <= WIDTH_MAX, "a sum that 32 bits do not hold");
        let quads = quads(width);
        Self { columns, quads, bytes: vec![128; quads * 4 * columns.next_multiple_of(LANES)] }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// Sets one column.
    ///
    /// # Panics
    /// If there is no such column or it has no room for so many codes.
    pub(crate) fn set(&mut self, column: usize, codes: &[i8]) {
        assert!(column < self.columns && codes.len() <= 4 * self.quads, "a column of another size");
        let (panel, place) = (column / COLUMNS, column % COLUMNS);
        let lanes = self.vectors(panel) * LANES;
        let first = panel * COLUMNS * 4 * self.quads;
        for (quad, codes) in codes.chunks(4).enumerate() {
            let at = first + (quad * lanes + place) * 4;
            for (byte, &code) in self.bytes[at..at + 4].iter_mut().zip(codes) {
                *byte = (code as u8) ^ 0x80; // + 128, as an unsigned number
            }
        }
    }

    /// The codes of one column, which may have up to three zeros behind its last number.
    pub(crate) fn get(&self, column: usize) -> impl Iterator<Item = i8> + '_ {
        let (panel, place) = (column / COLUMNS, column % COLUMNS);
        let lanes = self.vectors(panel) * LANES;
        let first = panel * COLUMNS * 4 * self.quads;
        let quad = move |quad: usize| first + (quad * lanes + place) * 4;
        (0..self.quads).flat_map(move |n| self.bytes[quad(n)..quad(n) + 4].iter().map(|byte| (byte ^ 0x80) as i8))
    }

    fn vectors(&self, panel: usize) -> usize {
        (self.columns - panel * COLUMNS).min(COLUMNS).div_ceil(LANES)
    }

    /// The bytes of one panel, and how many vectors of columns it has.
    fn panel(&self, panel: usize) -> (&[u8], usize) {
        let (vectors, bytes) = (self.vectors(panel), 4 * self.quads);
        let first = panel * COLUMNS * bytes;
        (&self.bytes[first..first + vectors * LANES * bytes], vectors)
    }
}

/// Loops for [`Isa::run`]. To be compiled for an instruction set they have to be inlined: `run` and all that it calls
/// should be `#[inline(always)]`.
pub(crate) trait Work {
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

/// An instruction set that this machine has and that there is a kernel for. Nothing outside this file can make one up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Isa(Kernel);

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
    pub(crate) fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this machine has, the fastest first.
    pub(crate) fn available() -> Vec<Self> {
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
    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
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
    pub(crate) fn spread(self, bytes: &[u8], out: &mut [i8]) {
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
    pub(crate) fn multiply(
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<W: Work>(work: W) -> W::Output {
    work.run()
}

/// Spreads 32 bytes at a time; returns how many it did.
///
/// # Safety
/// `bytes` must be readable for `count` bytes and `out` writable for twice as many; the CPU must have the features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn spread_avx512(bytes: *const u8, count: usize, out: *mut i8) -> usize {
    let (low, sign) = (_mm512_set1_epi8(0x0F), _mm512_set1_epi8(8));
    let whole = count / 32 * 32;
    for at in (0..whole).step_by(32) {
        // SAFETY: `at + 32 <= count`.
        let words = unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes.add(at).cast())) };
        let nibbles = _mm512_and_si512(_mm512_or_si512(words, _mm512_slli_epi16::<4>(words)), low);
        let codes = _mm512_sub_epi8(_mm512_xor_si512(nibbles, sign), sign);
        // SAFETY: 64 bytes from `2·at` on end at `2·(at + 32)` at most.
        unsafe { _mm512_storeu_si512(out.add(2 * at).cast(), codes) };
    }
    whole
}

/// The same, 16 bytes at a time.
///
/// # Safety
/// As for [`spread_avx512`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn spread_avx2(bytes: *const u8, count: usize, out: *mut i8) -> usize {
    let (low, sign) = (_mm256_set1_epi8(0x0F), _mm256_set1_epi8(8));
    let whole = count / 16 * 16;
    for at in (0..whole).step_by(16) {
        // SAFETY: `at + 16 <= count`.
        let words = unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.add(at).cast())) };
        let nibbles = _mm256_and_si256(_mm256_or_si256(words, _mm256_slli_epi16::<4>(words)), low);
        let codes = _mm256_sub_epi8(_mm256_xor_si256(nibbles, sign), sign);
        // SAFETY: 32 bytes from `2·at` on end at `2·(at + 16)` at most.
        unsafe { _mm256_storeu_si256(out.add(2 * at).cast(), codes) };
    }
    whole
}

fn tile_portable(rows: &[i8], bytes: &[u8], quads: usize, vectors: usize, out: &mut Tile<i32>) {
    out.fill(0);
    let lanes = vectors * LANES;
    for (row, out) in rows.chunks_exact((4 * quads).max(1)).zip(out.chunks_exact_mut(COLUMNS)) {
        for (codes, columns) in row.chunks_exact(4).zip(bytes.chunks_exact(4 * lanes)) {
            for (sum, column) in out.iter_mut().zip(columns.chunks_exact(4)) {
                *sum += codes.iter().zip(column).map(|(&v, &p)| i32::from(v) * i32::from(p)).sum::<i32>();
            }
        }
    }
}

/// One instruction for 16 columns, a row and a quad; `V` vectors of columns.
///
/// # Safety
/// `rows` must be readable for `ROWS·4·used.of` bytes and `panel` for `used.of·V·64`; the CPU must have the features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile_avx512<const V: usize>(rows: *const i8, panel: *const u8, used: &UsedQuads, out: &mut Tile<i32>) {
    let quads = used.of;
    let mut sums = [[_mm512_setzero_si512(); V]; ROWS];
    for &quad in &used.quads {
        let quad = quad as usize;
        let mut columns = [_mm512_setzero_si512(); V];
        for (v, column) in columns.iter_mut().enumerate() {
            // SAFETY: `quad < quads`, as `UsedQuads` promises, and `v < V`, so these 64 bytes lie inside the panel.
            *column = unsafe { _mm512_loadu_si512(panel.add((quad * V + v) * 64).cast()) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `row < ROWS` and `quad < quads`, so these 4 bytes lie inside the rows.
            let codes = unsafe { rows.add((row * quads + quad) * 4).cast::<i32>().read_unaligned() };
            let codes = _mm512_set1_epi32(codes);
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = _mm512_dpbusd_epi32(*sum, column, codes);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(COLUMNS)) {
        for (sum, out) in sums.iter().zip(out.chunks_exact_mut(LANES)) {
            // SAFETY: `out` is a chunk of 16 numbers, 64 bytes.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), *sum) };
        }
    }
}

/// Two products of neighbours are added in 16 bits, and some such pairs, before they are widened. With narrow codes a pair
/// is at most `2·255·8`, and eight of them at most 32,640: they cannot saturate. Other codes are taken apart into `16·high +
/// low` with `low` in 0..=15, of which four pairs are at most 30,600, and both halves are multiplied.
///
/// # Safety
/// `rows` must be readable for `ROWS·4·quads` bytes and `panel` for `quads·vectors·64`; the CPU must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn tile_avx2(
    rows: *const i8,
    panel: *const u8,
    quads: usize,
    vectors: usize,
    narrow: bool,
    out: &mut Tile<i32>,
) {
    const HALF: usize = 4; // rows at a time: eight sums, which with the rest fit sixteen registers
    out.fill(0);
    let low = |codes: i32| codes & 0x0F0F_0F0F;
    let high = |codes: i32| {
        let nibbles = (codes >> 4) & 0x0F0F_0F0F;
        // Spreads the sign bit of each nibble over its byte; no byte carries into the next.
        nibbles | ((nibbles & 0x0808_0808) >> 3).wrapping_mul(0xF0)
    };
    for half in (0..ROWS).step_by(HALF) {
        for vector in 0..vectors {
            // SAFETY: the same promises; rows `half..half + HALF` are below `ROWS` and `vector` below `vectors`.
            let mut add = |chunk: usize, shift: i32, part: &dyn Fn(i32) -> i32| unsafe {
                let (row, first) = (rows.add(half * 4 * quads), panel.add(vector * 64));
                let out = &mut out[half * COLUMNS + vector * LANES..];
                let mut done = 0;
                while done < quads {
                    let end = quads.min(done + chunk);
                    let mut sums = [[_mm256_setzero_si256(); 2]; HALF];
                    for quad in done..end {
                        let at = first.add(quad * vectors * 64);
                        let columns = [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())];
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let codes = row.add((r * quads + quad) * 4).cast::<i32>().read_unaligned();
                            let codes = _mm256_set1_epi32(part(codes));
                            for (sum, column) in sums.iter_mut().zip(columns) {
                                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(column, codes));
                            }
                        }
                    }
                    for (r, sums) in sums.iter().enumerate() {
                        for (c, sum) in sums.iter().enumerate() {
                            let wide = _mm256_madd_epi16(*sum, _mm256_set1_epi16(1));
                            let wide = _mm256_sll_epi32(wide, _mm_cvtsi32_si128(shift));
                            let place = &mut out[r * COLUMNS + c * 8..r * COLUMNS + c * 8 + 8];
                            let before = _mm256_loadu_si256(place.as_ptr().cast());
                            _mm256_storeu_si256(place.as_mut_ptr().cast(), _mm256_add_epi32(before, wide));
                        }
                    }
                    done = end;
                }
            };
            if narrow {
                add(8, 0, &|codes| codes);
            } else {
                add(4, 0, &low);
                add(4, 4, &high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(count: usize, seed: u64, largest: i64) -> Vec<i8> {
        let draw = |i: usize| (crate::sketch::draw(seed, i as u64) >> 20) as i64;
        (0..count).map(|i| (draw(i) % (2 * largest + 1) - largest) as i8).collect()
    }

    /// Every instruction set that this machine has, against the definition.
    fn check(width: usize, columns: usize, left: &[i8], right: &[i8], narrow: bool) {
        let padded = 4 * quads(width);
        let mut rows = vec![0i8; ROWS * padded];
        for (row, codes) in rows.chunks_exact_mut(padded.max(1)).zip(left.chunks_exact(width.max(1))) {
            row[..width].copy_from_slice(codes);
        }
        let mut used = UsedQuads::default();
        used.find(&rows, &mut Vec::new());
        let mut panels = Panels::new(width, columns);
        for column in 0..columns {
            panels.set(column, &right[column * width..(column + 1) * width]);
            let back: Vec<i8> = panels.get(column).collect();
            assert_eq!(back[..width], right[column * width..(column + 1) * width]);
            assert!(back[width..].iter().all(|code| *code == 0));
        }
        for isa in Isa::available() {
            for panel in 0..panels.len() {
                let mut out = [7i32; ROWS * COLUMNS];
                isa.multiply((&rows, &used), &panels, panel, narrow, &mut out);
                for row in 0..ROWS {
                    let codes = &left[row * width..(row + 1) * width];
                    for (place, column) in (panel * COLUMNS..columns.min((panel + 1) * COLUMNS)).enumerate() {
                        let other = &right[column * width..(column + 1) * width];
                        let dot: i32 = codes.iter().zip(other).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                        let got = out[row * COLUMNS + place] - offset(codes);
                        assert_eq!(got, dot, "{isa:?}: {width} numbers, row {row}, column {column}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_definition() {
        for width in [0, 1, 3, 4, 5, 10, 31, 32, 33, 64, 100, 257, 784] {
            for columns in [1, 15, 16, 17, 40, 48, 49, 97] {
                for (largest, narrow) in [(8, true), (1, true), (127, false), (8, false)] {
                    let left = codes(ROWS * width, 1 + largest as u64, largest);
                    let right = codes(columns * width, 99, 127);
                    check(width, columns, &left, &right, narrow);
                }
            }
        }
    }

    /// Quads that all rows, some rows and no row have zeros in.
    #[test]
    fn quads_of_zeros_are_left_out_and_no_others() {
        let width = 50;
        let mut left = codes(ROWS * width, 5, 8);
        for (row, codes) in left.chunks_exact_mut(width).enumerate() {
            codes[..9].fill(0);
            codes[20..33].fill(0);
            // One number in one row is enough, wherever it stands in its quad.
            codes[20] = i8::from(row == 0);
            codes[27] = i8::from(row == ROWS - 1);
            codes[44..].fill(0);
        }
        let mut rows = vec![0i8; ROWS * 52];
        for (row, codes) in rows.chunks_exact_mut(52).zip(left.chunks_exact(width)) {
            row[..width].copy_from_slice(codes);
        }
        let mut used = UsedQuads::default();
        used.find(&rows, &mut vec![7; 100]);
        assert_eq!((used.of, used.quads.as_slice()), (13, &[2, 3, 4, 5, 6, 8, 9, 10][..]));
        check(width, 49, &left, &codes(49 * width, 99, 127), true);
    }

    #[test]
    fn every_instruction_set_spreads_the_codes_that_were_written() {
        for width in (0..150).chain([511, 512, 513, 784]) {
            let bytes: Vec<u8> =
                (0..usize::div_ceil(width, 2)).map(|i| crate::sketch::draw(3, i as u64) as u8).collect();
            let mut expected = vec![0i8; width];
            crate::sketch::Encoding::Q4.codes(&bytes, &mut expected);
            for isa in Isa::available() {
                let mut out = vec![7i8; width + 1];
                isa.spread(&bytes, &mut out[..width]);
                assert_eq!(out[..width], expected, "{isa:?}, {width} codes");
                assert_eq!(out[width], 7, "{isa:?}, {width} codes: behind the last");
            }
        }
    }

    /// Where sums in 16 or 32 bits would pass their ends if they could.
    #[test]
    fn the_largest_codes_do_not_saturate() {
        for (left, narrow) in [(8, true), (-8, true), (127, false), (-128, false)] {
            for right in [127, -128] {
                check(1000, 17, &vec![left; ROWS * 1000], &vec![right; 17 * 1000], narrow);
            }
        }
        check(WIDTH_MAX, 1, &vec![-128; ROWS * WIDTH_MAX], &vec![127; WIDTH_MAX], false);
        check(WIDTH_MAX, 1, &vec![-128; ROWS * WIDTH_MAX], &vec![-128; WIDTH_MAX], false);
    }
}
