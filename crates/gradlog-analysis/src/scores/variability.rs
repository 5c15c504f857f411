//! Variability: the spread of the label's probability over the visits (Swayamdipta et al. 2020, arXiv 2009.10795, §2).
//!
//! `sqrt((1/T) Σ_t (p_t(y) − μ)²)`, the population form as in the paper's code. High means ambiguous: the model changes
//! its mind. The paper takes one number per epoch, at the epoch's end; here each visit gives one.

use crate::scores::per_example::{gathers_one_number, PerExample};
use crate::scores::table::Extra;
use gradlog_format::log::Column;

/// Mean and spread in one pass (Welford 1962), which does not cancel where all values are alike.
#[derive(Default)]
pub(super) struct Spread {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Spread {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn mean(&self) -> f64 {
        if self.count > 0 {
            self.mean
        } else {
            f64::NAN
        }
    }

    pub(super) fn deviation(&self) -> f64 {
        (self.squares / self.count as f64).sqrt()
    }

    /// That of a sample, with `n − 1` in the denominator; NaN of fewer than two.
    pub(super) fn sample_deviation(&self) -> f64 {
        if self.count > 1 {
            (self.squares / (self.count - 1) as f64).sqrt()
        } else {
            f64::NAN
        }
    }
}

#[derive(Default)]
pub(super) struct Variability {
    spread: Spread,
}

impl PerExample for Variability {
    gathers_one_number!(spread, Column::Confidence);

    fn score(&self) -> f64 {
        self.spread.deviation()
    }

    fn extras(&self) -> Vec<Extra> {
        vec![Extra::Number(self.spread.mean())]
    }
}
