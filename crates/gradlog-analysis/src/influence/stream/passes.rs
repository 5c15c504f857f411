//! Answers, pass by pass: the visits of a run streamed by a plan.

use super::block_visits::Lent;
use super::strongest::Strongest;
use super::sums::Sums;
use crate::influence::answer::Influence;
use crate::influence::plan::{InfluencePlan, Pass};
use crate::influence::question::Question;
use crate::rows::driver::Progress;
use crate::AnalysisError;
use gradlog_format::run::{Block, Damage, Run};

/// TracIn of every training example on the probes of `question`.
///
/// # Errors
/// [`AnalysisError::NoSuchSet`] or [`AnalysisError::NoSuchProbe`], with what there is; [`AnalysisError::Missing`] if the
/// visits hold no gradients; [`AnalysisError::NoProbeGradient`] if the probes hold none; [`AnalysisError::OtherLayers`] if
/// the two have none in common; [`AnalysisError::Read`] if the file system refuses. Damage is not an error, unless what was
/// asked for is missing in front of it ([`AnalysisError::Cut`]).
///
/// # Cost
/// One pass over the visits for each few thousand probes, `visits × probes × (numbers of a sketch)` multiplications, of
/// integers where both sides are stored as integers. Memory: 8 bytes for each pair of an example and a probe, at most
/// [`InfluencePlan::PROBE_BYTES_MAX`] of unpacked probes, and a few blocks. For more pairs than fit in memory take the passes
/// of an [`InfluencePlan`] one by one, or only their [strongest](InfluencePlan::strongest).
pub fn influence(run: &Run, question: &Question) -> Result<Influence, AnalysisError> {
    let progress: Progress<'_> = &|_| {};
    let plan = InfluencePlan::new(run, question, progress)?;
    let mut whole = plan.pass(0, progress)?;
    for number in 1..plan.passes() {
        whole.merge(plan.pass(number, progress)?);
    }
    Ok(whole)
}

impl InfluencePlan<'_> {
    /// The scores of the probes of one pass. `progress` gets the bytes of one pass over the run.
    ///
    /// # Errors
    /// As [`influence`](crate::influence()).
    ///
    /// # Panics
    /// If `number` is not below [`InfluencePlan::passes`].
    pub fn pass(&self, number: usize, progress: Progress<'_>) -> Result<Influence, AnalysisError> {
        let mut whole: Option<Influence> = None;
        for pass in self.passes_of(number) {
            let mut sums = Sums::new(self, pass, None);
            let damage = self.add_visits(pass, &mut sums, progress)?;
            let part = sums.finish(self, damage)?;
            match &mut whole {
                Some(whole) => whole.add_to_group(part),
                None => whole = Some(part),
            }
        }
        // There is a probe, or there would be no plan.
        Ok(whole.unwrap_or_else(|| Influence::new(self.question.set.clone(), self.question.time)))
    }

    /// The `count` strongest proponents and the `count` strongest opponents of each probe of one pass, without ever
    /// holding the whole matrix: an example's scores are given up when its last visit has been added.
    ///
    /// # Errors
    /// As [`influence`](crate::influence()).
    ///
    /// # Panics
    /// If `number` is not below [`InfluencePlan::passes`], or `count` is 0.
    pub fn strongest(&self, number: usize, count: usize, progress: Progress<'_>) -> Result<Strongest, AnalysisError> {
        assert!(count > 0, "no strongest was asked for");
        if self.question.group {
            // One column is held whole: its passes must all be added up before any is ranked.
            return Ok(Strongest::rank_column(self.pass(number, progress)?, count));
        }
        let pass = &self.passes[number];
        let mut sums = Sums::new(self, pass, Some(count));
        let damage = self.add_visits(pass, &mut sums, progress)?;
        sums.finish_strongest(self, damage)
    }

    /// Adds all visit blocks to `sums`; says where the run stopped being readable.
    fn add_visits(
        &self,
        pass: &Pass,
        sums: &mut Sums<'_>,
        progress: Progress<'_>,
    ) -> Result<Option<Damage>, AnalysisError> {
        let read = |lent: &Lent, block: &Block| self.read_visits(pass, lent, block);
        let read_to = self.fold_visits(pass, progress, read, |lent, blocks| {
            sums.add(lent, blocks);
            Ok(())
        })?;
        Ok(read_to.0)
    }
}
