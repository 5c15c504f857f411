//! How far a sketched dot product may be from that of the gradients themselves.
//!
//! Two things were lost between a vector `x` of the gradient and its stored numbers `x̂`. `x` may have been projected
//! to `m` numbers, and these were rounded to multiples of a scale `Δ`. Numbers that are kept apart lost nothing.
//!
//! ```text
//! projection:   Var⟨Sx, Sy⟩ ≤ (‖x‖²‖y‖² − ‖x°‖²‖y°‖² + ⟨Sx', Sy'⟩²) / m   x° kept apart, x' the rest; over the seeds
//! rounding:     Var⟨x̂, ŷ⟩ = Σ_j v_j ŷ_j² + Σ_j w_j x̂_j² + Σ_j v_j w_j     v_j of x, w_j of y
//!   at random:  Σ_j v_j = n·ν·Δ², ν the recorded mean of f(1 − f)          over the n numbers that are not zero
//!   to nearest: v = Δ²/12                                                  errors uniform in ±Δ/2 (older runs)
//!   signs:      v = (1 − 2/π)·Δ²                                           numbers of a rotated vector are near normal
//!   f16:        u²·(‖x‖²‖y‖²/m + ⟨x,y⟩²), u² = 2⁻²¹/6                      at random, relative to each number
//! a layer:      Var(A·D) = A²·Var D + D²·Var A + Var A·Var D               A = ⟨a,a'⟩ + bias, D = ⟨δ,δ'⟩; two seeds
//! a gradient:   the sum over layers, whose seeds differ
//! a score:      σ² = (Σ_t |w_t|·σ_t)² + Σ_t w_t²·ς_t²
//! ```
//!
//! `ς` is the rounding of the visits at random: each visit has its own. `σ` is all else. The same example meets the
//! same projection at every visit, and the same probe's rounding. So these errors add up and do not cancel, and their
//! sum is an upper bound (Minkowski).
//!
//! Of rounding at random the sum of the variances is recorded, and not which number has which. A number whose code is
//! not zero lies anywhere between two multiples of `Δ`, so it has `Δ²/6` on average. What is left of the sum belongs to
//! the numbers whose codes are zero. So exact zeros, of which ReLU makes many, and the many small numbers beside a few
//! large ones are both stated as they are.
//!
//! Norms and dot products are those of the stored numbers. The error covers the sketch and nothing else: not the layers
//! that were not recorded, not the steps that a probe stands for though it was taken at another, not the first order of
//! TracIn, nor the optimizer. f32 counts as exact.

use gradlog_format::sketch::{Encoding, Rounding};
use gradlog_kernels::int8::{Tile, COLUMNS, ROWS};
use std::f32::consts::FRAC_2_PI;

/// The error of one dot product.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(in crate::influence) struct Error {
    /// `σ`: the standard deviation of what other visits of the example share.
    pub shared: f32,
    /// `ς²`: the variance of what is the visit's own.
    pub own: f32,
}

/// The error of a weighted sum of dot products.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(in crate::influence) struct ErrorSum {
    shared: f64,
    own: f64,
}

impl ErrorSum {
    pub(in crate::influence) fn add(&mut self, weight: f64, error: Error) {
        self.shared += weight.abs() * f64::from(error.shared);
        self.own += weight * weight * f64::from(error.own);
    }

    /// One standard deviation.
    pub(in crate::influence) fn deviation(&self) -> f64 {
        (self.shared * self.shared + self.own).sqrt()
    }
}

/// What the error of a stored vector depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Noise {
    /// `‖x̂‖²`, with the numbers that are kept apart.
    norm: f32,
    /// `‖x°‖²`: of the numbers that are kept apart.
    apart: f32,
    /// The variance of one number that was rounded at random, if its code is not zero.
    used: f32,
    /// The same if its code is zero.
    unused: f32,
    /// The mean of both over all numbers.
    random: f32,
    /// The variance of one number that was rounded to the nearest, or to a sign.
    fixed: f32,
    /// The variance of a number over its square, of f16.
    relative: f32,
}

/// The mean of `f(1 − f)` over numbers that lie anywhere between two multiples of the step.
const SIXTH: f32 = 1.0 / 6.0;
/// The mean of the squared relative error of f16: units in the last place are 2⁻¹⁰ to 2⁻¹¹ of a number.
const OF_F16: f32 = 1.0 / 6.0 / 2_097_152.0;

impl Noise {
    /// `‖x̂‖²`.
    pub(super) fn squared_norm(&self) -> f64 {
        f64::from(self.norm)
    }

    fn exact(norm: f32) -> Self {
        Self { norm, apart: 0.0, used: 0.0, unused: 0.0, random: 0.0, fixed: 0.0, relative: 0.0 }
    }

    /// Of a vector of `width` signs, which stand for numbers that are spread like normal ones: their mean magnitude is
    /// √(2/π) of their standard deviation, so `‖x‖² = (2/π)·m·Δ²`, and what is lost of each number has the variance
    /// `(1 - 2/π)·Δ²`.
    #[inline(always)]
    pub(super) fn of_signs(width: usize, scale: f32) -> Self {
        let square = scale * scale;
        Self { fixed: (1.0 - FRAC_2_PI) * square, ..Self::exact(FRAC_2_PI * width as f32 * square) }
    }

    #[inline(always)]
    pub(super) fn of_codes(codes: &[i8], scale: f32, rounding: Option<Rounding>) -> Self {
        // At most 2^14 each, so that 2^16 of them fit.
        let squares: i32 = codes.iter().map(|&code| i32::from(code) * i32::from(code)).sum();
        let exact = Self::exact(squares as f32 * (scale * scale));
        let Some(rounding) = rounding else {
            return Self { fixed: scale * scale / 12.0, ..exact };
        };
        let count = codes.iter().filter(|code| **code != 0).count() as f32;
        exact.with_rounding(rounding, count, codes.len() as f32, scale)
    }

    pub(super) fn of_numbers(numbers: &[f32]) -> Self {
        Self::exact(numbers.iter().map(|x| x * x).sum())
    }

    /// Of a vector of `encoding` that was decoded to `numbers`.
    pub(super) fn of_decoded(encoding: Encoding, numbers: &[f32], scale: f32, rounding: Option<Rounding>) -> Self {
        let exact = Self::of_numbers(numbers);
        match (encoding, rounding) {
            (Encoding::Signs, _) => Self::of_signs(numbers.len(), scale),
            (Encoding::F32, _) => exact,
            (Encoding::F16, _) => Self { relative: OF_F16, ..exact },
            (_, Some(rounding)) => {
                let count = numbers.iter().filter(|number| **number != 0.0).count() as f32;
                exact.with_rounding(rounding, count, numbers.len() as f32, scale)
            }
            (_, None) => Self { fixed: scale * scale / 12.0, ..exact },
        }
    }

    /// The same after rounding at random. `used` of `width` codes are not zero.
    #[inline(always)]
    fn with_rounding(self, rounding: Rounding, used: f32, width: f32, scale: f32) -> Self {
        let square = scale * scale;
        let sum = rounding.variance() * rounding.nonzero_share() * width;
        let of_used = if used > 0.0 { (sum / used).min(SIXTH) } else { 0.0 };
        let of_unused = (sum - of_used * used).max(0.0) / (width - used).max(1.0);
        Self { used: of_used * square, unused: of_unused * square, random: sum / width.max(1.0) * square, ..self }
    }

    /// The same with some numbers kept apart, whose squares add up to `squares`.
    pub(super) fn with_apart(self, squares: f32) -> Self {
        Self { norm: self.norm + squares, apart: self.apart + squares, ..self }
    }

    /// The variance of one number, by whether its code is zero.
    pub(super) fn variance_at(&self, used: bool) -> f32 {
        self.fixed + if used { self.used } else { self.unused }
    }

    /// Whether it matters which codes are zero.
    pub(super) fn is_uneven(&self) -> bool {
        (self.used - self.unused).abs() > 0.1 * self.random
    }
}

/// How the vectors of a part were shortened.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartVariance {
    width: f32,
    /// `1/m` of a projection, 0 where the vector is whole.
    projection: f32,
}

/// What the variances of a tile are made of.
pub(super) struct Parts<'a> {
    pub visits: &'a [Noise],
    pub probes: &'a [Noise],
    /// Dot products without the numbers that are kept apart.
    pub dots: &'a Tile<f32>,
    /// What [`Parts::probes`] and [`Parts::visits`] have at places that the other side keeps apart: such a number
    /// meets no rounding there. `None` if nothing is kept apart.
    pub hidden: Option<&'a Hidden>,
    /// `Σ_j ŷ_j²` over the places where the visit's code is not zero. `None` if that matters for no visit.
    pub met: Option<&'a Tile<f32>>,
}

/// Squares that meet no rounding, for each pair of a tile.
pub(super) struct Hidden {
    /// Of the probe, at places that the visit keeps apart.
    pub of_probes: Tile<f32>,
    /// Of the visit, at places that either side keeps apart.
    pub of_visits: Tile<f32>,
    /// What the probe's rounding does at places that the visit keeps apart: a variance.
    pub lost: Tile<f32>,
}

impl Default for Hidden {
    fn default() -> Self {
        let zeros = [0.0; ROWS * COLUMNS];
        Self { of_probes: zeros, of_visits: zeros, lost: zeros }
    }
}

impl PartVariance {
    pub(super) fn new(width: usize, projected: bool) -> Self {
        Self { width: width.max(1) as f32, projection: if projected { 1.0 / width.max(1) as f32 } else { 0.0 } }
    }

    /// Writes the variances of the dot products of a tile: what visits share, and what is each visit's own.
    #[inline(always)]
    pub(super) fn fill(&self, parts: &Parts<'_>, shared: &mut Tile<f32>, own: &mut Tile<f32>) {
        for (row, visit) in parts.visits.iter().enumerate().take(shared.len() / COLUMNS) {
            for (column, probe) in parts.probes.iter().enumerate().take(COLUMNS) {
                let at = row * COLUMNS + column;
                let dot = parts.dots[at];
                let (probe_norm, visit_norm, lost) = match parts.hidden {
                    None => (probe.norm, visit.norm, 0.0),
                    Some(hidden) => (
                        (probe.norm - hidden.of_probes[at]).max(0.0),
                        (visit.norm - hidden.of_visits[at]).max(0.0),
                        hidden.lost[at].max(0.0),
                    ),
                };
                let own_of_probe = probe.random + probe.fixed;
                let rounding = match parts.met {
                    Some(met) if visit.is_uneven() => {
                        let met = met[at].min(probe_norm);
                        visit.used * met + visit.unused * (probe_norm - met)
                    }
                    _ => visit.random * probe_norm,
                };
                let relative = visit.norm * probe.norm / self.width + dot * dot;
                own[at] = rounding + self.width * visit.random * own_of_probe + visit.relative * relative;
                shared[at] = visit.fixed * (probe_norm + self.width * own_of_probe)
                    + visit_norm * own_of_probe
                    + lost
                    + probe.relative * relative
                    + self.projection * ((visit.norm * probe.norm - visit.apart * probe.apart).max(0.0) + dot * dot);
            }
        }
    }
}

/// The variances of `(left + bias)·right`, into those of `right`.
#[inline(always)]
pub(super) fn layer_variance(
    (left, bias, right): (&Tile<f32>, f32, &Tile<f32>),
    (left_shared, left_own): (&Tile<f32>, &Tile<f32>),
    (right_shared, right_own): (&mut Tile<f32>, &mut Tile<f32>),
) {
    for at in 0..left.len() {
        let (a, d) = (left[at] + bias, right[at]);
        let (of_a, own_a) = (left_shared[at], left_own[at]);
        let (of_d, own_d) = (right_shared[at], right_own[at]);
        right_shared[at] = a * a * of_d + d * d * of_a + of_a * of_d;
        right_own[at] = a * a * own_d + d * d * own_a + own_a * (of_d + own_d) + of_a * own_d;
    }
}
