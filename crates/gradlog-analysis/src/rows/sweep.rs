//! Sweeps: examples that a replay took through the model at checkpoints, after the training.
//!
//! Owns what a result on sweeps is made of: which checkpoints, in which mode, and which rows count. An example counts
//! once at a checkpoint, however often it was replayed there: the last record counts, as with probes. Sweeps are never
//! mixed with visits: a [`Window`] is on the one or on the other.

use super::inside::Inside;
use super::left_out::LeftOut;
use super::window::Window;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column, Mode};
use gradlog_format::run::{Block, ReadError, Run};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What kind of rows a result is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Basis {
    /// Visits of the training: in training mode, at the weights just before each step.
    #[default]
    Visits,
    /// Sweeps of the examples at checkpoints.
    Sweeps {
        /// The steps before which the checkpoints were taken, ascending.
        steps: Vec<u64>,
        /// How the model ran. More than one if replays differed.
        modes: Vec<Mode>,
    },
}

impl Basis {
    /// Whether it is sweeps and not visits.
    pub fn is_sweeps(&self) -> bool {
        matches!(self, Basis::Sweeps { .. })
    }

    /// What the parts of a result are made of, such as several runs, each thing said once.
    pub fn describe_all<'a>(parts: impl IntoIterator<Item = &'a Basis>) -> String {
        let mut said: Vec<String> = Vec::new();
        for words in parts.into_iter().map(Basis::to_string) {
            if !said.contains(&words) {
                said.push(words);
            }
        }
        said.join("; ")
    }
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Basis::Sweeps { steps, modes, .. } = self else {
            return f.write_str("visits, training mode");
        };
        match steps.as_slice() {
            [] => f.write_str("no sweep")?,
            [step] => write!(f, "sweep at checkpoint step {step}")?,
            [first, .., last] => write!(f, "sweeps at {} checkpoints, steps {first} to {last}", steps.len())?,
        }
        match modes.as_slice() {
            [] => f.write_str(", in a mode that is not known"),
            [mode] => write!(f, ", {mode}"),
            _ => f.write_str(", partly in training and partly in evaluation mode"),
        }
    }
}

/// The modes of the rows of a block, `None` for one that a newer version added.
pub(crate) fn modes(block: &Block) -> Result<BTreeSet<Option<Mode>>, ReadError> {
    let codes = column::optional(block, Column::Mode, column::u8s)?.unwrap_or_default();
    Ok(codes.into_iter().map(Mode::from_code).collect())
}

/// The sweeps inside a window.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    basis: Basis,
    /// Rows inside the window that a later row of the same example and checkpoint replaces.
    replaced: u64,
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
    pub(crate) fn find(run: &Run, window: &Window) -> Result<Self, AnalysisError> {
        if !window.is_on_sweeps() {
            return Ok(Self::default());
        }
        let mut known: BTreeSet<u64> = BTreeSet::new();
        let mut blocks: Vec<Swept> = Vec::new();
        let (mut steps, mut seen_modes): (BTreeSet<u64>, BTreeSet<Mode>) = Default::default();
        let mut scan = run.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Sweeps)) {
            let (swept, inside) = match Swept::read(&block).and_then(|swept| Ok((swept, window.rows_inside(&block)?))) {
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
        let mut counting = HashMap::new();
        let mut replaced = 0u64;
        let mut taken: BTreeMap<u64, HashSet<u64>> = BTreeMap::new();
        // The last row counts. Of several workers, it is the last of the highest rank.
        blocks.sort_by_key(|block| block.identity.0);
        for block in blocks.iter().rev() {
            let mut counts = vec![true; block.rows.len()];
            // From the last row to the first: the one that comes first here counts.
            for (counts, (example, step)) in counts.iter_mut().zip(&block.rows).rev() {
                *counts = taken.entry(*step).or_default().insert(*example);
                replaced += u64::from(!*counts && window.has_step(*step));
            }
            if counts.contains(&false) {
                counting.insert(block.identity, counts);
            }
        }
        let basis = Basis::Sweeps { steps: steps.into_iter().collect(), modes: seen_modes.into_iter().collect() };
        Ok(Self { basis, replaced, counting })
    }

    /// What a result on these rows is made of.
    pub(crate) fn basis(&self) -> Basis {
        self.basis.clone()
    }

    /// The rows that later ones replace.
    pub(crate) fn left_out(&self) -> LeftOut {
        LeftOut { replaced: self.replaced, ..LeftOut::default() }
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
