//! Could anything predict this? The question to ask before any method is judged.

use super::{correlate, Bootstrap, Correlation, Finding, Measured, Paired};
use std::fmt;

/// How far what is measured agrees with itself: the mark that every method is read against.
///
/// Trainings that differ a little may come apart. Then what leaving an example out does is chance, and a score of 0
/// says nothing of the method. Two things show it before any method is asked:
///
/// - In the same run, half of an example's weight must change the losses as all of it does, by half as much:
///   [`LeaveOneOut::ceiling`](super::LeaveOneOut::ceiling), [`LeaveGroupOut::ceiling`](super::LeaveGroupOut::ceiling).
/// - Over trainings with other seeds, a second training on the same subset must agree with the first:
///   [`Subsets::ceiling`](super::Subsets::ceiling).
///
/// Both are marks and no bounds. If `r` is their agreement, a prediction without any scatter of its own reaches `√r`
/// (Spearman 1904, on attenuation): [`Smoothness::reachable`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Smoothness {
    /// The agreement: Spearman's correlation, mean over probes and parts, with its interval.
    pub agreement: Measured,
}

impl Smoothness {
    /// Below this agreement no method is judged. In this repository's audits, methods had at most 0.19 where the
    /// agreement was 0.26 or less, and at least 0.46 where it was 0.47 or more.
    pub const LEAST: f64 = 0.3;

    /// The name of the row in a table where half of the weight was taken away.
    pub const HALF_WEIGHT: &'static str = "half weight";

    /// The name of the row where each subset was trained on again with other seeds.
    pub const TRAINED_AGAIN: &'static str = "trained again";

    /// Of the ceilings of some parts, which are mostly seeds.
    pub fn measure(ceilings: &[Paired], bootstrap: Bootstrap) -> Self {
        Self { agreement: correlate(ceilings, Correlation::Spearman, bootstrap) }
    }

    /// Of an agreement that was measured by some other way than [`correlate`].
    pub fn new(agreement: Measured) -> Self {
        Self { agreement }
    }

    /// Whether methods can be judged by what was measured: the agreement is at least [`Smoothness::LEAST`], and its
    /// interval, if there is one, lies above 0.
    pub fn suffices(&self) -> bool {
        let Measured { value, low, .. } = self.agreement;
        value >= Self::LEAST && (low.is_nan() || low > 0.0)
    }

    /// `√r`, what a prediction without scatter of its own can reach; 0 for an agreement below 0.
    pub fn reachable(&self) -> f64 {
        self.agreement.value.max(0.0).sqrt()
    }

    /// The first row of a table.
    pub fn finding(&self, setting: &str, method: &str, metric: &str, seeds: &[u64]) -> Finding {
        Finding::new(setting, method, metric, self.agreement, seeds)
    }
}

/// A sentence to print before the methods.
impl fmt::Display for Smoothness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { value, low, high } = self.agreement;
        write!(f, "smoothness: what is measured agrees with itself by {value:.2} [{low:.2}, {high:.2}]")?;
        if self.suffices() {
            write!(f, "; a prediction without scatter can reach {:.2}", self.reachable())
        } else {
            let least = Self::LEAST;
            let why = if value >= least { "That may be chance".into() } else { format!("That is below {least}") };
            write!(
                f,
                ". {why}: no method can be judged here. Lower the learning rate, leave out larger groups, or train \
                 more often"
            )
        }
    }
}
