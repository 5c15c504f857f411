//! Confidence: the mean probability of the label over the visits (Swayamdipta et al. 2020, arXiv 2009.10795, §2).
//!
//! `μ = (1/T) Σ_t p_t(y)`. With the variability, its extra, it spans the paper's map: high and steady is easy,
//! low and steady is hard to learn (often mislabeled), unsteady is ambiguous.

use crate::scores::per_example::{gathers_one_number, PerExample};
use crate::scores::table::Extra;
use crate::scores::variability::Spread;
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct Confidence {
    spread: Spread,
}

impl PerExample for Confidence {
    gathers_one_number!(spread, Column::Confidence);

    fn score(&self) -> f64 {
        self.spread.mean()
    }

    fn extras(&self) -> Vec<Extra> {
        vec![Extra::Number(self.spread.deviation())]
    }
}
