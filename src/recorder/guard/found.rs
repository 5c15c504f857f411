//! An event inside the recorder: what becomes a [`GuardEvent`] for the caller, and rows in the log.

use super::committed::GuardEvent;
use gradlog_format::log::{EventAction, EventKind};

/// Examples that an event names.
pub(in crate::recorder) const NAMED: usize = 8;

/// An example that an event names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::recorder) struct FoundExample {
    pub id: u64,
    pub value: f32,
    pub layer: Option<u32>,
}

/// Something that was noticed in one pass.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::recorder) struct Found {
    pub kind: EventKind,
    pub step: u64,
    pub epoch: u32,
    /// At most [`NAMED`].
    pub examples: Vec<FoundExample>,
    /// How many more examples, or events, there are.
    pub more: u64,
    /// The greatest value of all examples, those that are not named among them.
    pub value: f32,
    pub limit: f32,
    pub reference: f32,
    pub layer: Option<u32>,
    pub action: EventAction,
}

impl Found {
    /// An event without examples yet.
    pub(in crate::recorder) fn new(kind: EventKind, (step, epoch): (u64, u32)) -> Self {
        let (value, limit, reference) = (f32::NAN, f32::NAN, f32::NAN);
        let (examples, more, layer, action) = (Vec::new(), 0, None, EventAction::WentOn);
        Self { kind, step, epoch, examples, more, value, limit, reference, layer, action }
    }

    /// Adds an example. The layer of the event is that of the greatest value.
    pub(in crate::recorder) fn add(&mut self, example: FoundExample) {
        let is_first = self.examples.is_empty() && self.more == 0;
        if is_first || example.value > self.value {
            (self.value, self.layer) = (example.value, example.layer);
        }
        match self.examples.len() < NAMED {
            true => self.examples.push(example),
            false => self.more += 1,
        }
    }

    /// How many events its rows count.
    pub(in crate::recorder) fn count(&self) -> u64 {
        (self.examples.len() as u64 + self.more).max(1)
    }

    /// Makes this event a count of others of its kind, without examples.
    fn take_count(&mut self, other: &Found) {
        if self.step > other.step {
            (self.step, self.epoch) = (other.step, other.epoch);
        }
        self.more = self.count().saturating_add(other.count());
        self.examples.clear();
        self.layer = None;
    }

    /// The event for the caller. `name` gives the name of a layer.
    pub(in crate::recorder) fn to_event<'a>(&self, name: impl Fn(usize) -> Option<&'a str>) -> GuardEvent {
        GuardEvent {
            step: self.step,
            epoch: self.epoch,
            kind: self.kind,
            examples: self.examples.iter().map(|example| example.id).collect(),
            more: self.more,
            layer: self.layer.and_then(|number| name(number as usize)).map(str::to_owned),
            value: f64::from(self.value),
            limit: f64::from(self.limit),
            reference: f64::from(self.reference),
            action: self.action,
        }
    }
}

/// Adds an event to a list of at most `limit` events. Beyond that the last entry of its kind counts it, so the list has
/// at most one entry more for each kind.
pub(super) fn push_bounded(list: &mut Vec<Found>, limit: usize, found: Found) {
    if list.len() < limit {
        return list.push(found);
    }
    match list.iter_mut().skip(limit).find(|other| other.kind == found.kind) {
        Some(counting) => counting.take_count(&found),
        None => {
            let counted = Found { more: found.count(), examples: Vec::new(), layer: None, ..found };
            list.push(counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: EventKind, step: u64, examples: u64) -> Found {
        let mut found = Found::new(kind, (step, 0));
        (0..examples).for_each(|id| found.add(FoundExample { id, value: id as f32, layer: Some(id as u32) }));
        found
    }

    #[test]
    fn an_event_names_eight_and_counts_the_rest() {
        let event = found(EventKind::LargeGradient, 3, 20);
        assert_eq!((event.examples.len(), event.more, event.count()), (8, 12, 20));
        assert_eq!((event.value, event.layer), (19.0, Some(19)), "of the greatest, which is not named");
        assert_eq!(found(EventKind::Divergence, 3, 0).count(), 1);
    }

    #[test]
    fn a_full_list_counts() {
        let mut list = Vec::new();
        let kinds = [EventKind::LargeGradient, EventKind::Divergence];
        for step in 0..100 {
            push_bounded(&mut list, 4, found(kinds[step as usize % 2], step, u64::from(step % 2 == 0) * 10));
        }
        assert_eq!(list.len(), 6);
        assert_eq!(list.iter().map(Found::count).sum::<u64>(), 50 * 10 + 50);
        assert!(list[4..].iter().all(|rest| rest.examples.is_empty()));
        assert_eq!((list[4].step, list[4].more), (4, 480), "from the first that is not listed");
    }
}
