//! The projection of a long vector to a short one: a fold, then a rotation, of which the first numbers are kept.

use super::Fold;
use gradlog_kernels::hadamard::transform;

/// Turns a folded vector so that its weight is spread evenly, and keeps the first `kept` numbers of the result.
///
/// With M = `folded.len()`, a power of two, and `z` the folded vector:
///
/// `p_k = (1/√kept) Σ_j (-1)^{popcount(k & j)} z_j`, for `k` in `0..kept`,
///
/// the first `kept` rows of a Walsh–Hadamard transform. For `kept = M` it is an orthonormal rotation. For fewer, dot
/// products keep their mean, because a fold's signs are random. Their variance is that of a projection to `kept`
/// numbers.
///
/// A fold leaves a heavy coordinate alone in its bucket. A few bits keep evenly large numbers well, and a vector with a
/// few heavy numbers badly.
///
/// # Panics
/// If the length is not a power of two, or `kept` is not in `1..=M`.
pub fn rotate(folded: &mut [f32], kept: usize) {
    assert!(folded.len().is_power_of_two(), "a rotation needs a power of two");
    assert!(0 < kept && kept <= folded.len(), "more numbers kept than there are");
    transform(folded);
    let factor = 1.0 / (kept as f32).sqrt();
    folded[..kept].iter_mut().for_each(|v| *v *= factor);
}

/// Adds to `rotated` what `value` in number `bucket` of a folded vector contributes to the numbers that [`rotate`]
/// keeps: `value·(-1)^{popcount(k & bucket)} / √kept`, with `kept = rotated.len()`.
pub fn read_rotated(bucket: usize, value: f32, rotated: &mut [f32]) {
    let value = value / (rotated.len() as f32).sqrt();
    for (k, number) in rotated.iter_mut().enumerate() {
        *number += if (k & bucket).count_ones() % 2 == 1 { -value } else { value };
    }
}

/// The transpose of [`rotate`]: turns `kept` numbers into `kept.next_power_of_two()`, with the same factor `1/√kept`.
///
/// Number `j` of the result is the dot product of `kept` with what [`rotate`] makes of the unit vector `j`. So it
/// estimates number `j` of the vector before the rotation, without bias over the seeds of the fold.
pub fn rotate_back(kept: &mut Vec<f32>) {
    if kept.is_empty() {
        return;
    }
    let factor = 1.0 / (kept.len() as f32).sqrt();
    kept.resize(kept.len().next_power_of_two(), 0.0);
    transform(kept);
    kept.iter_mut().for_each(|v| *v *= factor);
}

/// A projection of vectors of one length: a [`Fold`] to the next power of two, then [`rotate`].
///
/// `E⟨P g, P h⟩ = ⟨g, h⟩` over the seeds, and `Var⟨P g, P h⟩` is about `(‖g‖² ‖h‖² + ⟨g, h⟩²) / kept`.
#[derive(Debug, Clone)]
pub struct Projection {
    fold: Fold,
    kept: usize,
}

impl Projection {
    /// The projection from `inputs` numbers to `kept` that `seed` names.
    ///
    /// # Panics
    /// If `kept` is 0 or does not fit 31 bits.
    pub fn new(seed: u64, inputs: usize, kept: usize) -> Self {
        Self { fold: Fold::new(seed, inputs, kept.next_power_of_two()), kept }
    }

    /// How many numbers come out.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// The projection of `values`, appended to `out`; `scratch` is space that is used again.
    ///
    /// # Panics
    /// If `values` is longer than the projection's input.
    pub fn apply(&self, values: &[f32], scratch: &mut Vec<f32>, out: &mut Vec<f32>) {
        scratch.clear();
        scratch.resize(self.fold.outputs(), 0.0);
        self.fold.add(0, values, scratch);
        rotate(scratch, self.kept);
        out.extend_from_slice(&scratch[..self.kept]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::seed::draw;
    use super::*;

    fn vector(seed: u64, n: usize) -> Vec<f32> {
        (0..n).map(|i| draw(seed, i as u64) as f32 / u64::MAX as f32 - 0.5).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum()
    }

    #[test]
    fn equals_the_definition() {
        for (size, kept) in [(1, 1), (2, 2), (16, 9), (64, 64), (512, 300)] {
            let values = vector(5, size);
            let mut rotated = values.clone();
            rotate(&mut rotated, kept);
            for (k, got) in rotated[..kept].iter().enumerate() {
                let sign = |j: usize| if (k & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
                let sum: f64 = values.iter().enumerate().map(|(j, v)| sign(j) * f64::from(*v)).sum();
                let want = sum / (kept as f64).sqrt();
                assert!((f64::from(*got) - want).abs() < 1e-5, "{size} {kept} {k}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_whole_rotation_keeps_dot_products() {
        let (mut g, mut h) = (vector(1, 256), vector(2, 256));
        let before = dot(&g, &h);
        rotate(&mut g, 256);
        rotate(&mut h, 256);
        assert!((dot(&g, &h) - before).abs() < 1e-4);
    }

    #[test]
    fn dot_products_are_unbiased_with_about_the_stated_variance() {
        let (n, kept, seeds) = (600, 48, 4000);
        let g = vector(3, n);
        let h: Vec<f32> = vector(4, n).iter().zip(&g).map(|(a, b)| a + 0.5 * b).collect();
        let exact = dot(&g, &h);
        let stated = (dot(&g, &g) * dot(&h, &h) + exact * exact) / kept as f64;
        let mut scratch = Vec::new();
        let samples: Vec<f64> = (0..seeds)
            .map(|seed| {
                let projection = Projection::new(seed, n, kept);
                let (mut a, mut b) = (Vec::new(), Vec::new());
                projection.apply(&g, &mut scratch, &mut a);
                projection.apply(&h, &mut scratch, &mut b);
                dot(&a, &b)
            })
            .collect();
        let mean = samples.iter().sum::<f64>() / seeds as f64;
        let variance = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / seeds as f64;
        // Five standard errors of a mean over 4,000 seeds: false alarms are rarer than one in a million.
        assert!((mean - exact).abs() < 5.0 * (stated / seeds as f64).sqrt(), "{mean} {exact}");
        assert!((0.7..1.2).contains(&(variance / stated)), "{variance} {stated}");
    }

    #[test]
    fn signs_of_a_rotated_vector_keep_dot_products_and_of_an_uneven_one_do_not() {
        use super::super::Encoding;
        let (mut error, mut error_unrotated) = (0.0, 0.0);
        for pair in 0..50 {
            // Most of the weight is on one coordinate, and on another one for each of the two.
            let uneven = |number: u64| {
                let mut v = vector(number, 1024);
                v[number as usize] += 30.0;
                v
            };
            let (g, h) = (uneven(2 * pair), uneven(2 * pair + 1));
            let scale = (dot(&g, &g) * dot(&h, &h)).sqrt();
            let through_signs = |g: &[f32]| {
                let mut bytes = Vec::new();
                let made = Encoding::Signs.encode(g, &mut bytes);
                let mut back = vec![0.0; g.len()];
                Encoding::Signs.decode(&bytes, made.scale, &mut back);
                back
            };
            error_unrotated += ((dot(&through_signs(&g), &h) - dot(&g, &h)) / scale).powi(2);
            let turned = |v: &[f32]| {
                let fold = Fold::new(7, 1024, 1024);
                let mut v = fold.apply(v);
                rotate(&mut v, 1024);
                v
            };
            let (g, h) = (turned(&g), turned(&h));
            error += ((dot(&through_signs(&g), &h) - dot(&g, &h)) / scale).powi(2);
        }
        let (error, error_unrotated) = ((error / 50.0f64).sqrt(), (error_unrotated / 50.0f64).sqrt());
        // Rounding to signs adds (π/2 - 1)/M to the squared error of a cosine: 0.024 for 1,024 numbers.
        assert!(error < 0.04, "{error}");
        assert!(error_unrotated > 2.0 * error, "{error_unrotated} {error}");
    }
}
