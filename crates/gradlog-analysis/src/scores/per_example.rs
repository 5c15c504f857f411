//! What a score gathers of one example, visit by visit.

use crate::rows::rule::RowRule;
use crate::Extra;

/// What a score gathers of one example.
pub(crate) trait PerExample: Default + Send {
    /// The numbers that it is made of, and which visits count.
    const RULE: RowRule;
    /// Whether it says something of a sequence of visits, which sweeps are not.
    const NEEDS_VISITS: bool = false;

    /// Takes one visit: `values` in the order of the rule's numbers, all finite.
    fn add(&mut self, values: &[f32]);

    /// How many it took.
    fn visits(&self) -> u64;

    /// The score. Called only if there was a visit.
    fn score(&self) -> f64;

    /// Its extras, in the order of `Score::extras`; also called if there was no visit.
    fn extras(&self) -> Vec<Extra> {
        Vec::new()
    }
}

/// The rule of a score that gathers one number of each visit, `$column`, in its field `$field`; part of an
/// `impl PerExample`.
macro_rules! gathers_one_number {
    ($field:ident, $column:expr) => {
        const RULE: $crate::rows::rule::RowRule = $crate::rows::rule::RowRule::outputs(&[$column]);

        fn add(&mut self, values: &[f32]) {
            self.$field.add(f64::from(values[0]));
        }

        fn visits(&self) -> u64 {
            self.$field.count()
        }
    };
}
pub(crate) use gathers_one_number;

/// The mean of one number a visit, summed in f64.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    pub(crate) fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// NaN if nothing was added.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}
