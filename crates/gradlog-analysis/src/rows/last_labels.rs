//! Labels and predictions at the last visits of examples.
//!
//! A score needs them once an example and a run holds them once a visit, so they are not read with the score: it notes
//! where each example was last seen, and here the blocks of these places are read again. Of many epochs that is the
//! last.

use crate::rows::driver::fold_each;
use crate::{rows::column, AnalysisError, Progress};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, ReadError, Run};
use std::collections::HashMap;

/// What tells a block from all others of a run.
pub(crate) type Identity = (Option<u32>, u64);

/// Blocks by numbers, in the order in which they were first asked for.
#[derive(Default)]
pub(crate) struct Blocks {
    numbers: HashMap<Identity, u32>,
    last: Option<(Identity, u32)>,
}

impl Blocks {
    pub(crate) fn number(&mut self, block: Identity) -> u32 {
        if let Some((_, number)) = self.last.filter(|(last, _)| *last == block) {
            return number;
        }
        let next = self.numbers.len() as u32;
        let number = *self.numbers.entry(block).or_insert(next);
        self.last = Some((block, number));
        number
    }
}

/// A row of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub block: u32,
    pub row: u32,
}

impl Place {
    pub(crate) const NONE: Self = Self { block: u32::MAX, row: 0 };
}

/// What a visit has; `None` where it was not recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub label: Option<u32>,
    pub prediction: Option<u32>,
}

/// Reads them at some places.
///
/// # Errors
/// [`AnalysisError::Read`], for damage too: the places were read before, so what is damaged lies before the end of the
/// run.
pub(crate) fn last_labels(run: &Run, blocks: &Blocks, places: &[Place]) -> Result<Vec<Labels>, AnalysisError> {
    // Positions of places, block by block.
    let mut order: Vec<u32> = (0..places.len() as u32).filter(|at| places[*at as usize] != Place::NONE).collect();
    order.sort_unstable_by_key(|at| places[*at as usize]);
    let places_in = |block: u32| {
        let first = order.partition_point(|at| places[*at as usize].block < block);
        let last = order.partition_point(|at| places[*at as usize].block <= block);
        &order[first..last]
    };
    let wanted = |block: &Block| blocks.numbers.get(&block.identity()).map_or(&[][..], |number| places_in(*number));
    let mut found = vec![Labels::default(); places.len()];
    let read_one = |block: &Block| -> Result<Vec<(usize, Labels)>, ReadError> {
        let labels = column::classes(block, Column::Label)?;
        let predictions = column::classes(block, Column::Prediction)?;
        let labels_at = |at: &u32| {
            let row = places[*at as usize].row as usize;
            let value = |column: &Option<Vec<Option<u32>>>| column.as_ref().and_then(|values| *values.get(row)?);
            (*at as usize, Labels { label: value(&labels), prediction: value(&predictions) })
        };
        Ok(wanted(block).iter().map(labels_at).collect())
    };
    // Damage behind the last of these blocks says nothing of them, so that of a block is handed on as a value.
    let read = |block: &Block| Ok(read_one(block));
    let fold = |read: Result<Vec<(usize, Labels)>, ReadError>| {
        read?.into_iter().for_each(|(at, labels)| found[at] = labels);
        Ok(())
    };
    let _ = fold_each(run, &Progress::default(), |block| !wanted(block).is_empty(), read, fold)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Score, ScoreQuestion};
    use gradlog_format::sketch::Encoding;
    use gradlog_testing::{Draws, Synthetic, Visit};

    /// Three epochs of four examples, a block each; the last two blocks hold one example each once more.
    fn blocks() -> Vec<Vec<Visit>> {
        let mut draws = Draws(5);
        let epoch = |epoch: u64, ids: &[u64], draws: &mut Draws| -> Vec<Visit> {
            ids.iter().map(|id| draws.visit(*id, epoch, epoch as u32)).collect()
        };
        [&[1, 2, 3, 4][..], &[4, 3, 2, 1], &[2, 4, 1, 3], &[3], &[1]]
            .into_iter()
            .zip(0..)
            .map(|(ids, number)| epoch(number, ids, &mut draws))
            .collect()
    }

    #[test]
    fn they_are_of_the_last_visit_that_has_any() {
        let mut run = Synthetic::new(Encoding::Q8);
        let blocks = blocks();
        for (number, block) in blocks.iter().enumerate() {
            run.without = if number >= 3 { vec![Column::Label, Column::Prediction] } else { Vec::new() };
            run.visits(block);
        }
        let written = run.finish();
        let table = ScoreQuestion::new(Score::Loss).compute(&written.run()).unwrap();
        for row in &table.rows {
            let last = blocks[2].iter().find(|visit| visit.example == row.example).unwrap();
            assert_eq!((row.label, row.prediction), (Some(last.label), Some(last.prediction)));
        }
        assert_eq!(table.rows.iter().map(|row| row.visits).sum::<u64>(), 14);
    }

    #[test]
    fn a_flipped_byte_anywhere_leaves_the_table_of_a_prefix_with_its_labels() {
        let blocks = blocks();
        let write = |count: usize| {
            let mut run = Synthetic::new(Encoding::Q8);
            blocks[..count].iter().for_each(|block| run.visits(block));
            run.finish()
        };
        // The rows, and whether damage is named; a run without visits is refused.
        let table = |written: &gradlog_testing::Written| match ScoreQuestion::new(Score::Loss).compute(&written.run()) {
            Ok(table) => (table.rows, table.damage.is_some()),
            Err(AnalysisError::NoVisits) => (Vec::new(), false),
            Err(AnalysisError::Cut { source, .. }) if matches!(*source, AnalysisError::NoVisits) => (Vec::new(), true),
            Err(other) => panic!("{other}"),
        };
        let prefixes: Vec<_> = (0..=blocks.len()).map(|count| table(&write(count)).0).collect();
        let offsets = write(blocks.len()).offsets;
        let mut cut_short = 0;
        for (block, place) in offsets.windows(2).enumerate() {
            for distance in (0..place[1] - place[0]).step_by(3) {
                let written = write(blocks.len());
                written.damage(block, distance);
                let (found, is_damaged) = table(&written);
                let prefix = prefixes.iter().position(|rows| *rows == found);
                let whole = prefix == Some(blocks.len());
                assert!(prefix == Some(block) || whole, "block {block}, byte {distance}: prefix {prefix:?}");
                assert!(whole || is_damaged, "block {block}, byte {distance}: nothing is said");
                cut_short += u32::from(prefix == Some(block));
            }
        }
        assert!(cut_short > 0);
    }
}
