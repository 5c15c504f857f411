//! AUM, the area under the margin (Pleiss et al. 2020, arXiv 2001.10528, §3).
//!
//! `(1/T) Σ_t (z_y − max_{k≠y} z_k)` over logits, not probabilities. Mislabeled examples have low or negative values:
//! what the others of their true class teach pulls against the label. The paper stops before the first drop of the
//! learning rate: give a window.

use crate::scores::per_example::{gathers_one_number, Mean, PerExample};
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct Aum {
    mean: Mean,
}

impl PerExample for Aum {
    gathers_one_number!(mean, Column::Margin);

    fn score(&self) -> f64 {
        self.mean.mean()
    }
}
