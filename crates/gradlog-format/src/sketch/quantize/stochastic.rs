//! Rounding at random, so that the mean of the stored numbers is the vector itself.

use super::super::magnitudes::Magnitudes;
use super::{largest_magnitude, scale_up, Encoding, Quantized};
use gradlog_kernels::simd::vectorized;
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

/// Numbers that are rounded at a time: their random bits and codes stay in the first-level cache.
const STRETCH: usize = 1024;

impl Encoding {
    /// Appends `values` to `out` as [`Encoding::encode`] does, but rounds codes up or down at random: the mean over
    /// seeds of each stored number is the number itself. So a dot product with any other vector is unbiased. `seed`
    /// decides the roundings. F32 and signs are as [`Encoding::encode`] writes them. F16 is rounded to one of the two
    /// f16 beside the number.
    ///
    /// The random numbers are those of `draw32(seed, i)` for place `i` (FORMAT.md, "Rounding").
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
                let (mut sum, mut nonzero) = (0f64, 0usize);
                let mut codes = [0u8; STRETCH];
                // A product takes a quarter of a division's time. Only the least steps have no reciprocal.
                let times = step.recip();
                for (number, values) in values.chunks(STRETCH).enumerate() {
                    let place = (seed, number * STRETCH);
                    let (own_sum, own_nonzero) = match times.is_finite() {
                        true => round(values, |x| x * times, levels, place, &mut codes),
                        false => round(values, |x| x / step, levels, place, &mut codes),
                    };
                    sum += f64::from(own_sum);
                    nonzero += own_nonzero;
                    if self == Encoding::Q8 {
                        out[number * STRETCH..][..values.len()].copy_from_slice(&codes[..values.len()]);
                        continue;
                    }
                    if let Some(after) = codes.get_mut(values.len()) {
                        *after = 0;
                    }
                    let bytes = values.len().div_ceil(2);
                    let out = &mut out[number * (STRETCH / 2)..][..bytes];
                    for (raw, pair) in out.iter_mut().zip(codes.chunks_exact(2)) {
                        let word = u16::from_le_bytes([pair[0], pair[1]]);
                        *raw = ((word & 0x0F) | (word >> 4 & 0xF0)) as u8;
                    }
                }
                Quantized { scale, finite, rounding: Rounding::new(sum, nonzero, values.len()) }
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

/// What the places of one go add to the seed, after its first.
const LANE_STEPS: [u32; LANES] = {
    let mut steps = [0u32; LANES];
    let mut lane = 1;
    while lane < LANES {
        steps[lane] = steps[lane - 1].wrapping_add(GOLDEN);
        lane += 1;
    }
    steps
};

/// Numbers that are rounded in one go.
const LANES: usize = 16;

/// Writes the codes of at most [`STRETCH`] numbers. Returns the sum of `f(1 − f)` and the count of nonzero numbers.
#[inline(always)]
fn round(
    values: &[f32],
    scaled: impl Fn(f32) -> f32 + Copy,
    levels: f32,
    (seed, first): (u32, usize),
    codes: &mut [u8; STRETCH],
) -> (f32, usize) {
    let (mut sums, mut counts) = ([0f32; LANES], [0u32; LANES]);
    let whole = values.len() / LANES * LANES;
    let (chunks, rest) = values.split_at(whole);
    // The seed of the first place of a go: `draw32` in parts.
    let mut seed = seed.wrapping_add((first as u32).wrapping_mul(GOLDEN));
    let next = GOLDEN.wrapping_mul(LANES as u32);
    for (codes, values) in codes.chunks_exact_mut(LANES).zip(chunks.chunks_exact(LANES)) {
        let mut lanes = [0f32; LANES];
        lanes.copy_from_slice(values);
        codes.copy_from_slice(&round_lanes(&lanes, scaled, levels, seed, (&mut sums, &mut counts)));
        seed = seed.wrapping_add(next);
    }
    if !rest.is_empty() {
        // Zeros stay zeros and count for nothing.
        let mut lanes = [0f32; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        let made = round_lanes(&lanes, scaled, levels, seed, (&mut sums, &mut counts));
        codes[whole..whole + rest.len()].copy_from_slice(&made[..rest.len()]);
    }
    (sums.iter().sum(), counts.iter().map(|&count| count as usize).sum())
}

/// Fixed lengths, so that the loop becomes vectors.
#[inline(always)]
fn round_lanes(
    values: &[f32; LANES],
    scaled: impl Fn(f32) -> f32,
    levels: f32,
    seed: u32,
    (sums, counts): (&mut [f32; LANES], &mut [u32; LANES]),
) -> [u8; LANES] {
    // Near 1.5 · 2^23 the floats are the whole numbers: the lower bits of such a float are the number.
    const SHIFT: f32 = 12_582_912.0;
    let mut rounded = [0u32; LANES];
    for lane in 0..LANES {
        let x = scaled(values[lane]).clamp(-levels, levels);
        let floor = x.floor();
        let fraction = x - floor;
        // 24 random bits as a number in 0..1. As a signed integer it converts in one instruction.
        let random = (mix32(seed.wrapping_add(LANE_STEPS[lane])) >> 8) as i32 as f32 * (1.0 / 16_777_216.0);
        let up = if random < fraction { 1.0 } else { 0.0 };
        sums[lane] += fraction * (1.0 - fraction);
        counts[lane] += u32::from(values[lane] != 0.0);
        rounded[lane] = (floor + up + SHIFT).to_bits();
    }
    rounded.map(|bits| bits as u8)
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

    #[test]
    fn random_numbers_are_those_of_the_specification() {
        assert_eq!([draw32(0, 0), draw32(0, 1), draw32(12_345, 678)], DRAWS);
    }

    /// By an independent program (Python, from the page).
    const DRAWS: [u32; 3] = [0, 33350994, 3681741318];
}
