//! Quantizers: how the numbers of a sketch are written down.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// How the numbers of one vector are stored.
///
/// All but [`Encoding::F32`] share one scale per vector. The scale is rounded up to bf16 before anything is divided
/// by it, so that storing it in two bytes costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// 32-bit IEEE floats, as they are.
    F32,
    /// 16-bit IEEE floats of `x / scale`, `scale = max|x|`: no overflow and no underflow however small the gradient.
    F16,
    /// 8-bit integers `round(x / scale)` in -127..=127, `scale = max|x| / 127`. Error per number at most `scale / 2`.
    Q8,
    /// 4-bit integers `round(x / scale)` in -7..=7, `scale = max|x| / 7`, two to a byte. Error per number at most `scale / 2`.
    Q4,
}

/// What [`Encoding::encode`] says of the vector it wrote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantized {
    /// The number that a stored one is multiplied by.
    pub scale: bf16,
    /// Whether every number of the vector was finite. If not, zeros were stored.
    pub finite: bool,
}

impl Encoding {
    /// Bytes that a vector of `width` numbers takes, without its scale.
    pub fn bytes(self, width: usize) -> usize {
        match self {
            Encoding::F32 => 4 * width,
            Encoding::F16 => 2 * width,
            Encoding::Q8 => width,
            Encoding::Q4 => width.div_ceil(2),
        }
    }

    /// Appends `values` to `out` and returns the scale. A vector with a NaN or an infinity is stored as zeros.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Quantized {
        let (largest, finite) = largest_magnitude(values);
        let levels = match self {
            Encoding::F32 | Encoding::F16 => 1.0,
            Encoding::Q8 => 127.0,
            Encoding::Q4 => 7.0,
        };
        let scale = if finite { scale_up(largest / levels) } else { bf16::ZERO };
        let step = scale.to_f32();
        if !finite || self != Encoding::F32 && step == 0.0 {
            out.resize(out.len() + self.bytes(values.len()), 0);
            return Quantized { scale: bf16::ZERO, finite };
        }
        let code = |value: f32| round((value / step).clamp(-levels, levels));
        match self {
            Encoding::F32 => {
                out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                return Quantized { scale: bf16::ONE, finite };
            }
            Encoding::F16 => out.extend(values.iter().flat_map(|v| f16::from_f32(v / step).to_le_bytes())),
            Encoding::Q8 => out.extend(values.iter().map(|&v| code(v) as i8 as u8)),
            Encoding::Q4 => out.extend(values.chunks(2).map(|pair| {
                let low = code(pair[0]) as i8 as u8 & 0x0F;
                let high = pair.get(1).map_or(0, |&v| code(v) as i8 as u8);
                low | (high << 4)
            })),
        }
        Quantized { scale, finite }
    }

    /// The largest magnitude that an integer code of this encoding can have in a file, or `None` if it stores floats.
    pub(crate) fn code_max(self) -> Option<i16> {
        match self {
            Encoding::F32 | Encoding::F16 => None,
            Encoding::Q8 => Some(128),
            Encoding::Q4 => Some(8),
        }
    }

    /// Writes the integer codes of a vector of `out.len()` numbers into `out`: each number is its code times the scale.
    ///
    /// # Panics
    /// If `bytes` has another length, or the encoding stores floats ([`Encoding::code_max`]).
    #[inline(always)]
    pub(crate) fn codes(self, bytes: &[u8], out: &mut [i8]) {
        assert_eq!(bytes.len(), self.bytes(out.len()), "a vector of another length");
        match self {
            Encoding::F32 | Encoding::F16 => assert!(out.is_empty(), "floats have no codes"),
            Encoding::Q8 => {
                for (code, &raw) in out.iter_mut().zip(bytes) {
                    *code = raw as i8;
                }
            }
            Encoding::Q4 => {
                // Both nibbles of a byte at once, each spread to a byte with its sign: loops over words become vectors.
                let spread = |raw: u8| {
                    let word = u16::from(raw);
                    let nibbles = (word | (word << 4)) & 0x0F0F;
                    nibbles | ((nibbles & 0x0808) * 0x1E)
                };
                // Blocks of a fixed length leave no long remainder that is done byte by byte.
                let mut blocks = out.chunks_exact_mut(16);
                let mut rest = bytes;
                for block in &mut blocks {
                    let (raw, after) = rest.split_at(8);
                    rest = after;
                    for (pair, &raw) in block.chunks_exact_mut(2).zip(raw) {
                        let [low, high] = spread(raw).to_le_bytes();
                        pair[0] = low as i8;
                        pair[1] = high as i8;
                    }
                }
                for (pair, &raw) in blocks.into_remainder().chunks_mut(2).zip(rest) {
                    let both = spread(raw).to_le_bytes().map(|byte| byte as i8);
                    pair.copy_from_slice(&both[..pair.len()]);
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
        let step = scale.to_f32();
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
        })
    }
}

/// Bytes of one stored vector with its scale.
pub(crate) fn row_bytes(encoding: Encoding, width: usize) -> usize {
    encoding.bytes(width) + 2
}

/// `max|x|` and whether all are finite, without a branch for each number.
fn largest_magnitude(values: &[f32]) -> (f32, bool) {
    // The magnitude bits of a float order as integers, and those of NaN and infinity lie above all finite ones.
    let bits = values.iter().fold(0u32, |acc, v| acc.max(v.to_bits() & 0x7FFF_FFFF));
    let finite = bits < 0x7F80_0000;
    (f32::from_bits(bits), finite)
}

/// The least bf16 that is not below `value`, so that no number falls outside the levels.
fn scale_up(value: f32) -> bf16 {
    let bits = value.to_bits();
    let up = bits.wrapping_add(0xFFFF) & 0xFFFF_0000;
    let rounded = f32::from_bits(up);
    // Next to the largest float, rounding up would pass it.
    if rounded.is_finite() {
        bf16::from_bits((up >> 16) as u16)
    } else {
        bf16::from_bits((bits >> 16) as u16)
    }
}

/// Nearest whole number, ties to even, for |x| < 2^22: what `f32::round_ties_even` gives, in two additions that
/// vectorize on every target.
#[inline]
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23
    (x + SHIFT) - SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 4] = [Encoding::F32, Encoding::F16, Encoding::Q8, Encoding::Q4];

    fn round_trip(encoding: Encoding, values: &[f32]) -> (Vec<f32>, Quantized) {
        let mut bytes = Vec::new();
        let quantized = encoding.encode(values, &mut bytes);
        assert_eq!(bytes.len(), encoding.bytes(values.len()));
        let mut out = vec![f32::NAN; values.len()];
        encoding.decode(&bytes, quantized.scale, &mut out);
        (out, quantized)
    }

    #[test]
    fn every_code_is_what_the_decoder_takes_it_for() {
        for (encoding, width) in [(Encoding::Q8, 256), (Encoding::Q4, 512), (Encoding::Q4, 511)] {
            let bytes: Vec<u8> = (0..=255).collect();
            let (mut codes, mut numbers) = (vec![99i8; width], vec![f32::NAN; width]);
            encoding.codes(&bytes, &mut codes);
            encoding.decode(&bytes, bf16::ONE, &mut numbers);
            for (code, number) in codes.iter().zip(&numbers) {
                assert_eq!(f32::from(*code), *number);
                assert!(i16::from(code.abs_diff(0)) <= encoding.code_max().unwrap());
            }
        }
        assert!([Encoding::F32, Encoding::F16].iter().all(|floats| floats.code_max().is_none()));
    }

    #[test]
    fn error_stays_within_half_a_step() {
        for magnitude in [1e-38, 1e-30, 1e-8, 1.0, 3.7e4, 1e30, 3.0e38] {
            let values: Vec<f32> = (0..37).map(|i| ((i * 7919 % 41) as f32 / 20.0 - 1.0) * magnitude).collect();
            for encoding in ALL {
                let (back, quantized) = round_trip(encoding, &values);
                let step = quantized.scale.to_f32();
                let bound = match encoding {
                    Encoding::F32 => 0.0,
                    Encoding::F16 => step * 2f32.powi(-11),
                    // A scale among the subnormals has few bits left; the bound still holds with a little slack.
                    Encoding::Q8 | Encoding::Q4 => step * 0.5001,
                };
                for (b, v) in back.iter().zip(&values) {
                    assert!((b - v).abs() <= bound, "{encoding:?} at {magnitude}: {v} came back as {b}");
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_and_odd_widths_work() {
        for encoding in ALL {
            assert_eq!(round_trip(encoding, &[0.0; 5]).0, [0.0; 5]);
            assert_eq!(round_trip(encoding, &[]).0, Vec::<f32>::new());
            let (back, _) = round_trip(encoding, &[0.0, 2.0, 0.0]);
            assert_eq!((back[0], back[2]), (0.0, 0.0));
            assert!((back[1] - 2.0).abs() < 0.02);
        }
    }

    #[test]
    fn a_vector_that_is_not_finite_is_stored_as_zeros_and_said_so() {
        for encoding in ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (back, quantized) = round_trip(encoding, &[1.0, bad, 3.0]);
                assert!(!quantized.finite);
                assert_eq!(back, [0.0; 3]);
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        for x in [-7.0f32, -2.5, -1.5, -0.5, -0.2, 0.0, 0.49, 0.5, 1.5, 2.5, 126.5, 127.0] {
            assert_eq!(round(x), x.round_ties_even());
        }
    }
}
