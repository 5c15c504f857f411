//! Answers, pass by pass: the visits of a run streamed by a plan.

use super::block_visits::Lent;
use super::strongest::Strongest;
use super::sums::Sums;
use crate::influence::answer::Influence;
use crate::influence::plan::{InfluencePlan, Pass};
use crate::influence::question::InfluenceQuestion;
use crate::AnalysisError;
use gradlog_format::run::{Block, Damage, Run};

impl InfluenceQuestion {
    /// The influence of every training example on the probes, all passes in one.
    ///
    /// # Errors
    /// [`AnalysisError::NoSuchSet`] or [`AnalysisError::NoSuchProbe`], with what there is; [`AnalysisError::Missing`]
    /// if the visits hold no gradients; [`AnalysisError::NoProbeGradient`] if the probes hold none;
    /// [`AnalysisError::OtherLayers`] if the two have none in common; [`AnalysisError::NoSuchLayer`];
    /// [`AnalysisError::NoVisits`] for a run without any, [`AnalysisError::OutsideRun`] for a window without visits,
    /// [`AnalysisError::NoSuchSweep`] for one without sweeps; [`AnalysisError::Read`] if the file system refuses.
    /// Damage is not an error, unless what was asked for is missing in front of it ([`AnalysisError::Cut`]).
    ///
    /// # Cost
    /// One pass over the visits for each few thousand probes, `visits × probes × (numbers of a sketch)`
    /// multiplications, of integers where both sides are stored as integers. Memory: 8 bytes for each pair of an
    /// example and a probe, at most [`InfluencePlan::PROBE_BYTES_MAX`] of unpacked probes, and a few blocks. For
    /// more pairs than fit in memory take the passes of a [plan](Self::plan) one by one, or only their
    /// [strongest](InfluencePlan::strongest).
    pub fn compute(&self, run: &Run) -> Result<Influence, AnalysisError> {
        self.plan(run)?.whole()
    }

    /// Finds the probes in the run and plans the passes. It reads the run once or twice.
    ///
    /// # Errors
    /// As [`compute`](Self::compute), but for those that only the visits can show.
    pub fn plan<'run>(&self, run: &'run Run) -> Result<InfluencePlan<'run>, AnalysisError> {
        self.window.refuse_beside(&[run])?;
        let plan = InfluencePlan::new(run, &Self { window: self.window.with_share(self.share), ..self.clone() })?;
        // An unknown probe set is the better answer where both are wrong.
        self.window.refuse_no_visits(&[run])?;
        Ok(plan)
    }
}

impl InfluencePlan<'_> {
    /// All passes in one. Memory: 8 bytes for each example and probe.
    ///
    /// # Errors
    /// As [`InfluenceQuestion::compute`](crate::InfluenceQuestion::compute).
    pub fn whole(&self) -> Result<Influence, AnalysisError> {
        let mut whole = self.pass(0)?;
        for number in 1..self.passes() {
            whole.merge(self.pass(number)?);
        }
        Ok(whole)
    }

    /// The scores of the probes of one pass. It reads the run once.
    ///
    /// # Errors
    /// As [`InfluenceQuestion::compute`](crate::InfluenceQuestion::compute); [`AnalysisError::OutOfRange`] if `number`
    /// is not below [`InfluencePlan::passes`].
    pub fn pass(&self, number: usize) -> Result<Influence, AnalysisError> {
        let mut whole: Option<Influence> = None;
        for pass in self.answer_passes(number)? {
            let mut sums = Sums::new(self, pass, None);
            let damage = self.add_visits(pass, &mut sums)?;
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
    /// As [`InfluenceQuestion::compute`](crate::InfluenceQuestion::compute); [`AnalysisError::OutOfRange`] if `number`
    /// is not below [`InfluencePlan::passes`], or `count` is 0.
    pub fn strongest(&self, number: usize, count: usize) -> Result<Strongest, AnalysisError> {
        if count == 0 {
            let (what, range) = ("the number of strongest examples", "at least 1".into());
            return Err(AnalysisError::OutOfRange { what, given: "0".into(), range });
        }
        if self.question.group {
            // One column is held whole: its passes must all be added up before any is ranked.
            return Ok(Strongest::rank_column(self.pass(number)?, count));
        }
        let pass = self.passes.get(number).ok_or_else(|| AnalysisError::no_such_pass(number, self.passes()))?;
        let mut sums = Sums::new(self, pass, Some(count));
        let damage = self.add_visits(pass, &mut sums)?;
        sums.finish_strongest(self, damage)
    }

    /// Adds all visit blocks to `sums`; says where the run stopped being readable.
    fn add_visits(&self, pass: &Pass, sums: &mut Sums<'_>) -> Result<Option<Damage>, AnalysisError> {
        let read = |lent: &Lent, block: &Block| self.read_visits(pass, lent, block);
        let read_to = self.fold_visits(pass, read, |lent, blocks| {
            sums.add(lent, blocks);
            Ok(())
        })?;
        Ok(read_to.0)
    }
}
