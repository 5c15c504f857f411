//! What the model predicted at each visit, counted.

use super::Rival;
use crate::rows::driver::{fold_each, Progress};
use crate::scores::over_runs::most_voted;
use crate::{rows::column, AnalysisError, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Damage, Run};
use std::collections::{BTreeSet, HashMap};

/// Of each example, how many visits predicted each class.
#[derive(Default)]
pub(super) struct Votes {
    of: HashMap<u64, Vec<(u32, u64)>>,
}

/// One visit's id and prediction.
type Vote = (u64, u32);

fn read(block: &Block, window: &Window) -> Result<Vec<Vote>, AnalysisError> {
    let Some(predictions) = column::classes(block, Column::Prediction)? else { return Ok(Vec::new()) };
    let inside = window.rows(block)?;
    let examples = column::u64s(block, Column::Example)?;
    let flags = column::optional(block, Column::Flags, column::u8s)?;
    let positions = column::optional(block, Column::Positions, column::u32s)?;
    let counts = |row: usize| {
        inside.as_ref().is_none_or(|inside| inside[row])
            && flags.as_ref().is_none_or(|flags| flags[row] & Column::FLAG_NOT_FINITE == 0)
            // Of several predictions a visit, only one is in the log.
            && positions.as_ref().is_none_or(|positions| positions[row] <= 1)
    };
    let votes = examples.into_iter().zip(predictions).enumerate();
    Ok(votes.filter(|(row, _)| counts(*row)).filter_map(|(_, (id, class))| Some((id, class?))).collect())
}

impl Votes {
    /// Adds the visits of a run; returns where it stopped being readable.
    pub(super) fn read(
        &mut self,
        run: &Run,
        window: &Window,
        progress: Progress<'_>,
    ) -> Result<Option<Damage>, AnalysisError> {
        let keep = |block: &Block| block.kind() == Some(BlockKind::Visits) && window.touches(block);
        let fold = |votes: Vec<Vote>| {
            for (example, class) in votes {
                let counts = self.of.entry(example).or_default();
                match counts.iter_mut().find(|(known, _)| *known == class) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((class, 1)),
                }
            }
            Ok(())
        };
        Ok(fold_each(run, progress, keep, |block| read(block, window), fold)?.0)
    }

    pub(super) fn has(&self, example: u64) -> bool {
        self.of.contains_key(&example)
    }

    /// The class that most visits predicted; of several, the lowest.
    pub(super) fn majority(&self, example: u64) -> Option<u32> {
        most_voted(self.of.get(&example)?)
    }

    /// The class that most visits predicted among those that are not the label.
    pub(super) fn rival(&self, example: u64, label: u32) -> Option<Rival> {
        let votes = self.of.get(&example)?;
        let others: Vec<(u32, u64)> = votes.iter().filter(|(class, _)| *class != label).copied().collect();
        let rival = most_voted(&others)?;
        let visits = others.iter().filter(|(class, _)| *class == rival).map(|(_, count)| count).sum();
        Some(Rival { label: rival, visits, of: votes.iter().map(|(_, count)| count).sum() })
    }

    /// Every class that was ever predicted.
    pub(super) fn classes(&self) -> BTreeSet<u32> {
        self.of.values().flatten().map(|(class, _)| *class).collect()
    }
}
