//! The mean loss over the visits: `(1/T) Σ_t ℓ(w_t)`.

use crate::scores::per_example::{gathers_one_number, Mean, PerExample};
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct Loss {
    mean: Mean,
}

impl PerExample for Loss {
    gathers_one_number!(mean, Column::Loss);

    fn score(&self) -> f64 {
        self.mean.mean()
    }
}
