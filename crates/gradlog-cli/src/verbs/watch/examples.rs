//! What is followed of single examples: forgetting and the mean margin.
//!
//! Forgetting is that of Toneva et al. 2019: a visit with a wrong prediction after one with a right one. The mean
//! margin is AUM (Pleiss et al. 2020). `gradlog scores` computes the same numbers from the whole log.

use std::collections::HashMap;

/// Examples that are followed: about 100 bytes each with the room of the table.
pub(super) const EXAMPLES_MAX: usize = 1_000_000;

#[derive(Debug, Clone, Copy)]
struct Example {
    margins: f64,
    margin_count: u32,
    last_step: u64,
    label: Option<u32>,
    prediction: Option<u32>,
    /// Whether the last prediction was right; `None` before the first.
    is_right: Option<bool>,
    was_right: bool,
}

/// What a visit says of its example.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    pub step: u64,
    pub label: Option<u32>,
    pub prediction: Option<u32>,
    pub margin: Option<f32>,
    pub right: Option<bool>,
}

/// An example with a low mean margin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Low {
    pub id: u64,
    pub margin: f64,
    pub visits: u32,
    pub label: Option<u32>,
    pub prediction: Option<u32>,
}

/// The examples that are followed.
#[derive(Debug)]
pub(super) struct Examples {
    by_id: HashMap<u64, Example>,
    most: usize,
    /// Visits of examples beyond the limit.
    pub passed_over: u64,
    /// Forgetting events.
    pub forgotten: u64,
    /// Examples that were right once and are wrong now.
    pub forgotten_now: u64,
    /// Examples with a prediction that was never right.
    pub never_right: u64,
    /// Examples with a prediction.
    pub predicted: u64,
    /// Visits that came after a later one of their example, as those of several workers may.
    pub out_of_order: u64,
}

impl Examples {
    pub(super) fn new(most: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            most,
            passed_over: 0,
            forgotten: 0,
            forgotten_now: 0,
            never_right: 0,
            predicted: 0,
            out_of_order: 0,
        }
    }

    pub(super) fn add(&mut self, id: u64, seen: &Seen) {
        if self.by_id.len() >= self.most && !self.by_id.contains_key(&id) {
            self.passed_over += 1;
            return;
        }
        let example = self.by_id.entry(id).or_insert(Example {
            margins: 0.0,
            margin_count: 0,
            last_step: 0,
            label: None,
            prediction: None,
            is_right: None,
            was_right: false,
        });
        if seen.step < example.last_step {
            self.out_of_order += 1;
        }
        example.last_step = seen.step;
        example.label = seen.label.or(example.label);
        example.prediction = seen.prediction.or(example.prediction);
        if let Some(margin) = seen.margin.filter(|margin| margin.is_finite()) {
            example.margins += f64::from(margin);
            example.margin_count = example.margin_count.saturating_add(1);
        }
        let Some(right) = seen.right else { return };
        match (example.is_right, right) {
            (None, _) => {
                self.predicted += 1;
                self.never_right += u64::from(!right);
            }
            (Some(true), false) => {
                self.forgotten += 1;
                self.forgotten_now += 1;
            }
            (Some(false), true) if example.was_right => self.forgotten_now -= 1,
            (Some(false), true) => self.never_right -= 1,
            _ => {}
        }
        example.is_right = Some(right);
        example.was_right |= right;
    }

    /// How many examples have a mean margin below 0, how many have a margin at all, and the `most` lowest below 0.
    ///
    /// # Cost
    /// One pass over the examples that are followed.
    pub(super) fn lowest(&self, most: usize) -> (u64, u64, Vec<Low>) {
        let (mut below, mut all, mut lowest) = (0, 0, Vec::<Low>::with_capacity(most + 1));
        for (id, example) in self.by_id.iter().filter(|(_, example)| example.margin_count > 0) {
            all += 1;
            let margin = example.margins / f64::from(example.margin_count);
            if margin >= 0.0 {
                continue;
            }
            below += 1;
            let (label, prediction, visits) = (example.label, example.prediction, example.margin_count);
            let low = Low { id: *id, margin, visits, label, prediction };
            let at = lowest.partition_point(|other| (other.margin, other.id) < (margin, *id));
            if at < most {
                lowest.insert(at, low);
                lowest.truncate(most);
            }
        }
        (below, all, lowest)
    }
}
