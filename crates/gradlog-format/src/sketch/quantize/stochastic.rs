//! Rounding at random, so that the mean of the stored numbers is the vector itself.

use super::super::magnitudes::Magnitudes;
use super::{largest_magnitude, scale_up, Encoding, Quantized};
use gradlog_kernels::simd::{sum_of_lanes, vectorized};
use half::{bf16, f16};

/// What rounding at random leaves open: the variance of a stored number. It is stored in two bytes.
///
/// A number `x` lies at `f = x/Δ − ⌊x/Δ⌋` between two multiples of the step `Δ`. It becomes the upper one with
/// probability `f`, so its mean is `x` and its variance `f(1 − f)·Δ²`. Numbers that are exactly zero have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rounding {
    /// `⌈510·√ν⌉`, where `ν` is the mean of `f(1 − f)` over the numbers that are not zero. At most 1/4, so at most
    /// 255.
    pub spread: u8,
    /// `⌈255·(share of numbers that are not zero)⌉`.
    pub nonzero: u8,
}

impl Rounding {
    /// Nothing was left open.
    pub const NONE: Self = Self { spread: 0, nonzero: 0 };

    fn new(sum: f64, nonzero: usize, width: usize) -> Self {
        if nonzero == 0 || width == 0 {
            return Self::NONE;
        }
        let spread = (510.0 * (sum / nonzero as f64).max(0.0).sqrt()).ceil().min(255.0) as u8;
        let share = (255.0 * nonzero as f64 / width as f64).ceil().min(255.0) as u8;
        Self { spread, nonzero: share }
    }

    /// `ν`: the mean variance of a number that is not zero, in units of the squared step.
    pub fn variance(self) -> f32 {
        (f32::from(self.spread) / 510.0).powi(2)
    }

    /// The share of numbers that are not exactly zero.
    pub fn nonzero_share(self) -> f32 {
        f32::from(self.nonzero) / 255.0
    }
}

/// Numbers that are rounded at a time: their codes stay in the first-level cache.
const STRETCH: usize = 1024;

impl Encoding {
    /// Appends `values` to `out` as [`Encoding::encode`] does, but rounds codes up or down at random: the mean over
    /// seeds of each stored number is the number itself, within 2^-16 of a step. So a dot product with any other vector
    /// is unbiased. `seed` decides the roundings. F32 and signs are as [`Encoding::encode`] writes them. F16 is rounded
    /// to one of the two f16 beside the number.
    ///
    /// The random numbers are those of FORMAT.md, "Rounding".
    pub fn encode_stochastic(self, values: &[f32], seed: u64, out: &mut Vec<u8>) -> Quantized {
        self.encode_stochastic_up_to(values, Magnitudes::of(values).largest(), seed, out)
    }

    /// As [`Encoding::encode_stochastic`], for numbers whose largest magnitude is known: `largest`, which is infinite
    /// or NaN if one of them is.
    pub fn encode_stochastic_up_to(self, values: &[f32], largest: f32, seed: u64, out: &mut Vec<u8>) -> Quantized {
        let levels = match self {
            Encoding::Q8 => 127.0,
            Encoding::Q4 => 7.0,
            Encoding::F16 => return encode_half(values, seed, out),
            Encoding::F32 | Encoding::Signs => return self.encode(values, out),
        };
        let start = out.len();
        out.resize(start + self.bytes(values.len()), 0);
        let out = &mut out[start..];
        let seed = fold_seed(seed);
        vectorized(
            #[inline(always)]
            || {
                let finite = largest.is_finite();
                let scale = if finite { scale_up(largest / levels) } else { bf16::ZERO };
                let step = scale.to_f32();
                if step == 0.0 {
                    return Quantized { scale: bf16::ZERO, finite, rounding: Rounding::NONE };
                }
                // A product takes a quarter of a division's time. The least steps have no reciprocal, and beside the
                // largest floats, whose scale is rounded down, a number may lie outside the levels.
                let times = step.recip();
                let is_within = times.is_finite() && largest * times <= levels;
                let sums = match (self, is_within) {
                    (Encoding::Q8, true) => round::<15>(values, |x| x * times, seed, out),
                    (Encoding::Q8, false) => round::<15>(values, |x| (x / step).clamp(-levels, levels), seed, out),
                    (_, true) => round::<16>(values, |x| x * times, seed, out),
                    (_, false) => round::<16>(values, |x| (x / step).clamp(-levels, levels), seed, out),
                };
                Quantized { scale, finite, rounding: Rounding::new(sums.variance, sums.nonzero, values.len()) }
            },
        )
    }
}

/// The halves of a seed, combined.
fn fold_seed(seed: u64) -> u32 {
    (seed ^ (seed >> 32)) as u32
}

/// [`Encoding::F16`], rounded at random.
fn encode_half(values: &[f32], seed: u64, out: &mut Vec<u8>) -> Quantized {
    let (largest, finite) = largest_magnitude(values);
    let scale = if finite { scale_up(largest) } else { bf16::ZERO };
    let step = scale.to_f32();
    let start = out.len();
    out.resize(start + 2 * values.len(), 0);
    if step > 0.0 {
        let seed = fold_seed(seed);
        for ((place, value), raw) in values.iter().enumerate().zip(out[start..].chunks_exact_mut(2)) {
            let random = draw32(seed, place as u32);
            raw.copy_from_slice(&round_half(value / step, random).to_le_bytes());
        }
    }
    Quantized { scale, finite, rounding: Rounding::NONE }
}

/// One of the two f16 beside `x`, which is at most 1 in magnitude.
fn round_half(x: f32, random: u32) -> f16 {
    // The least normal f16. Below it f16 are the multiples of 2^-24.
    const NORMAL: f32 = 1.0 / 16_384.0;
    const UNIT: f32 = 1.0 / 16_777_216.0;
    if x.abs() < NORMAL {
        let random = (random >> 8) as f32 * UNIT;
        return f16::from_f32((x.abs() / UNIT + random).floor() * UNIT * x.signum());
    }
    // An f16 has 13 bits fewer. A random number in their place carries with the probability of what they say.
    let bits = x.to_bits() + (random & 0x1FFF);
    f16::from_f32(f32::from_bits(bits & !0x1FFF))
}

/// What a place adds to the seed: 2^32 divided by the golden ratio, made odd.
const GOLDEN: u32 = 0x9E37_79B9;

/// Random number `place` of the stream that `seed` names: the finalizer of a 32-bit hash with two rounds (Wellons 2018,
/// "lowbias32").
#[inline(always)]
fn draw32(seed: u32, place: u32) -> u32 {
    mix32(seed.wrapping_add(place.wrapping_mul(GOLDEN)))
}

#[inline(always)]
fn mix32(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// Numbers that are rounded in one go. A hash serves two of them: number `i` of a go takes the upper 16 bits of hash
/// `i`, and number `i + HASHES` the lower ones.
const LANES: usize = 2 * HASHES;

/// Hashes of a go.
const HASHES: usize = 16;

/// What the hashes of a go add to the seed before its first. No lane adds 0, for which the compiler would make a
/// special case.
const LANE_STEPS: [u32; HASHES] = {
    let mut steps = [GOLDEN; HASHES];
    let mut lane = 1;
    while lane < HASHES {
        steps[lane] = steps[lane - 1].wrapping_add(GOLDEN);
        lane += 1;
    }
    steps
};

/// What rounding left open.
#[derive(Default)]
struct Sums {
    /// `Σ f(1 − f)`.
    variance: f64,
    /// Numbers that are not zero.
    nonzero: usize,
}

/// Sums of the lanes, with `f` in units of `2^-BITS`. Two numbers of a go share a lane.
struct LaneSums {
    variances: [f32; HASHES],
    nonzero: [u32; HASHES],
}

/// Rounds `values` and writes their codes: a byte each if `BITS` is 15, two to a byte if it is 16. `scaled` makes
/// multiples of the step of them.
#[inline(always)]
fn round<const BITS: u32>(values: &[f32], scaled: impl Fn(f32) -> f32 + Copy, seed: u32, out: &mut [u8]) -> Sums {
    let mut sums = Sums::default();
    let mut seed = seed.wrapping_sub(GOLDEN);
    let codes_in_byte = if BITS == Q4_BITS { 2 } else { 1 };
    let mut bytes = [0u8; STRETCH];
    for (values, out) in values.chunks(STRETCH).zip(out.chunks_mut(STRETCH / codes_in_byte)) {
        let mut lanes = LaneSums { variances: [0.0; HASHES], nonzero: [0; HASHES] };
        let (goes, rest) = values.as_chunks::<LANES>();
        let (places, _) = bytes.as_chunks_mut::<LANES>();
        for (values, place) in goes.iter().zip(&mut *places) {
            write_codes::<BITS>(&round_lanes::<BITS>(values, scaled, seed, &mut lanes), place);
            seed = seed.wrapping_add(GOLDEN.wrapping_mul(HASHES as u32));
        }
        if !rest.is_empty() {
            // Zeros stay zeros and count for nothing.
            let mut values = [0f32; LANES];
            values[..rest.len()].copy_from_slice(rest);
            write_codes::<BITS>(&round_lanes::<BITS>(&values, scaled, seed, &mut lanes), &mut places[goes.len()]);
        }
        if BITS == Q4_BITS {
            // In a loop of its own, for which the compiler finds vectors. The codes are still in the first-level cache.
            let (pairs, _) = bytes.as_chunks::<2>();
            for (byte, pair) in out.iter_mut().zip(pairs) {
                let word = u16::from_le_bytes(*pair);
                *byte = (word & 0x0F | word >> 4 & 0xF0) as u8;
            }
        } else {
            out.copy_from_slice(&bytes[..out.len()]);
        }
        let unit = 0.25f64.powi(BITS as i32);
        sums.variance += unit * f64::from(sum_of_lanes(lanes.variances));
        sums.nonzero += sum_of_lanes(lanes.nonzero) as usize;
    }
    sums
}

/// Fraction bits of 4-bit codes.
const Q4_BITS: u32 = 16;

/// Rounds the numbers of a go. [`write_codes`] writes the results.
#[inline(always)]
fn round_lanes<const BITS: u32>(
    values: &[f32; LANES],
    scaled: impl Fn(f32) -> f32 + Copy,
    seed: u32,
    sums: &mut LaneSums,
) -> [u32; LANES] {
    let one = (1u32 << BITS) as f32;
    // Between 2^(23 - BITS) and twice that, floats are the multiples of 2^-BITS, and their lower bits count them. The
    // middle of this range is 0 of what is added to it.
    let middle = 1.5 * (1u32 << (23 - BITS)) as f32;
    let (mut fixed, mut random) = ([0u32; LANES], [0u32; LANES]);
    for lane in 0..HASHES {
        let hash = mix32(seed.wrapping_add(LANE_STEPS[lane]));
        random[lane] = hash >> (32 - BITS);
        random[lane + HASHES] = hash & ((1 << BITS) - 1);
    }
    let variance = |fixed: u32| {
        let fraction = (fixed & ((1 << BITS) - 1)) as i32 as f32;
        fraction * (one - fraction)
    };
    let is_nonzero = |value: f32| u32::from(value != 0.0);
    for lane in 0..HASHES {
        let other = lane + HASHES;
        fixed[lane] = (scaled(values[lane]) + middle).to_bits();
        fixed[other] = (scaled(values[other]) + middle).to_bits();
        sums.variances[lane] += variance(fixed[lane]) + variance(fixed[other]);
        sums.nonzero[lane] += is_nonzero(values[lane]) + is_nonzero(values[other]);
    }
    // The fraction carries with the probability that it states.
    for lane in 0..LANES {
        fixed[lane] = fixed[lane].wrapping_add(random[lane]) >> BITS;
    }
    fixed
}

/// Writes a byte for each result of [`round_lanes`]: the code, or if `BITS` is 16 the code in the lower half.
#[inline(always)]
fn write_codes<const BITS: u32>(codes: &[u32; LANES], out: &mut [u8; LANES]) {
    // The middle is odd in the highest bit of an 8-bit code, and even in those of a 4-bit one.
    let flip = if BITS == Q4_BITS { 0 } else { 0x80 };
    out.iter_mut().zip(codes).for_each(|(byte, code)| *byte = (code ^ flip) as u8);
}

#[cfg(test)]
mod tests {
    use super::super::super::draw;
    use super::*;

    fn decode(encoding: Encoding, values: &[f32], seed: u64) -> (Vec<f32>, Quantized) {
        let (mut bytes, mut out) = (Vec::new(), vec![0f32; values.len()]);
        let made = encoding.encode_stochastic(values, seed, &mut bytes);
        assert_eq!(bytes.len(), encoding.bytes(values.len()));
        encoding.decode(&bytes, made.scale, &mut out);
        (out, made)
    }

    fn numbers(count: usize) -> Vec<f32> {
        // Many magnitudes, both signs, and zeros.
        let draw = |i: usize| draw(5, i as u64) as f32 / u64::MAX as f32 - 0.5;
        (0..count).map(|i| if i % 7 == 0 { 0.0 } else { draw(i) * 10f32.powi(-((i % 5) as i32)) }).collect()
    }

    #[test]
    fn the_mean_over_seeds_is_the_number_and_the_variance_is_stated() {
        const SEEDS: u64 = 4_000;
        let values = numbers(75);
        for encoding in [Encoding::Q4, Encoding::Q8, Encoding::F16] {
            let (mut sums, mut squares) = (vec![0f64; values.len()], vec![0f64; values.len()]);
            let (mut stated, mut step) = (0.0, 0.0);
            for seed in 0..SEEDS {
                let (back, made) = decode(encoding, &values, draw(9, seed));
                for ((sum, square), (b, v)) in sums.iter_mut().zip(&mut squares).zip(back.iter().zip(&values)) {
                    *sum += f64::from(b - v);
                    *square += f64::from(b - v).powi(2);
                }
                step = f64::from(made.scale.to_f32());
                let share = f64::from(made.rounding.nonzero_share() * made.rounding.variance());
                stated = share * values.len() as f64 * step * step;
            }
            for (i, (sum, square)) in sums.iter().zip(&squares).enumerate() {
                // Five standard errors: false alarms are rarer than one in a million for each number.
                // A small number is rarely rounded up.
                let rare = SEEDS as f64 * f64::from(values[i].abs()) * step;
                assert!(sum.abs() <= 5.0 * (square + rare).sqrt() + 1e-12, "{encoding:?} {i}: {sum} {square}");
                assert!(values[i] != 0.0 || *square == 0.0, "{encoding:?}: a zero was rounded");
            }
            if encoding != Encoding::F16 {
                let found = squares.iter().sum::<f64>() / SEEDS as f64;
                assert!((0.93..1.0).contains(&(found / stated)), "{encoding:?}: {found} {stated}");
            }
        }
    }

    #[test]
    fn codes_stay_within_the_levels_and_edges_are_kept() {
        for encoding in [Encoding::Q4, Encoding::Q8, Encoding::F16] {
            for values in [vec![1.0f32, -1.0, 0.0], vec![3.0e38, -3.3e38, 1e30], vec![1e-40, -1e-39, 0.0]] {
                for seed in 0..50 {
                    let (back, made) = decode(encoding, &values, seed);
                    let bound = made.scale.to_f32();
                    for (b, v) in back.iter().zip(&values) {
                        assert!((b - v).abs() <= bound && b.is_finite(), "{encoding:?}: {v} came back as {b}");
                    }
                }
            }
            assert_eq!(decode(encoding, &[0.0; 5], 1).0, [0.0; 5]);
            assert!(decode(encoding, &[], 1).0.is_empty());
            let (back, made) = decode(encoding, &[1.0, f32::NAN], 1);
            assert!(!made.finite && back == [0.0, 0.0]);
        }
    }

    /// FORMAT.md, "Rounding", number by number.
    #[test]
    fn codes_are_those_of_the_specification() {
        for (encoding, bits) in [(Encoding::Q4, 16u32), (Encoding::Q8, 15)] {
            for count in [2, 16, 31, 32, 33, 1_100] {
                let (values, seed) = (numbers(count), draw(3, count as u64));
                let (back, made) = decode(encoding, &values, seed);
                let (scale, s, one) = (made.scale.to_f32(), fold_seed(seed), f64::from(1u32 << bits));
                for (i, (back, value)) in back.iter().zip(&values).enumerate() {
                    let hash = draw32(s, (i / 32 * 16 + i % 16) as u32);
                    let half = if i % 32 < 16 { hash >> (32 - bits) } else { hash % (1 << bits) };
                    let z = (f64::from(value * scale.recip()) * one).round_ties_even() / one;
                    let code = (z + f64::from(half) / one).floor();
                    assert_eq!(f64::from(*back), code * f64::from(scale), "{encoding:?}, number {i} of {count}");
                }
            }
        }
    }

    #[test]
    fn random_numbers_are_those_of_the_specification() {
        assert_eq!([draw32(0, 0), draw32(0, 1), draw32(12_345, 678)], DRAWS);
    }

    /// By an independent program (Python, from the page).
    const DRAWS: [u32; 3] = [0, 33350994, 3681741318];
}
