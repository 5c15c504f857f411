//! What one pass over a vector tells: how large its numbers are, and its norm.

use gradlog_kernels::simd::{squared_norm_f64, vectorized};

/// Numbers that are looked at in one go.
pub(super) const LANES: usize = 32;

/// How large the numbers of a vector are. A recorder needs it three times, and a vector is read from memory once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Magnitudes {
    /// The largest magnitude of each lane as bits, whose order is that of the magnitudes and then of infinity and NaN.
    /// Number `i` is in lane `i mod 32`.
    pub(super) lanes: [u32; LANES],
    squares: f64,
}

impl Magnitudes {
    /// Those of `values`.
    pub fn of(values: &[f32]) -> Self {
        let (lanes, squares) = vectorized(
            #[inline(always)]
            || {
                let (mut bits, mut squares) = ([0u32; LANES], [0f32; LANES]);
                let chunks = values.chunks_exact(LANES);
                let rest = chunks.remainder();
                let mut add = |lane: usize, value: f32| {
                    bits[lane] = bits[lane].max(value.to_bits() & 0x7FFF_FFFF);
                    squares[lane] += value * value;
                };
                for chunk in chunks {
                    (0..LANES).for_each(|lane| add(lane, chunk[lane]));
                }
                rest.iter().enumerate().for_each(|(lane, value)| add(lane, *value));
                (bits, squares.iter().sum::<f32>())
            },
        );
        let squares = f64::from(squares);
        // Squares that f32 loses are below 1e-45 each, so they do not count beside a sum above this.
        match (1e-30..1e30).contains(&squares) {
            true => Self { lanes, squares },
            false => Self { lanes, squares: squared_norm_f64(values) },
        }
    }

    /// The largest magnitude. NaN if a number is NaN.
    pub fn largest(&self) -> f32 {
        f32::from_bits(self.lanes.into_iter().max().unwrap_or(0))
    }

    /// `Σ v²`, with the rounding of sums in `f32`. Sums that are too small or too large for that are in `f64`.
    pub fn squared_norm(&self) -> f64 {
        self.squares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_magnitude_and_the_norm_are_those_of_the_numbers() {
        for count in [0, 1, 31, 32, 33, 1000] {
            let values: Vec<f32> =
                (0..count).map(|i| (i as f32 * 0.37).sin() * if i == 20 { -5.0 } else { 1.0 }).collect();
            let made = Magnitudes::of(&values);
            assert_eq!(made.largest(), values.iter().fold(0.0, |largest: f32, v| largest.max(v.abs())), "{count}");
            let exact: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
            assert!((made.squared_norm() - exact).abs() <= 1e-6 * exact, "{count}");
        }
        for (scale, largest) in [(1e-30f32, 3e-30), (1e25, 3e25)] {
            let made = Magnitudes::of(&[scale, -3.0 * scale]);
            assert!((f64::from(made.largest()) / f64::from(largest as f32) - 1.0).abs() < 1e-6);
            assert!((made.squared_norm() / (10.0 * f64::from(scale).powi(2)) - 1.0).abs() < 1e-6, "{scale}");
        }
        assert_eq!(Magnitudes::of(&[1.0, f32::NEG_INFINITY]).largest(), f32::INFINITY);
        assert!(Magnitudes::of(&[f32::INFINITY, f32::NAN]).largest().is_nan());
    }
}
