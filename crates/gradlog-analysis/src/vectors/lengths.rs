//! Lengths and angles of vectors that were stored as signs.
//!
//! A vector `x` of `m` numbers that are spread like normal ones is stored as `x̂ = s·sign(x)`, `s = Σx²/Σ|x|`. Then
//! `⟨x̂, y⟩` estimates `⟨x, y⟩` for a vector `y` that was not rounded. Two things differ if both are signs:
//!
//! ```text
//! ‖x‖² = (2/π)·m·s² = (2/π)·‖x̂‖²                     the length of x̂ is too large
//! E⟨x̂, ŷ⟩ = ‖x‖‖y‖·arcsin ρ                          ρ the cosine of x and y (Grothendieck's identity)
//! ⟨x, y⟩ ≈ ‖x‖‖y‖·sin(⟨x̂, ŷ⟩ / (‖x‖‖y‖))            so the sine of it is the cosine
//! ```
//!
//! A mean `Σ w_t x̂_t` of several visits has `⟨·,·⟩ = Σ w_t w_u ‖x_t‖‖x_u‖·arcsin ρ_tu`. [`Lengths`] keeps what splits
//! its squared length into the terms of one visit with itself, where `ρ = 1`, and those of different visits, of which
//! it takes the sine of the mean arcsine. For one visit this is exact in expectation. `probes` are never stored as
//! signs, so products of a visit with a probe need none of this. Numbers that are kept apart are no signs, so `x` is
//! here without them, and what they add to a vector is known apart.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// What a stored vector of `m` signs of the scale `s` has too much: `‖x̂‖² − ‖x‖² = (1 − 2/π)·m·s²`.
pub(crate) fn excess_of_signs(width: usize, scale: f32) -> f64 {
    (1.0 - FRAC_2_PI) * width as f64 * f64::from(scale).powi(2)
}

/// `‖x‖²` of a vector of signs with this excess.
pub(crate) fn squared_norm_of_signs(excess: f64) -> f64 {
    excess * FRAC_2_PI / (1.0 - FRAC_2_PI)
}

/// The mean cosine of which `angle` is the mean arcsine, less the angle itself.
pub(crate) fn sine_correction(angle: f64) -> f64 {
    angle.clamp(-FRAC_PI_2, FRAC_PI_2).sin() - angle
}

/// What is known of the vectors that a sum is made of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lengths {
    /// `Σ w²·(‖x̂‖² − ‖x‖²)` of the folded layers, and of the others.
    pub folded_excess: f64,
    pub other_excess: f64,
    /// `Σ w²·‖x‖²` and `Σ |w|·‖x‖` of the folded layers where they are signs.
    pub squares: f64,
    pub norms: f64,
}

impl Lengths {
    /// Adds a vector with the weight `w`, and the excess of its folded layers and of the others.
    pub(crate) fn add(&mut self, weight: f64, folded_excess: f64, other_excess: f64) {
        let square = squared_norm_of_signs(folded_excess);
        self.folded_excess += weight * weight * folded_excess;
        self.other_excess += weight * weight * other_excess;
        self.squares += weight * weight * square;
        self.norms += weight.abs() * square.sqrt();
    }

    /// The same for the sum times a factor.
    pub(crate) fn scale(&mut self, factor: f64) {
        let square = factor * factor;
        self.folded_excess *= square;
        self.other_excess *= square;
        self.squares *= square;
        self.norms *= factor.abs();
    }

    /// Whether the folded layers are signs.
    pub(crate) fn is_signs(&self) -> bool {
        self.folded_excess > 0.0
    }

    /// The squared length of the sum, of which the stored numbers of the folded layers have `folded` and the others
    /// `others`.
    pub(crate) fn squared_norm(&self, folded: f64, others: f64) -> f64 {
        let others = (others - self.other_excess).max(0.0);
        if !self.is_signs() {
            return folded + others;
        }
        let between = self.norms * self.norms - self.squares;
        // Rounding leaves a little of one visit alone.
        if between <= 1e-9 * self.squares {
            return self.squares + others;
        }
        let angle = (folded - self.squares - self.folded_excess) / between;
        (self.squares + between * (angle + sine_correction(angle))).max(0.0) + others
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradlog_format::sketch::Encoding;
    use gradlog_testing::Draws;

    fn normal(draws: &mut Draws) -> f32 {
        (0..12).map(|_| draws.number()).sum::<f32>()
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    }

    fn signs(values: &[f32]) -> (Vec<f32>, f64) {
        let mut bytes = Vec::new();
        let made = Encoding::Signs.encode(values, &mut bytes);
        let mut back = vec![0.0; values.len()];
        Encoding::Signs.decode(&bytes, made.scale, &mut back);
        (back, excess_of_signs(values.len(), made.scale.to_f32()))
    }

    /// Means over 1, 2 and 5 vectors with cosines from 0 to 1 among them: length and product against the numbers before
    /// rounding. Of 16,384 numbers a cosine of signs is off by 0.008.
    #[test]
    fn lengths_and_products_of_means_are_those_before_rounding() {
        let m = 16_384;
        let mut draws = Draws(3);
        for visits in [1, 2, 5] {
            for common in [0.0, 0.5, 0.9, 1.0f32] {
                let shared: Vec<f32> = (0..m).map(|_| normal(&mut draws)).collect();
                let mut mean = || {
                    let (mut exact, mut stored) = (vec![0f32; m], vec![0f32; m]);
                    let mut lengths = Lengths::default();
                    for visit in 0..visits {
                        let own = (1.0 - common * common).sqrt();
                        let scale = 1.0 + visit as f32;
                        let x: Vec<f32> =
                            shared.iter().map(|v| scale * (common * v + own * normal(&mut draws))).collect();
                        let (back, excess) = signs(&x);
                        lengths.add(1.0, excess, 0.0);
                        exact.iter_mut().zip(&x).for_each(|(sum, x)| *sum += x);
                        stored.iter_mut().zip(&back).for_each(|(sum, x)| *sum += x);
                    }
                    (exact, stored, lengths)
                };
                let ((x, x_stored, a), (y, y_stored, b)) = (mean(), mean());
                let squared = a.squared_norm(dot(&x_stored, &x_stored), 0.0);
                let relative = squared / dot(&x, &x);
                assert!((relative - 1.0).abs() < 0.03, "{visits} {common}: {relative}");
                let scale = a.norms * b.norms;
                let angle = dot(&x_stored, &y_stored) / scale;
                let product = scale * (angle + sine_correction(angle));
                let off = (product - dot(&x, &y)) / (dot(&x, &x) * dot(&y, &y)).sqrt();
                assert!(off.abs() < 0.03, "{visits} {common}: {off}");
            }
        }
    }
}
