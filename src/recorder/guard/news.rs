//! Events on their way to the caller.

use super::committed::{Committed, GuardEvent};

/// Events that wait for a commit.
const WAITING_MAX: usize = 64;

/// A bounded list of events that no commit has returned yet.
#[derive(Debug, Default)]
pub(in crate::recorder) struct News {
    events: Vec<GuardEvent>,
    untold: u64,
}

impl News {
    pub(in crate::recorder) fn push(&mut self, event: GuardEvent) {
        match self.events.len() < WAITING_MAX {
            true => self.events.push(event),
            false => self.untold = self.untold.saturating_add(1),
        }
    }

    /// What is new since the last call. Without news nothing is allocated.
    pub(in crate::recorder) fn take(&mut self) -> Committed {
        Committed { events: std::mem::take(&mut self.events), untold: std::mem::take(&mut self.untold) }
    }
}
