//! Correctness: the share of right predictions over the visits (Swayamdipta et al. 2020, arXiv 2009.10795, §2).
//!
//! `(1/T) Σ_t 1[argmax z = y]`; the paper's own number is the sum, an extra of the score. An example with several
//! predictions a visit (a sequence) adds the share of them that is right.

use crate::scores::per_example::{gathers_one_number, Mean, PerExample};
use crate::scores::table::Extra;
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct Correctness {
    mean: Mean,
}

impl PerExample for Correctness {
    gathers_one_number!(mean, Column::Correct);

    fn score(&self) -> f64 {
        self.mean.mean()
    }

    fn extras(&self) -> Vec<Extra> {
        vec![Extra::Number(self.mean.sum())]
    }
}
