//! What the model predicted at each visit, counted.

use super::list::Rival;
use crate::rows::driver::fold_each;
use crate::rows::reader::{RowReader, WantedGradient};
use crate::rows::rule::{Predictions, RowRule};
use crate::rows::sweep::Sweeps;
use crate::scores::over_runs::most_voted;
use crate::Progress;
use crate::{rows::column, AnalysisError, LeftOut, Window};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, Damage, Run};
use std::collections::{BTreeSet, HashMap};

/// A predicted class is no number that could be infinite, but there must be one of it.
const RULE: RowRule = RowRule { predictions: Predictions::OneOrLeftOut, ..RowRule::outputs(&[]) };

/// Of each example, how many visits predicted each class.
#[derive(Default)]
pub(super) struct Votes {
    by_example: HashMap<u64, Vec<(u32, u64)>>,
    left_out: LeftOut,
}

/// One visit's id and prediction.
type Vote = (u64, u32);

fn read(reader: &RowReader<'_>, block: &Block) -> Result<(Vec<Vote>, LeftOut), AnalysisError> {
    let mut left_out = LeftOut::default();
    let Some(predictions) = column::classes(block, Column::Prediction)? else { return Ok((Vec::new(), left_out)) };
    let examples = column::u64s(block, Column::Example)?;
    let rows = reader.read(block)?.counting(&mut left_out);
    let votes = rows.into_iter().filter_map(|row| Some((examples[row], predictions[row]?))).collect();
    Ok((votes, left_out))
}

impl Votes {
    /// Adds the visits of a run; returns where it stopped being readable.
    pub(super) fn read(
        &mut self,
        run: &Run,
        window: &Window,
        progress: &Progress,
    ) -> Result<Option<Damage>, AnalysisError> {
        let sweeps = Sweeps::default();
        let reader = RowReader { window, sweeps: &sweeps, rule: RULE, gradient: WantedGradient::None };
        let keep = |block: &Block| window.is_on(block) && window.touches(block);
        let fold = |(votes, left_out): (Vec<Vote>, LeftOut)| {
            self.left_out.add(&left_out);
            for (example, class) in votes {
                let counts = self.by_example.entry(example).or_default();
                match counts.iter_mut().find(|(known, _)| *known == class) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((class, 1)),
                }
            }
            Ok(())
        };
        Ok(fold_each(run, progress, keep, |block| read(&reader, block), fold)?.0)
    }

    /// Visits that have no vote, in all runs.
    pub(super) fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    pub(super) fn has(&self, example: u64) -> bool {
        self.by_example.contains_key(&example)
    }

    /// The class that most visits predicted; of several, the lowest.
    pub(super) fn majority(&self, example: u64) -> Option<u32> {
        most_voted(self.by_example.get(&example)?)
    }

    /// The class that most visits predicted among those that are not the label.
    pub(super) fn rival(&self, example: u64, label: u32) -> Option<Rival> {
        let votes = self.by_example.get(&example)?;
        let others: Vec<(u32, u64)> = votes.iter().filter(|(class, _)| *class != label).copied().collect();
        let rival = most_voted(&others)?;
        let visits = others.iter().filter(|(class, _)| *class == rival).map(|(_, count)| count).sum();
        Some(Rival { label: rival, visits, predicted_visits: votes.iter().map(|(_, count)| count).sum() })
    }

    /// Every class that was ever predicted.
    pub(super) fn classes(&self) -> BTreeSet<u32> {
        self.by_example.values().flatten().map(|(class, _)| *class).collect()
    }
}
