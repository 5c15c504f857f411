//! The loops over bytes, one for each instruction set. [`super::Isa`] checks their arguments.

use super::{Tile, UsedQuads, Work, COLUMNS, LANES, ROWS};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run_avx512<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn run_avx2<W: Work>(work: W) -> W::Output {
    work.run()
}

/// Unpacks 4-bit codes, 32 bytes at a time. Returns the number of bytes that it unpacked.
///
/// # Safety
/// `bytes` must be readable for `count` bytes and `out` writable for twice as many; the CPU must have the features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn spread_avx512(bytes: *const u8, count: usize, out: *mut i8) -> usize {
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

/// Unpacks 4-bit codes, 16 bytes at a time. Returns the number of bytes that it unpacked.
///
/// # Safety
/// As for [`spread_avx512`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn spread_avx2(bytes: *const u8, count: usize, out: *mut i8) -> usize {
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

/// The 64 bytes of `row` from `at` on, with zeros behind its end.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_bytes(row: &[u8], at: usize) -> __m512i {
    let there = row.len().saturating_sub(at).min(64);
    let mask = u64::MAX.checked_shr(64 - there as u32).unwrap_or(0);
    // SAFETY: the mask leaves out what is behind the end, and those bytes are not touched.
    unsafe { _mm512_maskz_loadu_epi8(mask, row.as_ptr().add(at.min(row.len())).cast()) }
}

/// `Σ (code + 8)·column` of 4-bit codes, two to a byte.
///
/// # Safety
/// `even` and `odd` must be readable for as many bytes as `row` has, rounded up to a multiple of 64; the CPU must have
/// the features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn dot4_avx512(row: &[u8], even: *const i8, odd: *const i8) -> i32 {
    let (low, middle) = (_mm512_set1_epi8(0x0F), _mm512_set1_epi8(8));
    let (mut of_even, mut of_odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for at in (0..row.len()).step_by(64) {
        let bytes = load_bytes(row, at);
        // SAFETY: `at` is a multiple of 64 below the length of the row.
        let columns = unsafe { [even, odd].map(|codes| _mm512_loadu_si512(codes.add(at).cast())) };
        let first = _mm512_xor_si512(_mm512_and_si512(bytes, low), middle);
        let second = _mm512_xor_si512(_mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low), middle);
        of_even = _mm512_dpbusd_epi32(of_even, first, columns[0]);
        of_odd = _mm512_dpbusd_epi32(of_odd, second, columns[1]);
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(of_even, of_odd))
}

/// `Σ (code + 128)·column` of 8-bit codes.
///
/// # Safety
/// As for [`dot4_avx512`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn dot8_avx512(row: &[u8], column: *const i8) -> i32 {
    let middle = _mm512_set1_epi8(i8::MIN);
    let mut sum = _mm512_setzero_si512();
    for at in (0..row.len()).step_by(64) {
        // SAFETY: as in `dot4_avx512`.
        let codes = unsafe { _mm512_loadu_si512(column.add(at).cast()) };
        sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(load_bytes(row, at), middle), codes);
    }
    _mm512_reduce_add_epi32(sum)
}

pub(super) fn tile_portable(rows: &[i8], bytes: &[u8], quads: usize, vectors: usize, out: &mut Tile<i32>) {
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
pub(super) unsafe fn tile_avx512<const V: usize>(
    rows: *const i8,
    panel: *const u8,
    used: &UsedQuads,
    out: &mut Tile<i32>,
) {
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

/// Pairs of products are added in 16 bits, and some pairs are summed before they are widened to 32 bits.
/// - Narrow codes: a pair is at most `2·255·8`, and eight pairs are at most 32,640. So they cannot saturate.
/// - Other codes are split into `16·high + low`, with `low` in 0..=15, and both halves are multiplied. Four pairs of
///   `low` are at most 30,600.
///
/// # Safety
/// `rows` must be readable for `ROWS·4·quads` bytes and `panel` for `quads·vectors·64`; the CPU must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn tile_avx2(
    rows: *const i8,
    panel: *const u8,
    quads: usize,
    vectors: usize,
    narrow: bool,
    out: &mut Tile<i32>,
) {
    const HALF: usize = 4; // rows at a time: their eight sums and the factors fit sixteen registers
    out.fill(0);
    let low = |codes: i32| codes & 0x0F0F_0F0F;
    let high = |codes: i32| {
        let nibbles = (codes >> 4) & 0x0F0F_0F0F;
        // Spreads the sign bit of each nibble over its byte. No byte carries into the next.
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
