//! Events on their way into the log: a bounded number of rows of a kind, and a count of the rest.

use super::found::{push_bounded, Found};
use gradlog_format::log::{BlockBuilder, BlockKind, Cells, Column};
use std::collections::BTreeMap;

/// Rows of one kind that a session writes.
const ROWS_MAX: u64 = 1_000;

/// The rows that wait, and what was written.
pub(in crate::recorder) struct Ledger {
    rows: BlockBuilder,
    written: BTreeMap<u8, u64>,
    /// Events beyond the bound, one entry for each kind.
    rest: Vec<Found>,
}

impl Ledger {
    pub(in crate::recorder) fn new() -> Self {
        Self { rows: BlockBuilder::new(BlockKind::Events), written: BTreeMap::new(), rest: Vec::new() }
    }

    /// The rows that wait.
    pub(in crate::recorder) fn rows(&mut self) -> &mut BlockBuilder {
        &mut self.rows
    }

    /// Whether the rows that wait must be written before this event: the steps of a block never fall.
    pub(in crate::recorder) fn is_before_waiting(&self, found: &Found) -> bool {
        self.rows.steps().is_some_and(|(_, last)| found.step < last)
    }

    /// Adds an event. Beyond the bound it is counted.
    pub(in crate::recorder) fn add(&mut self, found: Found) {
        let rows = found.examples.len() as u64 + u64::from(found.more > 0 || found.examples.is_empty());
        let written = self.written.entry(found.kind.code()).or_default();
        if *written + rows > ROWS_MAX {
            return push_bounded(&mut self.rest, 0, found);
        }
        *written += rows;
        self.write(&found);
    }

    /// The counts of what was not written, as rows. They go into a block of their own, because their steps lie in the
    /// past.
    pub(in crate::recorder) fn take_rest(&mut self) -> Vec<BlockBuilder> {
        let rest = std::mem::take(&mut self.rest);
        let rows = |found: &Found| {
            let mut counted = Self::new();
            counted.write(found);
            counted.rows
        };
        rest.iter().map(rows).collect()
    }

    fn write(&mut self, found: &Found) {
        for example in &found.examples {
            self.row(found, example.id, example.layer, example.value, 1);
        }
        if found.more > 0 || found.examples.is_empty() {
            self.row(found, Column::NO_EXAMPLE, None, found.value, found.more.max(1));
        }
    }

    fn row(&mut self, found: &Found, example: u64, layer: Option<u32>, value: f32, count: u64) {
        let rows = &mut self.rows;
        rows.u64s(Column::Step, [found.step]);
        rows.u32s(Column::Epoch, [found.epoch]);
        rows.column(Column::EventKind, Cells::U8, 1).push(found.kind.code());
        rows.column(Column::EventAction, Cells::U8, 1).push(found.action.code());
        rows.u64s(Column::Example, [example]);
        rows.u32s(Column::Layer, [layer.unwrap_or(Column::NO_LAYER_NUMBER)]);
        rows.f32s(Column::Value, [value]);
        rows.f32s(Column::Limit, [found.limit]);
        rows.f32s(Column::Reference, [found.reference]);
        rows.u64s(Column::Count, [count]);
        rows.advance(1, found.step, found.epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::super::found::FoundExample;
    use super::*;
    use gradlog_format::log::EventKind;

    #[test]
    fn what_comes_before_the_waiting_rows_waits_for_a_block_of_its_own() {
        let mut ledger = Ledger::new();
        let found = |step| Found::new(EventKind::Divergence, (step, 0));
        assert!(!ledger.is_before_waiting(&found(0)));
        ledger.add(found(5));
        assert_eq!([4, 5, 6].map(|step| ledger.is_before_waiting(&found(step))), [true, false, false]);
    }

    #[test]
    fn a_kind_has_a_thousand_rows_and_a_count() {
        let mut ledger = Ledger::new();
        for step in 0..400 {
            let mut found = Found::new(EventKind::LargeGradient, (step, 0));
            (0..10).for_each(|id| found.add(FoundExample { id, value: 1.0, layer: None }));
            ledger.add(found);
        }
        ledger.add(Found::new(EventKind::Divergence, (400, 0)));
        // Nine rows for each event: 111 events of ten examples fit, and the divergence.
        assert_eq!(ledger.rows.rows(), 999 + 1);
        let rest = ledger.take_rest();
        assert_eq!((rest.len(), rest[0].rows(), rest[0].steps()), (1, 1, Some((111, 111))));
        assert!(ledger.take_rest().is_empty());
    }
}
