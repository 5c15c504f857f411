//! Which layer has the largest part of each example's gradient.

/// For each example, the largest squared norm of one layer, and the layer. The first layer that is not finite stays.
#[derive(Debug, Default)]
pub(in crate::recorder) struct LargestParts {
    parts: Vec<(f64, Option<u32>)>,
    before: Vec<f64>,
}

impl LargestParts {
    /// Begins with `examples` examples without a gradient.
    pub(in crate::recorder) fn begin(&mut self, examples: usize) {
        self.parts.clear();
        self.parts.resize(examples, (0.0, None));
        self.before.clear();
        self.before.resize(examples, 0.0);
    }

    /// Takes the sums of squared norms after `layer` was added to them.
    pub(in crate::recorder) fn note(&mut self, layer: usize, sums: impl IntoIterator<Item = f64>) {
        for ((part, before), sum) in self.parts.iter_mut().zip(&mut self.before).zip(sums) {
            let own = sum - *before;
            // What is not finite compares as larger.
            if part.0.is_finite() && (own > part.0 || !own.is_finite()) {
                *part = (own, Some(layer as u32));
            }
            *before = sum;
        }
    }

    /// The layer with the largest part of an example's gradient.
    pub(in crate::recorder) fn layer(&self, example: usize) -> Option<u32> {
        self.parts.get(example).and_then(|(_, layer)| *layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_part_wins_and_the_first_that_is_not_finite_stays() {
        let mut parts = LargestParts::default();
        for _ in 0..2 {
            parts.begin(4);
            parts.note(0, [1.0, 2.0, 0.0, 0.0]);
            parts.note(1, [5.0, 3.0, f64::NAN, 0.0]);
            parts.note(2, [6.0, 9.0, f64::NAN, 0.0]);
            let layers: Vec<Option<u32>> = (0..5).map(|i| parts.layer(i)).collect();
            assert_eq!(layers, [Some(1), Some(2), Some(1), None, None]);
        }
    }
}
