//! The loops with vector instructions of x86-64, each for whole goes of [`LANES`] bytes.
//!
//! Where `GATHERS` is true, they read tables by gather instructions, otherwise number by number. Both give the same.

use super::frequencies::Code;
use super::{Stack, States, FULL_BITS, LANES, LEAST, TOTAL, TOTAL_BITS};
use std::arch::x86_64::*;

/// The body for each vector of AVX-512, one behind the other: the compiler leaves a loop of so many instructions as it
/// is, and then the states go through memory.
macro_rules! unrolled {
    ($v:ident => $body:block) => {
        unrolled!($v => $body, 0 1 2 3 4 5 6 7)
    };
    ($v:ident => $body:block, $($number:literal)*) => {
        $({
            let $v = $number;
            $body
        })*
    };
}

/// Encodes `bytes`, whole goes, from the last to the first. Returns whether every byte has a frequency.
///
/// # Safety
/// The CPU must have the features. `stack` must have room for a word for each byte, and [`LANES`] more.
#[target_feature(enable = "avx512f,popcnt")]
pub(super) unsafe fn encode_avx512<const GATHERS: bool>(
    table: &[Code; 256],
    bytes: &[u8],
    states: &mut States,
    stack: &mut Stack,
) -> bool {
    let low_half = _mm512_set1_epi32(0xFFFF);
    let whole = _mm512_set1_epi32(1 << TOTAL_BITS);
    let mut least = whole;
    let mut x: [__m512i; LANES / 16] = load(states);
    let words = stack.words.as_mut_ptr();
    let mut length = stack.length;
    for group in bytes.rchunks_exact(LANES) {
        let (sixteens, _) = group.as_chunks::<16>();
        for (v, x) in x.iter_mut().enumerate() {
            let (range, reciprocal) = codes_avx512::<GATHERS>(table, &sixteens[v]);
            let f = _mm512_and_si512(range, low_half);
            least = _mm512_min_epu32(least, f);
            let full = _mm512_cmpge_epu32_mask(*x, _mm512_slli_epi32::<FULL_BITS>(f));
            let pushed = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, *x));
            // SAFETY: at most one word is pushed for each byte, and there is room for a vector behind the last.
            unsafe { _mm256_storeu_si256(words.add(length).cast(), pushed) };
            length += full.count_ones() as usize;
            let small = _mm512_mask_srli_epi32::<16>(*x, full, *x);
            let estimate = _mm512_mul_ps(_mm512_cvtepi32_ps(small), _mm512_castsi512_ps(reciprocal));
            let quotient = _mm512_cvttps_epi32(estimate);
            let rest = _mm512_sub_epi32(small, _mm512_mullo_epi32(quotient, f));
            let begin = _mm512_srli_epi32::<16>(range);
            let next = _mm512_add_epi32(_mm512_slli_epi32::<TOTAL_BITS>(quotient), _mm512_add_epi32(rest, begin));
            // The estimate is right or too small by one: then the rest is too large by f.
            let short = _mm512_cmpge_epu32_mask(rest, f);
            *x = _mm512_mask_add_epi32(next, short, next, _mm512_sub_epi32(whole, f));
        }
    }
    stack.length = length;
    store(x, states);
    _mm512_reduce_min_epu32(least) > 0
}

/// Decodes whole goes from the begin of `out`, as long as the words surely suffice. Returns how many bytes it decoded.
///
/// # Safety
/// The CPU must have the features.
#[target_feature(enable = "avx512f,popcnt")]
pub(super) unsafe fn decode_avx512<const GATHERS: bool>(
    table: &[u32; TOTAL as usize],
    words: &[[u8; 2]],
    left: &mut usize,
    states: &mut States,
    out: &mut [u8],
) -> usize {
    let slots = _mm512_set1_epi32(TOTAL as i32 - 1);
    let frequencies = _mm512_set1_epi32(0xFFF);
    let least = _mm512_set1_epi32(LEAST as i32);
    let mut done = 0;
    // The first words are taken one by one, so that no vector reads past the last.
    while *left + 16 > words.len() && done + LANES <= out.len() {
        if super::portable::decode(table, words, left, states, &mut out[done..done + LANES]).is_none() {
            return done;
        }
        done += LANES;
    }
    let mut x: [__m512i; LANES / 16] = load(states);
    let mut top = *left;
    while top >= LANES && done + LANES <= out.len() {
        let mut needs = [0u16; LANES / 16];
        unrolled!(v => {
            let entry = entries_avx512::<GATHERS>(table, _mm512_and_si512(x[v], slots));
            // SAFETY: 16 bytes at `done + 16·v`, where `done + LANES <= out.len()`.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().add(done + 16 * v).cast(), _mm512_cvtepi32_epi8(entry)) };
            let f = _mm512_and_si512(_mm512_srli_epi32::<8>(entry), frequencies);
            let product = _mm512_mullo_epi32(f, _mm512_srli_epi32::<TOTAL_BITS>(x[v]));
            x[v] = _mm512_add_epi32(product, _mm512_srli_epi32::<20>(entry));
            needs[v] = _mm512_cmplt_epu32_mask(x[v], least);
        });
        for v in (0..LANES / 16).rev() {
            top -= needs[v].count_ones() as usize;
            // SAFETY: at least `LANES` words were left before this go, and it takes at most as many, so `top` is not
            // below 0. 16 words from `top` on are there: at least 16 were taken before the first go.
            let popped = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(words.as_ptr().add(top).cast())) };
            let spread = _mm512_maskz_expand_epi32(needs[v], popped);
            x[v] = _mm512_mask_or_epi32(x[v], needs[v], _mm512_slli_epi32::<16>(x[v]), spread);
        }
        done += LANES;
    }
    *left = top;
    store(x, states);
    done
}

/// The codes of sixteen bytes: frequencies and begins, and reciprocals as bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn codes_avx512<const GATHERS: bool>(table: &[Code; 256], bytes: &[u8; 16]) -> (__m512i, __m512i) {
    let [low, high] = if GATHERS {
        // A gather takes as long as it has numbers, so it takes whole codes.
        // SAFETY: these are 16 bytes, and each numbers one of 256 codes of 8 bytes.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            let (low, high) = (_mm512_castsi512_si256(bytes), _mm512_extracti64x4_epi64::<1>(bytes));
            let table = table.as_ptr().cast();
            [_mm512_i32gather_epi64::<8>(low, table), _mm512_i32gather_epi64::<8>(high, table)]
        }
    } else {
        let at = |place: usize| table[usize::from(bytes[place])].0 as i64;
        [
            _mm512_setr_epi64(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)),
            _mm512_setr_epi64(at(8), at(9), at(10), at(11), at(12), at(13), at(14), at(15)),
        ]
    };
    let evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odds = _mm512_or_si512(evens, _mm512_set1_epi32(1));
    (_mm512_permutex2var_epi32(low, evens, high), _mm512_permutex2var_epi32(low, odds, high))
}

/// Sixteen entries of the table, whose numbers are below [`TOTAL`].
#[inline]
#[target_feature(enable = "avx512f")]
fn entries_avx512<const GATHERS: bool>(table: &[u32; TOTAL as usize], numbers: __m512i) -> __m512i {
    if GATHERS {
        // SAFETY: the masked numbers are below `TOTAL`.
        return unsafe { _mm512_i32gather_epi32::<4>(numbers, table.as_ptr().cast()) };
    }
    let mut pairs = [0u64; 8];
    // SAFETY: these are 64 bytes.
    unsafe { _mm512_storeu_si512(pairs.as_mut_ptr().cast(), numbers) };
    let low = |pair: usize| table[(pairs[pair] % u64::from(TOTAL)) as usize] as i32;
    let high = |pair: usize| table[(pairs[pair] >> 32) as usize % TOTAL as usize] as i32;
    _mm512_setr_epi32(
        low(0),
        high(0),
        low(1),
        high(1),
        low(2),
        high(2),
        low(3),
        high(3),
        low(4),
        high(4),
        low(5),
        high(5),
        low(6),
        high(6),
        low(7),
        high(7),
    )
}

#[target_feature(enable = "avx512f")]
fn load(states: &States) -> [__m512i; LANES / 16] {
    // SAFETY: a vector has 16 of the states.
    std::array::from_fn(|v| unsafe { _mm512_loadu_si512(states.as_ptr().add(16 * v).cast()) })
}

#[target_feature(enable = "avx512f")]
fn store(vectors: [__m512i; LANES / 16], states: &mut States) {
    for (v, vector) in vectors.into_iter().enumerate() {
        // SAFETY: as in `load`.
        unsafe { _mm512_storeu_si512(states.as_mut_ptr().add(16 * v).cast(), vector) };
    }
}

/// For each set of lanes of an AVX2 vector: which popped word each lane takes.
static SPREAD: [[u32; 8]; 256] = {
    let mut spread = [[0u32; 8]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut word) = (0, 0);
        while lane < 8 {
            spread[set][lane] = word;
            word += (set >> lane & 1) as u32;
            lane += 1;
        }
        set += 1;
    }
    spread
};

/// For each set of lanes of an AVX2 vector: its lanes in order, and then any.
static GATHER: [[u32; 8]; 256] = {
    let mut gather = [[0u32; 8]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut word) = (0, 0);
        while lane < 8 {
            if set >> lane & 1 == 1 {
                gather[set][word] = lane;
                word += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    gather
};

/// As [`encode_avx512`].
///
/// # Safety
/// The CPU must have AVX2 and POPCNT. The stack as there.
#[target_feature(enable = "avx2,popcnt")]
pub(super) unsafe fn encode_avx2<const GATHERS: bool>(
    table: &[Code; 256],
    bytes: &[u8],
    states: &mut States,
    stack: &mut Stack,
) -> bool {
    let low_half = _mm256_set1_epi32(0xFFFF);
    let whole = _mm256_set1_epi32(1 << TOTAL_BITS);
    let one = _mm256_set1_epi32(1);
    let mut least = whole;
    // SAFETY: a vector has 8 of the states.
    let mut x: [__m256i; LANES / 8] =
        std::array::from_fn(|v| unsafe { _mm256_loadu_si256(states.as_ptr().add(8 * v).cast()) });
    let words = stack.words.as_mut_ptr();
    let mut length = stack.length;
    for group in bytes.rchunks_exact(LANES) {
        let (eights, _) = group.as_chunks::<8>();
        for (v, x) in x.iter_mut().enumerate() {
            let (range, reciprocal) = codes_avx2::<GATHERS>(table, &eights[v]);
            let f = _mm256_and_si256(range, low_half);
            least = _mm256_min_epu32(least, f);
            // States are below 2^31, so signed comparisons will do.
            let limit = _mm256_sub_epi32(_mm256_slli_epi32::<{ FULL_BITS as i32 }>(f), one);
            let full = _mm256_cmpgt_epi32(*x, limit);
            let set = _mm256_movemask_ps(_mm256_castsi256_ps(full)) as usize & 0xFF;
            // SAFETY: a set of eight lanes is below 256.
            let lanes = unsafe { _mm256_loadu_si256(GATHER.as_ptr().add(set).cast()) };
            let pushed = _mm256_and_si256(_mm256_permutevar8x32_epi32(*x, lanes), low_half);
            let pushed = _mm_packus_epi32(_mm256_castsi256_si128(pushed), _mm256_extracti128_si256::<1>(pushed));
            // SAFETY: at most one word is pushed for each byte, and there is room for a vector behind the last.
            unsafe { _mm_storeu_si128(words.add(length).cast(), pushed) };
            length += set.count_ones() as usize;
            let small = _mm256_blendv_epi8(*x, _mm256_srli_epi32::<16>(*x), full);
            let estimate = _mm256_mul_ps(_mm256_cvtepi32_ps(small), reciprocal);
            let quotient = _mm256_cvttps_epi32(estimate);
            let rest = _mm256_sub_epi32(small, _mm256_mullo_epi32(quotient, f));
            let begin = _mm256_srli_epi32::<16>(range);
            let scaled = _mm256_slli_epi32::<{ TOTAL_BITS as i32 }>(quotient);
            let next = _mm256_add_epi32(scaled, _mm256_add_epi32(rest, begin));
            // The estimate is right or too small by one: then the rest is too large by f.
            let exact = _mm256_cmpgt_epi32(f, rest);
            *x = _mm256_add_epi32(next, _mm256_andnot_si256(exact, _mm256_sub_epi32(whole, f)));
        }
    }
    stack.length = length;
    for (v, vector) in x.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(states.as_mut_ptr().add(8 * v).cast(), vector) };
    }
    let is_zero = _mm256_cmpeq_epi32(least, _mm256_setzero_si256());
    _mm256_testz_si256(is_zero, is_zero) == 1
}

/// As [`decode_avx512`].
///
/// # Safety
/// The CPU must have AVX2 and POPCNT.
#[target_feature(enable = "avx2,popcnt")]
pub(super) unsafe fn decode_avx2<const GATHERS: bool>(
    table: &[u32; TOTAL as usize],
    words: &[[u8; 2]],
    left: &mut usize,
    states: &mut States,
    out: &mut [u8],
) -> usize {
    let slots = _mm256_set1_epi32(TOTAL as i32 - 1);
    let frequencies = _mm256_set1_epi32(0xFFF);
    let least = _mm256_set1_epi32(LEAST as i32);
    // The lowest byte of each 32-bit lane, to the lowest four bytes of its half.
    let low_bytes = _mm256_setr_epi8(
        0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1,
    );
    let mut done = 0;
    while *left + 8 > words.len() && done + LANES <= out.len() {
        if super::portable::decode(table, words, left, states, &mut out[done..done + LANES]).is_none() {
            return done;
        }
        done += LANES;
    }
    // SAFETY: a vector has 8 of the states.
    let mut x: [__m256i; LANES / 8] =
        std::array::from_fn(|v| unsafe { _mm256_loadu_si256(states.as_ptr().add(8 * v).cast()) });
    let mut top = *left;
    while top >= LANES && done + LANES <= out.len() {
        let mut needs = [0usize; LANES / 8];
        for v in 0..LANES / 8 {
            let entry = entries_avx2::<GATHERS>(table, _mm256_and_si256(x[v], slots));
            let packed = _mm256_shuffle_epi8(entry, low_bytes);
            let pair = _mm_unpacklo_epi32(_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
            // SAFETY: 8 bytes at `done + 8·v`, where `done + LANES <= out.len()`.
            unsafe { _mm_storel_epi64(out.as_mut_ptr().add(done + 8 * v).cast(), pair) };
            let f = _mm256_and_si256(_mm256_srli_epi32::<8>(entry), frequencies);
            let product = _mm256_mullo_epi32(f, _mm256_srli_epi32::<{ TOTAL_BITS as i32 }>(x[v]));
            x[v] = _mm256_add_epi32(product, _mm256_srli_epi32::<20>(entry));
            // States are below 2^31, so a signed comparison will do.
            let need = _mm256_cmpgt_epi32(least, x[v]);
            needs[v] = _mm256_movemask_ps(_mm256_castsi256_ps(need)) as usize & 0xFF;
        }
        for v in (0..LANES / 8).rev() {
            top -= needs[v].count_ones() as usize;
            // SAFETY: as for AVX-512, with 8 words.
            let popped = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(words.as_ptr().add(top).cast())) };
            // SAFETY: a set of eight lanes is below 256.
            let spread = unsafe { _mm256_loadu_si256(SPREAD.as_ptr().add(needs[v]).cast()) };
            let taken = _mm256_permutevar8x32_epi32(popped, spread);
            let need = _mm256_cmpgt_epi32(least, x[v]);
            let full = _mm256_or_si256(_mm256_slli_epi32::<16>(x[v]), taken);
            x[v] = _mm256_blendv_epi8(x[v], full, need);
        }
        done += LANES;
    }
    *left = top;
    for (v, vector) in x.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(states.as_mut_ptr().add(8 * v).cast(), vector) };
    }
    done
}

/// As [`codes_avx512`], of eight bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn codes_avx2<const GATHERS: bool>(table: &[Code; 256], bytes: &[u8; 8]) -> (__m256i, __m256) {
    // Codes 0, 1, 4, 5 and 2, 3, 6, 7: the shuffles below take two of each for each half.
    let [first, second] = if GATHERS {
        // SAFETY: these are 8 bytes, and each numbers one of 256 codes of 8 bytes.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()));
            let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            let table = table.as_ptr().cast();
            [
                _mm256_i32gather_epi64::<8>(table, _mm_unpacklo_epi64(low, high)),
                _mm256_i32gather_epi64::<8>(table, _mm_unpackhi_epi64(low, high)),
            ]
        }
    } else {
        let at = |place: usize| table[usize::from(bytes[place])].0 as i64;
        [_mm256_setr_epi64x(at(0), at(1), at(4), at(5)), _mm256_setr_epi64x(at(2), at(3), at(6), at(7))]
    };
    let (first, second) = (_mm256_castsi256_ps(first), _mm256_castsi256_ps(second));
    let range = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(first, second));
    (range, _mm256_shuffle_ps::<0b11_01_11_01>(first, second))
}

/// As [`entries_avx512`], of eight entries.
#[inline]
#[target_feature(enable = "avx2")]
fn entries_avx2<const GATHERS: bool>(table: &[u32; TOTAL as usize], numbers: __m256i) -> __m256i {
    if GATHERS {
        // SAFETY: the masked numbers are below `TOTAL`.
        return unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), numbers) };
    }
    let mut pairs = [0u64; 4];
    // SAFETY: these are 32 bytes.
    unsafe { _mm256_storeu_si256(pairs.as_mut_ptr().cast(), numbers) };
    let low = |pair: usize| table[(pairs[pair] % u64::from(TOTAL)) as usize] as i32;
    let high = |pair: usize| table[(pairs[pair] >> 32) as usize % TOTAL as usize] as i32;
    _mm256_setr_epi32(low(0), high(0), low(1), high(1), low(2), high(2), low(3), high(3))
}
