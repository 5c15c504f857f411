//! How far a sketched dot product may be from that of the gradients themselves: its standard deviation.
//!
//! Two things were lost between a vector `x` of the gradient and its stored numbers `x̂`: `x` may have been projected
//! to `m` numbers, and these were rounded to multiples of a scale `Δ`.
//!
//! ```text
//! projection:  Var⟨Sx, Sy⟩ ≤ (‖x‖²‖y‖² + ⟨x,y⟩²) / m                     see `Fold`; over the seeds
//! rounding:    Var⟨x̂, ŷ⟩ = q_x·(‖y‖² + m·q_y) + ‖x‖²·q_y,   q = Δ²/12    errors uniform in ±Δ/2, of numbers apart
//!              of signs q = (1 - 2/π)·Δ²                                 numbers of a rotated vector are near normal
//! a layer:     Var(A·D) = A²·Var D + D²·Var A + Var A·Var D              A = ⟨a,a'⟩ + bias, D = ⟨δ,δ'⟩; two seeds
//! a gradient:  the sum over layers, whose seeds differ
//! a score:     σ ≤ Σ_t |w_t|·σ_t                                         the errors of visits may have any correlation
//! ```
//!
//! Norms and dot products are those of the stored numbers. A score's σ is an upper bound (Minkowski): the same example
//! meets the same projection at every visit, and the same probe's rounding, so that errors of its visits add up and do
//! not cancel.
//!
//! It covers the sketch and nothing else: not the layers that were not recorded, not the steps that a probe stands for
//! though it was taken at another, not the first order of TracIn, nor the optimizer. Rounding is taken for random
//! though it is not: numbers smaller than `Δ/2` all become zero, which biases the dot product of two like vectors, and
//! exact zeros, of which ReLU makes many, carry no error, which makes σ too large. f16 (11 bits) and f32 count as
//! exact.

use gradlog_format::sketch::Encoding;
use gradlog_kernels::int8::{Tile, COLUMNS};
use std::f32::consts::FRAC_2_PI;

/// What the error of a stored vector depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Noise {
    /// `‖x̂‖²`.
    norm: f32,
    /// `q = Δ²/12`, the variance of one number's rounding.
    rounding: f32,
}

impl Noise {
    /// `‖x̂‖²`.
    pub(super) fn squared_norm(&self) -> f64 {
        f64::from(self.norm)
    }

    /// Of a vector of `width` signs, which stand for numbers that are spread like normal ones: their mean magnitude is
    /// √(2/π) of their standard deviation, so `‖x‖² = (2/π)·m·Δ²`, and what is lost of each number has the variance
    /// `(1 - 2/π)·Δ²`.
    #[inline(always)]
    pub(super) fn of_signs(width: usize, scale: f32) -> Self {
        let square = scale * scale;
        Self { norm: FRAC_2_PI * width as f32 * square, rounding: (1.0 - FRAC_2_PI) * square }
    }

    #[inline(always)]
    pub(super) fn of_codes(codes: &[i8], scale: f32) -> Self {
        // At most 2^14 each, so that 2^16 of them fit.
        let squares: i32 = codes.iter().map(|&code| i32::from(code) * i32::from(code)).sum();
        Self { norm: squares as f32 * (scale * scale), rounding: scale * scale / 12.0 }
    }

    pub(super) fn of_numbers(numbers: &[f32]) -> Self {
        Self { norm: numbers.iter().map(|x| x * x).sum(), rounding: 0.0 }
    }

    /// Of a vector of `encoding` that was decoded to `numbers`.
    pub(super) fn of_decoded(encoding: Encoding, numbers: &[f32], scale: f32) -> Self {
        let step = if encoding.code_max().is_some() { scale } else { 0.0 };
        match encoding {
            Encoding::Signs => Self::of_signs(numbers.len(), scale),
            _ => Self { rounding: step * step / 12.0, ..Self::of_numbers(numbers) },
        }
    }
}

/// How the vectors of a part were shortened.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartVariance {
    width: f32,
    /// `1/m` of a projection, 0 where the vector is whole.
    projection: f32,
}

impl PartVariance {
    pub(super) fn new(width: usize, projected: bool) -> Self {
        Self { width: width as f32, projection: if projected { 1.0 / width.max(1) as f32 } else { 0.0 } }
    }

    /// Writes the variances of the dot products of a tile into `out`.
    #[inline(always)]
    pub(super) fn fill(&self, visits: &[Noise], probes: &[Noise], dots: &Tile<f32>, out: &mut Tile<f32>) {
        let tile = out.chunks_exact_mut(COLUMNS).zip(dots.chunks_exact(COLUMNS));
        for ((out, dots), visit) in tile.zip(visits) {
            for ((out, dot), probe) in out.iter_mut().zip(dots).zip(probes) {
                let rounding =
                    visit.rounding * (probe.norm + self.width * probe.rounding) + visit.norm * probe.rounding;
                *out = rounding + self.projection * (visit.norm * probe.norm + dot * dot);
            }
        }
    }
}

/// The variance of `(left + bias)·right`, into `right_variance`.
#[inline(always)]
pub(super) fn layer_variance(
    left: &Tile<f32>,
    bias: f32,
    left_variance: &Tile<f32>,
    right: &Tile<f32>,
    right_variance: &mut Tile<f32>,
) {
    for (((a, var_a), d), var_d) in left.iter().zip(left_variance).zip(right).zip(right_variance) {
        let a = a + bias;
        *var_d = a * a * *var_d + d * d * var_a + var_a * *var_d;
    }
}
