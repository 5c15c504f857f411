//! Relative differences between gradients, losses and inputs, and the largest of each.

/// Below this share of the largest norm, a difference is measured against that share: it is mostly rounding.
const FLOOR: f64 = 1e-3;

/// A difference of one thing of one example.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Number of the parameter, layer use, or 0.
    subject: usize,
    /// Place of the example in the batch.
    example: usize,
    difference: f64,
    size: f64,
}

/// Differences between two computations of the same things.
#[derive(Debug, Default)]
pub(super) struct Differences {
    all: Vec<Measured>,
}

/// A relative difference, and where it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Difference {
    pub subject: usize,
    pub example: usize,
    pub relative: f64,
}

/// `‖a‖` in f64.
pub(super) fn norm(a: &[f32]) -> f64 {
    a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

impl Differences {
    /// Adds `a` and `b`, which should be equal.
    pub(super) fn add(&mut self, subject: usize, example: usize, a: &[f32], b: &[f32]) {
        let (of_a, of_b) = (norm(a), norm(b));
        let squared: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        let difference = match (a.len() == b.len(), squared.is_finite(), of_a.is_finite(), of_b.is_finite()) {
            (false, ..) => f64::INFINITY,
            (_, true, ..) => squared.sqrt(),
            // Both are NaN or infinite: there is nothing to compare.
            (.., false, false) => 0.0,
            _ => f64::INFINITY,
        };
        let size = if of_a.is_finite() && of_b.is_finite() { of_a.max(of_b) } else { 0.0 };
        self.all.push(Measured { subject, example, difference, size });
    }

    /// Adds a difference of which the norms are known.
    pub(super) fn add_norms(&mut self, subject: usize, example: usize, difference: f64, size: f64) {
        self.all.push(Measured { subject, example, difference, size });
    }

    /// The relative differences. A part that is a thousandth of its example, or an example that is a thousandth of the
    /// largest, is measured against that thousandth.
    pub(super) fn relative(&self) -> Vec<Difference> {
        let examples = self.all.iter().map(|one| one.example + 1).max().unwrap_or(0);
        let mut whole = vec![0f64; examples];
        self.all.iter().for_each(|one| whole[one.example] += one.size.powi(2));
        let largest = whole.iter().copied().fold(0.0, f64::max).sqrt();
        let relative = |one: &Measured| {
            let floor = FLOOR * whole[one.example].sqrt().max(FLOOR * largest);
            let size = one.size.max(floor);
            let relative = if one.difference == 0.0 { 0.0 } else { one.difference / size };
            Difference { subject: one.subject, example: one.example, relative }
        };
        self.all.iter().map(relative).collect()
    }
}

/// The largest of some differences.
pub(super) fn largest(differences: &[Difference]) -> Option<Difference> {
    differences.iter().copied().max_by(|a, b| a.relative.total_cmp(&b.relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relative(differences: &Differences) -> Vec<f64> {
        differences.relative().iter().map(|one| one.relative).collect()
    }

    #[test]
    fn differences_are_relative_to_the_larger_and_never_below_a_thousandth_of_the_example() {
        let mut found = Differences::default();
        found.add(0, 0, &[3.0, 4.0], &[3.0, 4.0]);
        found.add(1, 0, &[0.0, 1e-9], &[1e-9, 0.0]);
        found.add(0, 1, &[0.0, 2.0], &[0.0, 4.0]);
        found.add(1, 1, &[0.0], &[0.0]);
        let found = relative(&found);
        assert_eq!((found[0], found[2], found[3]), (0.0, 0.5, 0.0));
        let noise = 2f64.sqrt() * f64::from(1e-9f32) / 5e-3;
        assert!((found[1] - noise).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn numbers_that_are_not_finite_differ_from_those_that_are() {
        let mut found = Differences::default();
        found.add(0, 0, &[f32::NAN], &[1.0]);
        found.add(0, 1, &[f32::NAN], &[f32::NAN]);
        found.add(0, 2, &[1.0, 2.0], &[1.0]);
        assert_eq!(relative(&found), [f64::INFINITY, 0.0, f64::INFINITY]);
    }
}
