//! AUM, the area under the margin (Pleiss et al. 2020, arXiv 2001.10528, §3).
//!
//! `(1/T) Σ_t (z_y − max_{k≠y} z_k)` over logits, not probabilities. Mislabeled examples have low or negative values:
//! what the others of their true class teach pulls against the label. The paper stops before the first drop of the
//! learning rate: give a window.

use crate::rows::rule::RowRule;
use crate::scores::per_example::{Mean, PerExample};
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct Aum {
    mean: Mean,
}

impl PerExample for Aum {
    const RULE: RowRule = RowRule::outputs(&[Column::Margin]);

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
