//! Quantizers: the encodings of a sketch's numbers.

mod stochastic;
#[cfg(test)]
mod tests;

pub use stochastic::Rounding;

use gradlog_kernels::simd::vectorized;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// How the numbers of one vector are stored.
///
/// All but [`Encoding::F32`] have one scale per vector. It is rounded up to bf16 before numbers are divided by it.
/// So storing it in two bytes costs no accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// 32-bit IEEE floats, as they are.
    F32,
    /// 16-bit IEEE floats of `x / scale`, `scale = max|x|`: no overflow and no underflow however small the gradient.
    F16,
    /// 8-bit integers of `x / scale` in -127..=127, `scale = max|x| / 127`. Rounded to the nearest, or up or down at
    /// random so that the mean is `x`.
    Q8,
    /// 4-bit integers of `x / scale` in -7..=7, `scale = max|x| / 7`, two to a byte. Rounded as [`Encoding::Q8`].
    Q4,
    /// One bit for each number, its sign, and `scale = Σx² / Σ|x|`. So `⟨x̂, x⟩ = ‖x‖²`.
    ///
    /// If the numbers are evenly large, as in a rotated [`Projection`](super::Projection), the dot product with
    /// another vector is unbiased. RaBitQ (Gao and Long 2024) does the same for vector search. The error is
    /// that of a projection to 2/π as many numbers.
    Signs,
}

/// The result of [`Encoding::encode`] and [`Encoding::encode_stochastic`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Quantized {
    /// The factor of the stored numbers.
    pub scale: bf16,
    /// Whether every number of the vector was finite. If not, the vector is stored as zeros.
    pub finite: bool,
    /// What rounding at random left open; [`Rounding::NONE`] for other roundings.
    pub rounding: Rounding,
}

impl Encoding {
    /// Bytes of a stored vector of `width` numbers, without its scale.
    pub fn bytes(self, width: usize) -> usize {
        match self {
            Encoding::F32 => 4 * width,
            Encoding::F16 => 2 * width,
            Encoding::Q8 => width,
            Encoding::Q4 => width.div_ceil(2),
            Encoding::Signs => width.div_ceil(8),
        }
    }

    /// Appends `values` to `out`, each rounded to the nearest, and returns the scale. A vector with a NaN or an
    /// infinity is stored as zeros.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Quantized {
        let start = out.len();
        out.resize(start + self.bytes(values.len()), 0);
        let out = &mut out[start..];
        vectorized(
            #[inline(always)]
            || self.encode_into(values, out),
        )
    }

    /// Writes into `out`, which is zero and of the right length.
    #[inline(always)]
    fn encode_into(self, values: &[f32], out: &mut [u8]) -> Quantized {
        let (largest, finite) = largest_magnitude(values);
        let scale = match self {
            _ if !finite => bf16::ZERO,
            Encoding::F32 => bf16::ONE,
            Encoding::F16 => scale_up(largest),
            Encoding::Q8 => scale_up(largest / 127.0),
            Encoding::Q4 => scale_up(largest / 7.0),
            Encoding::Signs => scale_of_signs(values),
        };
        let step = scale.to_f32();
        if step == 0.0 {
            return Quantized { scale: bf16::ZERO, finite, rounding: Rounding::NONE };
        }
        match self {
            Encoding::F32 => {
                for (raw, v) in out.chunks_exact_mut(4).zip(values) {
                    raw.copy_from_slice(&v.to_le_bytes());
                }
            }
            Encoding::F16 => {
                for (raw, v) in out.chunks_exact_mut(2).zip(values) {
                    raw.copy_from_slice(&f16::from_f32(v / step).to_le_bytes());
                }
            }
            Encoding::Q8 => {
                for (raw, v) in out.iter_mut().zip(values) {
                    *raw = code(*v, step, 127.0);
                }
            }
            Encoding::Q4 => {
                // By stretches that stay in the first cache: first the codes, then two to a byte. They are long, so
                // that little of them is left over by the widest vectors.
                let mut codes = [0u8; 2 * ENCODED];
                for (out, values) in out.chunks_mut(ENCODED).zip(values.chunks(2 * ENCODED)) {
                    for (code_, v) in codes.iter_mut().zip(values) {
                        *code_ = code(*v, step, 7.0);
                    }
                    if let Some(after) = codes.get_mut(values.len()) {
                        *after = 0;
                    }
                    for (raw, pair) in out.iter_mut().zip(codes.chunks_exact(2)) {
                        // As one word of 16 bits, so that the loop becomes shifts of vectors.
                        let word = u16::from_le_bytes([pair[0], pair[1]]);
                        *raw = ((word & 0x0F) | (word >> 4 & 0xF0)) as u8;
                    }
                }
            }
            Encoding::Signs => {
                // By stretches as above: first a byte for each sign, then eight to a byte.
                let mut signs = [0u8; 8 * ENCODED];
                for (out, values) in out.chunks_mut(ENCODED).zip(values.chunks(8 * ENCODED)) {
                    for (sign, v) in signs.iter_mut().zip(values) {
                        *sign = (v.to_bits() >> 31) as u8;
                    }
                    // Of the byte that is not full.
                    signs[values.len()..].iter_mut().take(7).for_each(|sign| *sign = 0);
                    let (eights, _) = signs.as_chunks::<8>();
                    for (raw, eight) in out.iter_mut().zip(eights) {
                        // The product moves bit 8·i to 56 + i, and no other sum of bits comes there.
                        *raw = (u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
                    }
                }
            }
        }
        Quantized { scale, finite, rounding: Rounding::NONE }
    }

    /// The largest magnitude of an integer code of this encoding in a file. `None` if it stores floats.
    pub fn code_max(self) -> Option<i16> {
        match self {
            Encoding::F32 | Encoding::F16 => None,
            Encoding::Q8 => Some(128),
            Encoding::Q4 => Some(8),
            Encoding::Signs => Some(1),
        }
    }

    /// Writes the integer codes of a vector of `out.len()` numbers into `out`: each number is its code times the scale.
    ///
    /// # Panics
    /// If `bytes` has another length, or the encoding stores floats ([`Encoding::code_max`]).
    #[inline(always)]
    pub fn codes(self, bytes: &[u8], out: &mut [i8]) {
        assert_eq!(bytes.len(), self.bytes(out.len()), "a vector of another length");
        match self {
            Encoding::F32 | Encoding::F16 => assert!(out.is_empty(), "floats have no codes"),
            Encoding::Q8 => {
                for (code, &raw) in out.iter_mut().zip(bytes) {
                    *code = raw as i8;
                }
            }
            Encoding::Q4 => {
                let mut blocks = out.chunks_exact_mut(2 * STRETCH);
                for (block, raw) in (&mut blocks).zip(bytes.chunks_exact(STRETCH)) {
                    spread_nibbles(raw, block);
                }
                let rest = blocks.into_remainder();
                spread_nibbles(&bytes[bytes.len() - rest.len().div_ceil(2)..], rest);
            }
            Encoding::Signs => {
                for (eight, &raw) in out.chunks_mut(8).zip(bytes) {
                    for (i, code) in eight.iter_mut().enumerate() {
                        *code = 1 - 2 * (raw >> i & 1) as i8;
                    }
                }
            }
        }
    }

    /// Writes the `out.len()` numbers that `bytes` and `scale` stand for into `out`.
    ///
    /// # Panics
    /// If `bytes` is not [`Encoding::bytes`] of `out.len()` long: the reader checks lengths before it comes here.
    pub fn decode(self, bytes: &[u8], scale: bf16, out: &mut [f32]) {
        assert_eq!(bytes.len(), self.bytes(out.len()), "a vector of another length");
        vectorized(
            #[inline(always)]
            || self.decode_into(bytes, scale.to_f32(), out),
        );
    }

    #[inline(always)]
    fn decode_into(self, bytes: &[u8], step: f32, out: &mut [f32]) {
        match self {
            Encoding::F32 => {
                for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = step * f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
                }
            }
            Encoding::F16 => {
                for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = step * f16::from_le_bytes([raw[0], raw[1]]).to_f32();
                }
            }
            Encoding::Q8 => {
                for (value, &raw) in out.iter_mut().zip(bytes) {
                    *value = step * f32::from(raw as i8);
                }
            }
            Encoding::Q4 => {
                for (pair, &raw) in out.chunks_mut(2).zip(bytes) {
                    // Shifting up and down again as a signed number spreads the sign bit of the nibble.
                    pair[0] = step * f32::from(((raw << 4) as i8) >> 4);
                    if let Some(second) = pair.get_mut(1) {
                        *second = step * f32::from((raw as i8) >> 4);
                    }
                }
            }
            Encoding::Signs => {
                for (eight, &raw) in out.chunks_mut(8).zip(bytes) {
                    for (i, value) in eight.iter_mut().enumerate() {
                        *value = f32::from_bits(step.to_bits() ^ (u32::from(raw >> i & 1) << 31));
                    }
                }
            }
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Encoding::F32 => "f32",
            Encoding::F16 => "f16",
            Encoding::Q8 => "8 bit",
            Encoding::Q4 => "4 bit",
            Encoding::Signs => "1 bit",
        })
    }
}

/// Bytes of one stored vector with its scale.
pub fn row_bytes(encoding: Encoding, width: usize) -> usize {
    encoding.bytes(width) + 2
}

/// Bytes of 4-bit codes, and of signs, that are made at a time.
const ENCODED: usize = 512;

/// Bytes of 4-bit codes that are taken apart at a time: a fixed number, for the compiler to make vectors of.
const STRETCH: usize = 64;

/// The 4-bit codes of at most [`STRETCH`] bytes, spread to a byte each with their signs. The last may have one code.
#[inline(always)]
fn spread_nibbles(bytes: &[u8], out: &mut [i8]) {
    let mut words = [0u16; STRETCH];
    for (word, &raw) in words.iter_mut().zip(bytes) {
        let both = u16::from(raw);
        let nibbles = (both | (both << 4)) & 0x0F0F;
        // A set sign bit, times 0x1E, fills the four bits above it.
        *word = nibbles | ((nibbles & 0x0808) * 0x1E);
    }
    let mut pairs = out.chunks_exact_mut(2);
    let mut last = 0;
    for (pair, word) in (&mut pairs).zip(&words) {
        let [low, high] = word.to_le_bytes();
        pair[0] = low as i8;
        pair[1] = high as i8;
        last += 1;
    }
    if let ([code], Some(word)) = (pairs.into_remainder(), words.get(last)) {
        *code = word.to_le_bytes()[0] as i8;
    }
}

/// `max|x|` and whether all are finite, without a branch for each number.
#[inline(always)]
fn largest_magnitude(values: &[f32]) -> (f32, bool) {
    // The magnitude bits of a float order as integers, and those of NaN and infinity lie above all finite ones.
    let bits = values.iter().fold(0u32, |acc, v| acc.max(v.to_bits() & 0x7FFF_FFFF));
    let finite = bits < 0x7F80_0000;
    (f32::from_bits(bits), finite)
}

/// The least bf16 that is not below `value`, so that no number falls outside the levels.
#[inline(always)]
fn scale_up(value: f32) -> bf16 {
    let bits = value.to_bits();
    finite_or_below(bits.wrapping_add(0xFFFF), bits)
}

/// The bf16 nearest to `Σx² / Σ|x|`, or 0 if all numbers are 0.
#[inline(always)]
fn scale_of_signs(values: &[f32]) -> bf16 {
    // In f64 no square of a float overflows or vanishes. Always eight sums: the order is the same on every machine.
    let (mut squares, mut magnitudes) = ([0f64; 8], [0f64; 8]);
    let (eights, rest) = values.as_chunks::<8>();
    let mut add = |place: usize, v: f32| {
        let v = f64::from(v);
        squares[place] += v * v;
        magnitudes[place] += v.abs();
    };
    for eight in eights {
        for (place, v) in eight.iter().enumerate() {
            add(place, *v);
        }
    }
    for (place, v) in rest.iter().enumerate() {
        add(place, *v);
    }
    let magnitude: f64 = magnitudes.iter().sum();
    if magnitude == 0.0 {
        return bf16::ZERO;
    }
    let bits = ((squares.iter().sum::<f64>() / magnitude) as f32).to_bits();
    finite_or_below(bits.wrapping_add(0x7FFF + (bits >> 16 & 1)), bits)
}

/// The upper half of `rounded`, or of `bits` where rounding passed the largest float.
#[inline(always)]
fn finite_or_below(rounded: u32, bits: u32) -> bf16 {
    let half = if f32::from_bits(rounded & 0xFFFF_0000).is_finite() { rounded } else { bits };
    bf16::from_bits((half >> 16) as u16)
}

/// `round(clamp(value / step, -levels, levels))` as the bits of a signed byte. Nearest, ties to even: what
/// `f32::round_ties_even` gives, in one addition that vectorizes on every target.
#[inline(always)]
fn code(value: f32, step: f32, levels: f32) -> u8 {
    // Near 1.5 · 2^23 the floats are the whole numbers. So the lowest bits of the sum are the number itself.
    const SHIFT: f32 = 12_582_912.0;
    ((value / step).clamp(-levels, levels) + SHIFT).to_bits() as u8
}
