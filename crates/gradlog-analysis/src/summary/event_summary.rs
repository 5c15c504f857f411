//! What a guard noticed in a run: counts, and the first and the last events.

use gradlog_format::log::EventKind;
use gradlog_format::run::EventRecord;
use std::collections::{BTreeMap, VecDeque};

/// The first and the last events that a summary keeps, of each as many.
const KEPT: usize = 4;

/// The events of a run.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct EventSummary {
    /// How many events of each kind there are. An event about several examples counts once for each.
    pub counts: BTreeMap<EventKind, u64>,
    /// The first events in the log, at most 4.
    pub first: Vec<EventRecord>,
    /// The last events in the log that are not among the first, at most 4.
    pub last: VecDeque<EventRecord>,
    /// Rows between the two.
    pub between: u64,
}

impl EventSummary {
    /// Adds the next event of the log.
    pub(super) fn add(&mut self, event: EventRecord) {
        let count = self.counts.entry(event.kind).or_default();
        *count = count.saturating_add(event.count);
        if self.first.len() < KEPT {
            return self.first.push(event);
        }
        self.last.push_back(event);
        if self.last.len() > KEPT {
            self.last.pop_front();
            self.between += 1;
        }
    }
}
