//! The one loop under every score: blocks are decoded in parallel and folded in the order of the file.
//!
//! Invariants: at most [`blocks_in_flight`] decoded blocks are held at a time; what is folded is a prefix of the chosen
//! blocks; the order of folding does not depend on the number of threads.

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

/// Folds the blocks that `keep` keeps, group by group: while one group is folded, the next is read.
///
/// For each group of blocks, `prepare` is called once and its result is lent to `read`, which runs in parallel on the
/// blocks of the group; `fold` then takes what was read, in order, and may itself use all threads. Returns where the run
/// stopped being readable, if it did.
pub(super) fn fold_groups<C: Send + Sync, T: Send>(
    run: &Run,
    progress: Progress<'_>,
    keep: impl Fn(&Block) -> bool,
    mut prepare: impl FnMut(&[Block]) -> Result<C, AnalysisError>,
    read: impl Fn(&C, &Block) -> Result<T, AnalysisError> + Sync,
    mut fold: impl FnMut(&C, Vec<T>) -> Result<(), AnalysisError> + Send,
) -> Result<Option<Damage>, AnalysisError> {
    let mut scan = run.scan();
    // Two groups are held at a time: the one that is folded and the one that is read.
    let group_blocks = (blocks_in_flight() / 2).max(1);
    let mut ready: Option<(C, Vec<T>)> = None;
    loop {
        let mut group = Vec::with_capacity(group_blocks);
        for block in scan.by_ref() {
            if keep(&block) {
                group.push(block);
                if group.len() == group_blocks {
                    break;
                }
            } else {
                progress(block.bytes());
            }
        }
        if group.is_empty() {
            if let Some((lent, values)) = ready {
                fold(&lent, values)?;
            }
            return Ok(scan.damage().cloned());
        }
        let lent = prepare(&group)?;
        let read_one = |block: &Block| {
            let result = read(&lent, block);
            progress(block.bytes());
            result
        };
        let before = ready.take();
        let (folded, read): (_, Vec<Result<T, AnalysisError>>) = rayon::join(
            || before.map_or(Ok(()), |(lent, values)| fold(&lent, values)),
            || group.par_iter().map(read_one).collect(),
        );
        folded?;
        let mut values = Vec::with_capacity(read.len());
        for result in read {
            match result {
                Ok(value) => values.push(value),
                // What follows a damaged block is not trusted, so that a result always stands on a prefix.
                Err(AnalysisError::Read(ReadError::Damaged(damage))) => {
                    fold(&lent, values)?;
                    return Ok(Some(damage));
                }
                Err(other) => return Err(other),
            }
        }
        ready = Some((lent, values));
    }
}

/// As [`fold_groups`] where nothing has to be prepared, block by block.
pub(super) fn fold_each<T: Send>(
    run: &Run,
    progress: Progress<'_>,
    keep: impl Fn(&Block) -> bool,
    read: impl Fn(&Block) -> Result<T, AnalysisError> + Sync,
    mut fold: impl FnMut(T) -> Result<(), AnalysisError> + Send,
) -> Result<Option<Damage>, AnalysisError> {
    let fold_all = |(): &(), values: Vec<T>| values.into_iter().try_for_each(&mut fold);
    fold_groups(run, progress, keep, |_| Ok(()), |(), block| read(block), fold_all)
}
