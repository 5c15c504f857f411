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
//! - `presentations_needed_to_learn`: the last wrong presentation, counted from 1: how many it took until the example
//!   was right for good; 0 if it was never wrong.
//!
//! Over several runs Toneva sums, and a run that never learned the example adds its number of presentations; Paul
//! averages.
//!
//! A presentation with a NaN or an infinity tells nothing and is passed over. Among equal counts the higher mean loss
//! comes first.

use crate::rows::rule::{Predictions, RowRule};
use crate::scores::per_example::PerExample;
use crate::scores::score::FORGETTING_EXTRAS;
use crate::scores::table::{Extra, ScoreRow};
use gradlog_format::log::Column;

/// What a run adds to the sum over runs (Toneva's `order_examples_by_forgetting.py`): if it never learned the example,
/// as many as it had presentations, so that the sum stays finite.
pub(super) fn term_in_sum(row: &ScoreRow) -> f64 {
    if row.score.is_infinite() {
        row.visits as f64
    } else {
        row.score
    }
}

/// Among equal counts, the higher mean loss comes first.
pub(super) fn tie_break(row: &ScoreRow) -> f64 {
    match row.extra("mean_loss") {
        Some(Extra::Number(loss)) => loss,
        _ => f64::NAN,
    }
}

/// What the rest follows from: every visit finds its example somewhere else in memory, so this is small. Counts stop at
/// the most that 32 bits hold.
#[derive(Default)]
pub(super) struct Forgetting {
    /// Summed over all presentations.
    loss: f64,
    presentations: u32,
    forgotten: u32,
    /// Counted from 1; 0 for none.
    first_right: u32,
    /// Counted from 1; 0 for none.
    last_wrong: u32,
}

impl Forgetting {
    /// Whether the last presentation was right.
    fn is_right(&self) -> bool {
        self.last_wrong < self.presentations
    }

    fn never_learned(&self) -> bool {
        self.first_right == 0
    }

    /// Learning events: they and forgetting events take turns, so that the first and the last presentation say by how
    /// many they differ.
    fn learned(&self) -> u64 {
        u64::from(self.forgotten) + u64::from(self.is_right()) - u64::from(self.first_right == 1)
    }

    fn mean_loss(&self) -> f64 {
        self.loss / f64::from(self.presentations)
    }
}

/// The presentations of one example, for callers that have them outside of a run, such as rows of SQL.
///
/// ```
/// use gradlog_analysis::Presentations;
///
/// let mut presentations = Presentations::default();
/// [false, true, false, true].into_iter().for_each(|right| presentations.add(right));
/// assert_eq!(presentations.forgetting(), Some(1.0));
/// ```
#[derive(Default)]
pub struct Presentations(Forgetting);

impl Presentations {
    /// Takes the next presentation: whether its prediction was right.
    pub fn add(&mut self, right: bool) {
        self.0.add(&[f32::from(u8::from(right)), 0.0]);
    }

    /// How often a right presentation was followed by a wrong one; infinite if none was right, `None` if there was
    /// none at all ([`Score::Forgetting`](crate::Score::Forgetting)).
    pub fn forgetting(&self) -> Option<f64> {
        (self.0.visits() > 0).then(|| self.0.score())
    }
}

impl std::fmt::Debug for Presentations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Presentations").field(&self.0.presentations).finish()
    }
}

impl PerExample for Forgetting {
    const RULE: RowRule =
        RowRule { predictions: Predictions::OneOrRefused, ..RowRule::outputs(&[Column::Correct, Column::Loss]) };
    const NEEDS_VISITS: bool = true;

    fn add(&mut self, values: &[f32]) {
        let right = values[0] >= 0.5;
        self.forgotten += u32::from(self.is_right() & !right);
        self.loss += f64::from(values[1]);
        self.presentations = self.presentations.saturating_add(1);
        // Written every time: whether it is right is hard to guess, and a wrong guess costs more than the rest.
        let (number, first) = (self.presentations, right & (self.first_right == 0));
        self.last_wrong = if right { self.last_wrong } else { number };
        self.first_right = if first { number } else { self.first_right };
    }

    fn visits(&self) -> u64 {
        self.presentations.into()
    }

    fn score(&self) -> f64 {
        if self.never_learned() {
            f64::INFINITY
        } else {
            self.forgotten.into()
        }
    }

    fn extras(&self) -> Vec<Extra> {
        if self.presentations == 0 {
            return vec![Extra::Nothing; FORGETTING_EXTRAS.len()];
        }
        vec![
            Extra::Flag(self.never_learned()),
            Extra::Flag(!self.never_learned() && self.forgotten == 0),
            if self.never_learned() { Extra::Nothing } else { Extra::Count(self.first_right.into()) },
            Extra::Count(self.last_wrong.into()),
            Extra::Count(self.learned()),
            Extra::Number(self.mean_loss()),
        ]
    }
}
