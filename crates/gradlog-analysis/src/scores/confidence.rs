//! Confidence: the mean probability of the label over the visits (Swayamdipta et al. 2020, arXiv 2009.10795, §2).
//!
//! `μ = (1/T) Σ_t p_t(y)`. With the variability, its extra, it spans the paper's map: high and steady is easy,
//! low and steady is hard to learn (often mislabeled), unsteady is ambiguous.

use crate::rows::rule::RowRule;
use crate::scores::per_example::PerExample;
use crate::scores::table::Extra;
use crate::scores::variability::Spread;
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct Confidence {
    spread: Spread,
}

impl PerExample for Confidence {
    const RULE: RowRule = RowRule::outputs(&[Column::Confidence]);

    fn add(&mut self, values: &[f32]) {
        self.spread.add(f64::from(values[0]));
    }

    fn visits(&self) -> u64 {
        self.spread.count()
    }

    fn score(&self) -> f64 {
        self.spread.mean()
    }

    fn extras(&self) -> Vec<Extra> {
        vec![Extra::Number(self.spread.deviation())]
    }
}
