//! The mean loss over the visits: `(1/T) Σ_t ℓ(w_t)`.

use crate::rows::rule::RowRule;
use crate::scores::per_example::{Mean, PerExample};
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct Loss {
    mean: Mean,
}

impl PerExample for Loss {
    const RULE: RowRule = RowRule::outputs(&[Column::Loss]);

    fn add(&mut self, values: &[f32]) {
        self.mean.add(f64::from(values[0]));
    }

    fn visits(&self) -> u64 {
        self.mean.count()
    }

    fn score(&self) -> f64 {
        self.mean.mean()
    }
}
