//! Walking the visits of a run backwards, step by step.

use crate::rows::driver::blocks_in_flight;
use crate::rows::gradient::Gradients;
use crate::vectors::flatten::Flat;
use crate::vectors::walk::{Rows, Visit, VisitDetail, Walk, Walked, TILE_ROWS};
use crate::AnalysisError;
use crate::Progress;
use gradlog_format::run::{Block, ReadError};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// A block whose rows are being handed over, from the last to the first.
struct Open<'a, D> {
    block: &'a Block,
    rows: Rows<D>,
    /// `None` if no row can be used.
    gradients: Option<Gradients>,
    /// Rows from here on have been handed over.
    end: usize,
}

/// The blocks of one recorder: of a run, or of one of several workers.
struct Part<'a, D> {
    /// Blocks that have not been read, in the order of the part.
    blocks: Vec<&'a Block>,
    /// Blocks that have been read, the last of the part last.
    open: Vec<Open<'a, D>>,
    /// The step of the rows that were handed over last.
    later: u64,
}

impl<D: VisitDetail> Part<'_, D> {
    /// The last step that has not been handed over, once some of it is read.
    fn step(&self) -> Option<u64> {
        let open = self.open.last()?;
        Some(open.rows.visits.get(open.end.checked_sub(1)?)?.step)
    }

    /// Reads the last blocks that have not been read, if nothing is left of those that have.
    fn fill(
        &mut self,
        walk: &Walk<'_>,
        walked: &mut Walked,
        at_once: usize,
        progress: &Progress,
    ) -> Result<(), AnalysisError> {
        loop {
            while self.open.last().is_some_and(|open| open.end == 0) {
                self.open.pop();
            }
            if !self.open.is_empty() || self.blocks.is_empty() {
                return Ok(());
            }
            let group = self.blocks.split_off(self.blocks.len().saturating_sub(at_once));
            let read_one = |block: &&_| -> Result<_, AnalysisError> {
                let block: &Block = block;
                let rows = walk.read::<D>(block)?;
                let is_read = !rows.visits.is_empty();
                let gradients = is_read.then(|| Gradients::read(block, &walk.flattener.layout)).transpose()?;
                progress.report(block.bytes());
                Ok((rows, gradients))
            };
            let read: Vec<Result<_, AnalysisError>> = group.par_iter().map(read_one).collect();
            for (read, block) in read.into_iter().zip(group) {
                let (rows, gradients) = read?;
                walked.left_out.add(&rows.left_out);
                let end = rows.visits.len();
                self.open.push(Open { block, rows, gradients, end });
            }
        }
    }

    /// Hands over the rows of the last step, as far as they are in the last block.
    fn hand_over(
        &mut self,
        walk: &Walk<'_>,
        walked: &mut Walked,
        each: &mut impl FnMut(&[Visit], &[D], &Flat) -> Result<(), AnalysisError>,
    ) -> Result<(), AnalysisError> {
        let (Some(step), Some(open)) = (self.step(), self.open.last_mut()) else { return Ok(()) };
        if step > self.later {
            return Err(unordered_error(open.block, step, self.later).into());
        }
        self.later = step;
        let visits = &open.rows.visits[..open.end];
        let first = visits.iter().rposition(|visit| visit.step != step).map_or(0, |before| before + 1);
        let usable: Vec<usize> = (first..open.end).filter(|row| open.rows.visits[*row].usable).collect();
        open.end = first;
        let Some(gradients) = &open.gradients else { return Ok(()) };
        for tile in usable.chunks(TILE_ROWS) {
            let (visits, details) = open.rows.select(tile);
            walked.visits += visits.iter().filter(|visit| visit.inside).count() as u64;
            each(&visits, &details, &walk.flattener.flatten(gradients, tile))?;
        }
        Ok(())
    }
}

impl Walk<'_> {
    /// Hands over all usable visits, inside the window or not, from the last step to the first: tiles of one step each.
    /// In a run of several workers, those of all workers come before those of the step before.
    ///
    /// `blocks` are visit blocks in the order of the run, all of which are known to be sound. Counts only what lies
    /// inside the window.
    ///
    /// # Errors
    /// What `each` says; [`AnalysisError::Read`] if the file system refuses, if a block has changed since, or if the
    /// steps are not in order.
    pub(super) fn walk_backwards<D: VisitDetail + Sync>(
        &self,
        blocks: &[Block],
        progress: &Progress,
        mut each: impl FnMut(&[Visit], &[D], &Flat) -> Result<(), AnalysisError>,
    ) -> Result<Walked, AnalysisError> {
        let mut walked = Walked { damage: self.before.cloned(), ..Walked::default() };
        let mut parts: BTreeMap<Option<u32>, Part<'_, D>> = BTreeMap::new();
        for block in blocks {
            let fresh = || Part { blocks: Vec::new(), open: Vec::new(), later: u64::MAX };
            parts.entry(block.worker()).or_insert_with(fresh).blocks.push(block);
        }
        let at_once = (blocks_in_flight() / parts.len().max(1)).max(1);
        loop {
            for part in parts.values_mut() {
                part.fill(self, &mut walked, at_once, progress)?;
            }
            let Some(step) = parts.values().filter_map(Part::step).max() else { return Ok(walked) };
            for part in parts.values_mut().filter(|part| part.step() == Some(step)) {
                part.hand_over(self, &mut walked, &mut each)?;
            }
        }
    }
}

fn unordered_error(block: &Block, step: u64, later: u64) -> ReadError {
    block.damaged(format!(
        "a visit of step {step} stands before one of step {later}, so steps cannot be walked backwards"
    ))
}
