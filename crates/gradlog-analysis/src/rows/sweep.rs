//! Sweeps: examples that a replay took through the model at checkpoints, after the training.
//!
//! Owns what a result on sweeps is made of: which checkpoints, in which mode, and which rows count. An example counts
//! once at a checkpoint, however often it was replayed there: the last record counts, as with probes. Sweeps are never
//! mixed with visits: a [`Window`] is on the one or on the other.

use super::basis::BasisRows;
use super::inside::Inside;
use super::left_out::LeftOut;
use super::window::Window;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column, Mode};
use gradlog_format::run::{Block, ReadError, Run};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Whether the sweep at step 0, of weights before any training, counts among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Untrained {
    /// It counts as each other does.
    Counts,
    /// It joins a sum only if the window names steps that hold 0, or if there is no other.
    JoinsIfNamed,
}

/// The modes of the rows of a block, `None` for one that a newer version added.
pub(crate) fn modes(block: &Block) -> Result<BTreeSet<Option<Mode>>, ReadError> {
    let codes = column::optional(block, Column::Mode, column::u8s)?.unwrap_or_default();
    Ok(codes.into_iter().map(Mode::from_code).collect())
}

/// The sweeps inside a window.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    rows: BasisRows,
    /// Rows inside the window that a later row of the same example and checkpoint replaces.
    replaced: u64,
    /// Rows of the sweep at step 0 that do not join a sum.
    untrained: u64,
    /// Of blocks with rows that do not count, which do, by the block's identity.
    counting: HashMap<(Option<u32>, u64), Vec<bool>>,
}

/// What one block has.
struct Swept {
    identity: (Option<u32>, u64),
    /// Example and step.
    rows: Vec<(u64, u64)>,
    modes: BTreeSet<Option<Mode>>,
}

impl Swept {
    fn read(block: &Block) -> Result<Self, ReadError> {
        let (examples, steps) = (column::u64s(block, Column::Example)?, column::u64s(block, Column::Step)?);
        Ok(Self { identity: block.identity(), rows: examples.into_iter().zip(steps).collect(), modes: modes(block)? })
    }
}

impl Sweeps {
    /// Finds the sweeps inside `window`, or nothing if that is on visits.
    ///
    /// # Errors
    /// [`AnalysisError::NoSuchSweep`] if there are none, with the checkpoints at which there are.
    ///
    /// # Cost
    /// About 40 bytes for each pair of an example and a checkpoint, while it looks for repetitions.
    pub(crate) fn find(run: &Run, window: &Window, untrained: Untrained) -> Result<Self, AnalysisError> {
        if !window.is_on_sweeps() {
            return Ok(Self::default());
        }
        let mut known: BTreeSet<u64> = BTreeSet::new();
        let mut blocks: Vec<Swept> = Vec::new();
        let (mut steps, mut seen_modes): (BTreeSet<u64>, BTreeSet<Mode>) = Default::default();
        let mut scan = run.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Sweeps)) {
            let (swept, inside) = match Swept::read(&block).and_then(|swept| Ok((swept, window.all_inside(&block)?))) {
                Ok(read) => read,
                // The pass over the rows comes to the same place and says so.
                Err(ReadError::Damaged(_)) => break,
                Err(other) => return Err(other.into()),
            };
            known.extend(swept.rows.iter().map(|(_, step)| *step));
            if inside.is_empty() {
                continue;
            }
            steps.extend(swept.rows.iter().map(|(_, step)| *step).filter(|step| window.has_step(*step)));
            seen_modes.extend(swept.modes.iter().flatten());
            blocks.push(swept);
        }
        if steps.is_empty() {
            let error = AnalysisError::NoSuchSweep { known: known.into_iter().collect() };
            return Err(match scan.damage()?.cloned() {
                Some(damage) => AnalysisError::Cut { source: Box::new(error), damage },
                None => error,
            });
        }
        let names_steps = window.steps.is_some();
        let without_0 = untrained == Untrained::JoinsIfNamed && !names_steps && steps.len() > 1 && steps.remove(&0);
        let mut counting = HashMap::new();
        let (mut replaced, mut not_joined) = (0u64, 0u64);
        let mut taken: BTreeMap<u64, HashSet<u64>> = BTreeMap::new();
        // The last row counts. Of several workers, it is the last of the highest rank.
        blocks.sort_by_key(|block| block.identity.0);
        for block in blocks.iter().rev() {
            let mut counts = vec![true; block.rows.len()];
            // From the last row to the first: the one that comes first here counts.
            let rows = counts.iter_mut().zip(&block.rows).rev();
            // Which checkpoints there are does not depend on the share of the examples.
            for (counts, (example, step)) in rows.filter(|(_, (example, _))| window.has_example(*example)) {
                *counts = taken.entry(*step).or_default().insert(*example);
                replaced += u64::from(!*counts && window.has_step(*step));
                if without_0 && *step == 0 {
                    not_joined += u64::from(std::mem::take(counts));
                }
            }
            if counts.contains(&false) {
                counting.insert(block.identity, counts);
            }
        }
        let rows = BasisRows::Sweeps { steps: steps.into_iter().collect(), modes: seen_modes.into_iter().collect() };
        Ok(Self { rows, replaced, untrained: not_joined, counting })
    }

    /// The rows that a result is made of; visits, if the window is on these.
    pub(crate) fn rows(&self) -> BasisRows {
        self.rows.clone()
    }

    /// The rows that later ones replace, and those of the sweep at step 0 that do not join a sum.
    pub(crate) fn left_out(&self) -> LeftOut {
        LeftOut { replaced: self.replaced, untrained: self.untrained, ..LeftOut::default() }
    }

    /// Which rows of the block lie inside the window and are not replaced by a later one.
    pub(crate) fn rows_inside(&self, window: &Window, block: &Block) -> Result<Inside, ReadError> {
        let inside = window.rows_inside(block)?;
        Ok(match self.counting.get(&block.identity()) {
            None => inside,
            Some(counting) => inside.intersect(counting),
        })
    }
}
