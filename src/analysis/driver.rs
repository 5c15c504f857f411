//! The one loop under every score: blocks are decoded in parallel and folded in the order of the file.
//!
//! Invariants: at most [`blocks_in_flight`] decoded blocks are held at a time, and of large ones fewer; what is folded is a
//! prefix of the chosen blocks; the order of folding does not depend on the number of threads.

use super::AnalysisError;
use crate::run::{Block, Damage, ReadError, Run};
use rayon::prelude::*;

/// Is called with the bytes of each block that has been dealt with, read or skipped. The bytes of one pass over a run
/// add up to the bytes of its blocks.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// How many blocks are decoded at a time. A few per thread even out blocks of different length.
pub(super) fn blocks_in_flight() -> usize {
    4 * rayon::current_num_threads()
}

/// A group of blocks is closed when it says that it inflates to this much: a few kilobytes of a file can say 2^28 for every
/// column, and honest blocks have some megabytes. A block that says more is decoded alone.
const GROUP_BYTES_MAX: u64 = 512 << 20;

/// Folds the blocks that `keep` keeps.
///
/// For each group of blocks, `prepare` is called once and its result is lent to `read`, which runs in parallel on the
/// blocks of the group; `fold` then takes what was read, in order. Returns where the run stopped being readable, if it did.
pub(super) fn fold_blocks<C: Sync, T: Send>(
    run: &Run,
    progress: Progress<'_>,
    keep: impl Fn(&Block) -> bool,
    mut prepare: impl FnMut(&[Block]) -> Result<C, AnalysisError>,
    read: impl Fn(&C, &Block) -> Result<T, AnalysisError> + Sync,
    mut fold: impl FnMut(T) -> Result<(), AnalysisError>,
) -> Result<Option<Damage>, AnalysisError> {
    let mut scan = run.scan();
    let group_blocks = blocks_in_flight();
    let mut waiting: Option<Block> = None;
    loop {
        let mut group = Vec::with_capacity(group_blocks);
        let mut group_bytes = 0u64;
        for block in waiting.take().into_iter().chain(scan.by_ref()) {
            if keep(&block) {
                group_bytes = group_bytes.saturating_add(block.inflated_bytes());
                if group_bytes > GROUP_BYTES_MAX && !group.is_empty() {
                    waiting = Some(block);
                    break;
                }
                group.push(block);
                if group.len() == group_blocks {
                    break;
                }
            } else {
                progress(block.bytes());
            }
        }
        if group.is_empty() {
            return Ok(scan.damage()?.cloned());
        }
        let lent = prepare(&group)?;
        let read: Vec<Result<T, AnalysisError>> = group
            .par_iter()
            .map(|block| {
                let result = read(&lent, block);
                progress(block.bytes());
                result
            })
            .collect();
        for result in read {
            match result {
                Ok(value) => fold(value)?,
                // What follows a damaged block is not trusted, so that a result always stands on a prefix.
                Err(AnalysisError::Read(ReadError::Damaged(damage))) => return Ok(Some(damage)),
                Err(other) => return Err(other),
            }
        }
    }
}

/// As [`fold_blocks`] where nothing has to be prepared.
pub(super) fn fold_each<T: Send>(
    run: &Run,
    progress: Progress<'_>,
    keep: impl Fn(&Block) -> bool,
    read: impl Fn(&Block) -> Result<T, AnalysisError> + Sync,
    fold: impl FnMut(T) -> Result<(), AnalysisError>,
) -> Result<Option<Damage>, AnalysisError> {
    fold_blocks(run, progress, keep, |_| Ok(()), |(), block| read(block), fold)
}
