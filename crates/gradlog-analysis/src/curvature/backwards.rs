//! Walking the visits of a run backwards, step by step.

use crate::rows::driver::blocks_in_flight;
use crate::rows::gradient::Gradients;
use crate::vectors::flatten::Flat;
use crate::vectors::walk::{Rows, Visit, VisitDetail, Walk, Walked, TILE_ROWS};
use crate::AnalysisError;
use crate::Progress;
use gradlog_format::run::{Block, ReadError};
use rayon::prelude::*;

type ReadRows<D> = Result<(Rows<D>, Option<Gradients>), AnalysisError>;

impl Walk<'_> {
    /// Hands over all usable visits, inside the window or not, from the last step to the first: tiles of one step each.
    ///
    /// `blocks` are visit blocks in the order of the run, all of which are known to be sound. Counts only what lies
    /// inside the window.
    ///
    /// # Errors
    /// What `each` says; [`AnalysisError::Read`] if the file system refuses, if a block has changed since, or if the
    /// steps are not in order.
    pub(super) fn walk_backwards<D: VisitDetail>(
        &self,
        blocks: &[Block],
        progress: &Progress,
        mut each: impl FnMut(&[Visit], &[D], &Flat) -> Result<(), AnalysisError>,
    ) -> Result<Walked, AnalysisError> {
        let mut walked = Walked { damage: self.before.cloned(), ..Walked::default() };
        let mut later = u64::MAX;
        for group in blocks.rchunks(blocks_in_flight()) {
            let read_one = |block: &Block| -> ReadRows<D> {
                let rows = self.read::<D>(block)?;
                let is_read = !rows.visits.is_empty();
                let gradients = is_read.then(|| Gradients::read(block, &self.flattener.layout)).transpose()?;
                Ok((rows, gradients))
            };
            let read: Vec<ReadRows<D>> = group
                .par_iter()
                .map(|block| {
                    let rows = read_one(block);
                    progress.report(block.bytes());
                    rows
                })
                .collect();
            for (read, block) in read.into_iter().zip(group).rev() {
                let (rows, gradients) = read?;
                walked.left_out.add(&rows.left_out);
                let Some(gradients) = gradients else { continue };
                for stretch in rows.visits.chunk_by(|a, b| a.step == b.step).rev() {
                    if stretch[0].step > later {
                        return Err(unordered_error(block, stretch[0].step, later).into());
                    }
                    later = stretch[0].step;
                }
                let mut end = rows.visits.len();
                for stretch in rows.visits.chunk_by(|a, b| a.step == b.step).rev() {
                    let first = end - stretch.len();
                    end = first;
                    let usable: Vec<usize> =
                        (first..first + stretch.len()).filter(|row| rows.visits[*row].usable).collect();
                    for tile in usable.chunks(TILE_ROWS) {
                        let (visits, details) = rows.select(tile);
                        walked.visits += visits.iter().filter(|visit| visit.inside).count() as u64;
                        each(&visits, &details, &self.flattener.flatten(&gradients, tile))?;
                    }
                }
            }
        }
        Ok(walked)
    }
}

fn unordered_error(block: &Block, step: u64, later: u64) -> ReadError {
    block.damaged(format!(
        "a visit of step {step} stands before one of step {later}, so steps cannot be walked backwards"
    ))
}
