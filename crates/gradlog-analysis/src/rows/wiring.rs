//! What the visits of a run say of how the loop is wired to the recorder: whether an id is the same example at each
//! visit, and whether epochs go forwards.

use super::driver::fold_each;
use crate::{rows::column, AnalysisError, Progress};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, ReadError, Run};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

/// Visits that an answer looks at. Ids that are positions in the batch come again in each step, so these are enough.
pub(crate) const VISITS_LOOKED_AT: u64 = 1 << 14;

/// What an answer says if labels change. `gradlog info` counts the examples: how many there are may be hidden by damage
/// that an answer without labels does not meet.
pub(crate) const SEVERAL_LABELS: &str =
    "some examples have several labels (are ids positions in the batch? An id must be the same example at each visit. If \
     labels were corrected during the training, the last one counts)";

/// Examples whose label is not the same at each visit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabelChanges {
    /// Examples that have a label.
    pub examples: u64,
    /// Of these, examples with several.
    pub several: u64,
}

impl fmt::Display for LabelChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { examples, several } = self;
        let have = if *several == 1 { "has" } else { "have" };
        write!(
            f,
            "{several} of {examples} examples {have} several labels (are ids positions in the batch? An id must be the \
             same example at each visit. If labels were corrected during the training, the last one counts)"
        )
    }
}

impl LabelChanges {
    /// Those of the first `limit` visits of a run or some more; `None` if no label changes.
    ///
    /// # Errors
    /// [`AnalysisError::Read`] if the file system refuses. Labels that are damaged are passed over: who reads them
    /// meets the damage.
    pub(crate) fn find(run: &Run, limit: u64) -> Result<Option<Self>, AnalysisError> {
        let mut labels: foldhash::HashMap<u64, (u32, bool)> = foldhash::HashMap::default();
        let left = Cell::new(limit);
        let keep = move |block: &Block| {
            let looked_at = block.kind() == Some(BlockKind::Visits) && left.get() > 0;
            if looked_at {
                left.set(left.get().saturating_sub(block.rows() as u64));
            }
            looked_at
        };
        let read = |block: &Block| {
            let read = || Ok((column::u64s(block, Column::Example)?, column::classes(block, Column::Label)?));
            match read() {
                Err(ReadError::Damaged(_)) => Ok((Vec::new(), None)),
                other => Ok(other?),
            }
        };
        let fold = |(examples, found): (Vec<u64>, Option<Vec<Option<u32>>>)| {
            for (example, label) in examples.into_iter().zip(found.unwrap_or_default()) {
                let Some(label) = label else { continue };
                let entry = labels.entry(example).or_insert((label, false));
                entry.1 |= entry.0 != label;
            }
            Ok(())
        };
        let _ = fold_each(run, &Progress::default(), keep, read, fold)?;
        let several = labels.values().filter(|(_, several)| *several).count() as u64;
        Ok((several > 0).then_some(Self { examples: labels.len() as u64, several }))
    }
}

/// Where a later step has a smaller epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct EpochsBack {
    /// The first such step.
    pub step: u64,
    /// The epoch before it.
    pub from: u32,
    /// Its own.
    pub to: u32,
}

impl fmt::Display for EpochsBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, from, to } = self;
        write!(
            f,
            "epochs go backwards at step {step}, from {from} to {to} (two parts of the training have the same epochs: \
             choose by steps, and call `Recorder::set_epoch` after a resumption)"
        )
    }
}

impl EpochsBack {
    /// The first place of the visits where epochs go backwards.
    ///
    /// # Errors
    /// As [`LabelChanges::find`].
    ///
    /// # Cost
    /// The headers of all blocks, and two columns of those that have several epochs.
    pub(crate) fn find(run: &Run) -> Result<Option<Self>, AnalysisError> {
        if let Some(buckets) = run.buckets() {
            return Ok(buckets.facts.epochs_back.map(|(step, from, to)| Self { step, from, to }));
        }
        // Of each worker, the largest epoch and its last step.
        let mut largest: BTreeMap<Option<u32>, (u32, u64)> = BTreeMap::new();
        for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Visits)) {
            let (least, most) = block.epochs();
            let (before, _) = *largest.entry(block.worker()).or_insert((least, 0));
            if least == most && least >= before {
                largest.insert(block.worker(), (most, block.steps().1));
                continue;
            }
            let read = |block: &Block| -> Result<_, ReadError> {
                let epochs = column::optional(block, Column::Epoch, column::u32s)?.unwrap_or_default();
                Ok((column::u64s(block, Column::Step)?, epochs))
            };
            let (steps, epochs) = match read(&block) {
                Ok(columns) => columns,
                Err(ReadError::Damaged(_)) => break,
                Err(other) => return Err(other.into()),
            };
            for (step, epoch) in steps.into_iter().zip(epochs) {
                let (from, last) = largest.get(&block.worker()).copied().unwrap_or((epoch, step));
                if epoch < from && step > last {
                    return Ok(Some(Self { step, from, to: epoch }));
                }
                if epoch >= from {
                    largest.insert(block.worker(), (epoch, step));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Score, ScoreQuestion, SummaryQuestion, SuspectQuestion};
    use gradlog_testing::{run_of, Draws, Visit};

    /// Six epochs of 12 examples in batches of 4, under the ids that `id` gives: of an example and its place.
    fn visits(id: impl Fn(u64, u64) -> u64) -> Vec<Visit> {
        let mut draws = Draws(3);
        let mut all = Vec::new();
        for epoch in 0..6u64 {
            for at in 0..12u64 {
                let example = (at * 5 + epoch) % 12;
                let visit = draws.visit(id(example, at % 4), epoch * 3 + at / 4, epoch as u32);
                all.push(Visit { label: (example % 3) as u32, ..visit });
            }
        }
        all
    }

    #[test]
    fn positions_in_the_batch_are_told_by_their_labels() {
        let run = run_of(&visits(|_, place| 50 + place), 7).run();
        let summary = SummaryQuestion::new().compute(&run).unwrap();
        let found = summary.label_changes.unwrap();
        assert_eq!((found.several, found.examples), (4, 4));
        assert!(found.to_string().starts_with("4 of 4 examples have several labels (are ids positions in the batch?"));
        let table = ScoreQuestion::new(Score::Loss).compute(&run).unwrap();
        assert!(table.basis.to_string().contains(SEVERAL_LABELS), "{}", table.basis);
        let suspects = SuspectQuestion::new().compute(&run).unwrap();
        assert!(suspects.bases[0].to_string().contains(SEVERAL_LABELS), "{}", suspects.bases[0]);

        let run = run_of(&visits(|example, _| example), 7).run();
        assert_eq!(SummaryQuestion::new().compute(&run).unwrap().label_changes, None);
        assert!(!ScoreQuestion::new(Score::Loss).compute(&run).unwrap().basis.to_string().contains("labels"));
        // One label that was corrected.
        let mut all = visits(|example, _| example);
        all.iter_mut().filter(|visit| visit.example == 7 && visit.epoch > 2).for_each(|visit| visit.label = 9);
        let found = LabelChanges::find(&run_of(&all, 7).run(), u64::MAX).unwrap().unwrap();
        assert_eq!((found.several, found.examples), (1, 12));
        assert!(found.to_string().starts_with("1 of 12 examples has several labels"), "{found}");
        // The first epoch alone.
        assert_eq!(LabelChanges::find(&run_of(&all, 7).run(), 12).unwrap(), None);
    }

    #[test]
    fn epochs_that_start_again_are_told() {
        let mut all = visits(|example, _| example);
        for rows in [1, 7, 12, 100] {
            assert_eq!(EpochsBack::find(&run_of(&all, rows).run()).unwrap(), None);
        }
        // Resumed at step 9, from epoch 0.
        all.iter_mut().filter(|visit| visit.step >= 9).for_each(|visit| visit.epoch -= 3);
        for rows in [1, 7, 12, 100] {
            let run = run_of(&all, rows).run();
            let found = EpochsBack::find(&run).unwrap();
            assert_eq!(found, Some(EpochsBack { step: 9, from: 2, to: 0 }), "{rows}");
            assert_eq!(SummaryQuestion::new().compute(&run).unwrap().epochs_back, found);
            let table = ScoreQuestion::new(Score::Loss).epochs(1..2).compute(&run).unwrap();
            let said = table.basis.to_string();
            assert!(said.contains("epochs go backwards at step 9, from 2 to 0"), "{said}");
        }
    }
}
