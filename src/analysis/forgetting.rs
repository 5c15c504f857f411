//! Forgetting (Toneva et al. 2019, arXiv 1812.05159, §3).
//!
//! A presentation is a visit of the example: its own prediction, before the update, in training mode. With `acc_j` = 1
//! if presentation `j` (counted from 1) was right:
//!
//! - forgetting event at `j`: `acc_{j−1} = 1` and `acc_j = 0`; learning event: the reverse. The first presentation is
//!   neither, whatever it says. Presentations are consecutive for the example: several in an epoch all count, an epoch
//!   without it leaves no mark.
//! - never learned: wrong at every presentation. Its score is infinity (as in Paul et al. 2021; Toneva's code adds the
//!   number of presentations, which sorts the same).
//! - unforgettable: learned at least once and never forgotten.
//! - `first_learned`: the first right presentation, counted from 1 (Toneva's code counts it from 0).
//! - `presentations_needed_to_learn`: the last wrong presentation, counted from 1: how many it took until the example was
//!   right for good; 0 if it was never wrong.
//!
//! Over several runs Toneva sums, and a run that never learned the example adds its number of presentations; Paul averages.
//!
//! A presentation with a NaN or an infinity tells nothing and is passed over. Among equal counts the higher mean loss
//! comes first.

use super::per_example::{Extra, Mean, PerExample, ScoreRow};
use crate::log::Column;

pub(super) const EXTRAS: &[&str] = &[
    "never_learned",
    "unforgettable",
    "first_learned",
    "presentations_needed_to_learn",
    "learning_events",
    "mean_loss",
];

/// What a run adds to the sum over runs (Toneva's `order_examples_by_forgetting.py`): if it never learned the example, as
/// many as it had presentations, so that the sum stays finite.
pub(super) fn in_sum(row: &ScoreRow) -> f64 {
    if row.score.is_infinite() {
        row.visits as f64
    } else {
        row.score
    }
}

#[derive(Default)]
pub(super) struct Forgetting {
    presentations: u64,
    was_right: bool,
    forgotten: u64,
    learned: u64,
    first_right: Option<u64>,
    last_wrong: u64,
    loss: Mean,
}

impl PerExample for Forgetting {
    const COLUMNS: &'static [Column] = &[Column::Correct, Column::Loss];
    const ONE_PREDICTION: bool = true;
    const NEEDS_VISITS: bool = true;

    fn add(&mut self, values: &[f32]) {
        let right = values[0] >= 0.5;
        self.presentations += 1;
        if self.presentations > 1 {
            self.forgotten += u64::from(self.was_right && !right);
            self.learned += u64::from(!self.was_right && right);
        }
        if right {
            self.first_right.get_or_insert(self.presentations);
        } else {
            self.last_wrong = self.presentations;
        }
        self.was_right = right;
        self.loss.add(f64::from(values[1]));
    }

    fn score(&self) -> f64 {
        if self.first_right.is_some() {
            self.forgotten as f64
        } else {
            f64::INFINITY
        }
    }

    fn extras(&self) -> Vec<Extra> {
        if self.presentations == 0 {
            return vec![Extra::Nothing; EXTRAS.len()];
        }
        vec![
            Extra::Flag(self.first_right.is_none()),
            Extra::Flag(self.first_right.is_some() && self.forgotten == 0),
            self.first_right.map_or(Extra::Nothing, Extra::Count),
            Extra::Count(self.last_wrong),
            Extra::Count(self.learned),
            Extra::Number(self.loss.mean()),
        ]
    }

    fn tie_break(&self) -> f64 {
        self.loss.mean()
    }
}
