//! Which labels are taken for which.

use super::gathered::Gathered;
use super::list::Rival;
use super::votes::Votes;
use std::collections::{BTreeSet, HashMap};

/// How often each label is taken for each other one by examples that are not themselves suspicious.
pub(super) struct Confusions {
    labels: f64,
    pairs: HashMap<(u32, u32), f64>,
    by_label: HashMap<u32, f64>,
}

impl Confusions {
    pub(super) fn count(entries: &[(u64, Gathered)], rivals: &[Option<Rival>], votes: &Votes) -> Self {
        let recorded = entries.iter().filter_map(|(_, entry)| entry.label);
        let labels: BTreeSet<u32> = recorded.chain(votes.classes()).collect();
        let mut this = Self { labels: labels.len() as f64, pairs: HashMap::new(), by_label: HashMap::new() };
        for ((_, entry), rival) in entries.iter().zip(rivals) {
            let median = entry.median();
            let (Some(label), Some(rival), false) = (entry.label, rival, median.is_nan()) else { continue };
            let weight = rival.visits as f64 / rival.predicted_visits as f64 * (1.0 - median);
            *this.pairs.entry((label, rival.label)).or_default() += weight;
            *this.by_label.entry(label).or_default() += weight;
        }
        this
    }

    /// `ln((1/(C−1)) / P(rival | label))` with `prior` examples of weight: positive where the confusion is rarer than
    /// chance.
    pub(super) fn surprise(&self, label: u32, rival: u32, prior: f64) -> f64 {
        let chance = 1.0 / (self.labels - 1.0).max(1.0);
        let pair = self.pairs.get(&(label, rival)).copied().unwrap_or(0.0);
        let all = self.by_label.get(&label).copied().unwrap_or(0.0);
        (chance / ((pair + prior * chance) / (all + prior))).ln()
    }
}
