//! The one loop under every score: blocks are decoded in parallel and folded in the order of the file.
//!
//! Invariants: at most as many decoded blocks as the caller allows are held at a time, and of large ones fewer; what is
//! folded is a prefix of the chosen blocks; the order of folding does not depend on the number of threads.

use crate::{rows::column, AnalysisError, Progress};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, Damage, ReadError, Run};
use rayon::prelude::*;
use std::ops::Range;

/// How many blocks are decoded at a time, unless they take next to no memory. A few per thread even out blocks of
/// different length.
pub(crate) fn blocks_in_flight() -> usize {
    4 * rayon::current_num_threads()
}

/// Where reading ended: at damage, or else at the end of the run.
#[derive(Debug, Default)]
#[must_use = "an answer must say where the part of the run that it is made of ends"]
pub(crate) struct ReadTo(pub Option<Damage>);

/// A group of blocks is closed when it says that it inflates to this much: a few kilobytes of a file can say 2^28 for
/// every column, and honest blocks have some megabytes. A block that says more is decoded alone.
const GROUP_BYTES_MAX: u64 = 512 << 20;

/// Folds the blocks that `keep` keeps, group by group: while one group is folded, the next is read.
///
/// At most `in_flight` blocks are held, half of them folded and half read. For each group of blocks, `prepare` is
/// called once and its result is lent to `read`, which runs in parallel on the blocks of the group; `fold` then takes
/// what was read, in order, and may itself use all threads.
pub(crate) fn fold_groups<C: Send + Sync, T: Send>(
    run: &Run,
    progress: &Progress,
    in_flight: usize,
    keep: impl Fn(&Block) -> bool + Send,
    prepare: impl FnMut(&[Block]) -> Result<C, AnalysisError> + Send,
    read: impl Fn(&C, &Block) -> Result<T, AnalysisError> + Sync,
    fold: impl FnMut(&C, Vec<T>) -> Result<(), AnalysisError> + Send,
) -> Result<ReadTo, AnalysisError> {
    // A thread that is not rayon's would sleep and wake at every group, which took an eighth of a column score's time.
    rayon::scope(|_| groups(run, progress, in_flight, keep, prepare, &read, fold))
}

fn groups<C: Send + Sync, T: Send>(
    run: &Run,
    progress: &Progress,
    in_flight: usize,
    keep: impl Fn(&Block) -> bool,
    mut prepare: impl FnMut(&[Block]) -> Result<C, AnalysisError>,
    read: impl Fn(&C, &Block) -> Result<T, AnalysisError> + Sync,
    mut fold: impl FnMut(&C, Vec<T>) -> Result<(), AnalysisError> + Send,
) -> Result<ReadTo, AnalysisError> {
    let mut scan = run.scan();
    let group_blocks = (in_flight / 2).max(1);
    let mut ready: Option<(C, Vec<T>)> = None;
    let mut waiting: Option<Block> = None;
    loop {
        if progress.is_stopped() {
            return Err(AnalysisError::Stopped);
        }
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
                progress.report(block.bytes());
            }
        }
        if group.is_empty() {
            if let Some((lent, values)) = ready {
                fold(&lent, values)?;
            }
            return Ok(ReadTo(scan.damage()?.cloned()));
        }
        let lent = prepare(&group)?;
        let read_one = |block: &Block| {
            let result = read(&lent, block);
            progress.report(block.bytes());
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
                // What follows a damaged block is not trusted, so that a result is always that of a prefix.
                Err(AnalysisError::Read(ReadError::Damaged(damage))) => {
                    fold(&lent, values)?;
                    return Ok(ReadTo(Some(damage)));
                }
                Err(other) => return Err(other),
            }
        }
        ready = Some((lent, values));
    }
}

/// As [`fold_groups`] where nothing has to be prepared, block by block.
pub(crate) fn fold_each<T: Send>(
    run: &Run,
    progress: &Progress,
    keep: impl Fn(&Block) -> bool + Send,
    read: impl Fn(&Block) -> Result<T, AnalysisError> + Sync,
    mut fold: impl FnMut(T) -> Result<(), AnalysisError> + Send,
) -> Result<ReadTo, AnalysisError> {
    let fold_all = |(): &(), values: Vec<T>| values.into_iter().try_for_each(&mut fold);
    fold_groups(run, progress, blocks_in_flight(), keep, |_| Ok(()), |(), block| read(block), fold_all)
}

/// As [`fold_each`], for what depends on the order of visits: `fold` gets rows in the order of their steps.
///
/// A block of one recorder is in that order, and so are its blocks; all its rows come at once. Those of several workers
/// have to be taken a step at a time from each, and of one step in the order of the ranks. At most two blocks of each
/// worker are held.
pub(crate) fn fold_in_step_order<T: Send>(
    run: &Run,
    progress: &Progress,
    keep: impl Fn(&Block) -> bool + Send,
    read: impl Fn(&Block) -> Result<T, AnalysisError> + Sync,
    mut fold: impl FnMut(&T, Range<usize>) -> Result<(), AnalysisError> + Send,
) -> Result<ReadTo, AnalysisError> {
    let mut held: Vec<Held<T>> = Vec::new();
    let with_steps = |block: &Block| {
        let part = match block.worker() {
            Some(rank) => Some((rank, block.steps().0, column::u64s(block, Column::Step)?)),
            None => None,
        };
        Ok((read(block)?, block.rows(), part))
    };
    let read_to = fold_each(run, progress, keep, with_steps, |(read, rows, part)| {
        let Some((rank, first_step, steps)) = part else {
            return fold(&read, 0..rows);
        };
        // Whatever comes from here on, from whichever worker, is of this step or later.
        release(&mut held, Some(first_step), &mut fold)?;
        if held.iter().filter(|other| other.rank == rank).count() >= 2 {
            // Only blocks that are not as a recorder writes them get here.
            if let Some(oldest) = held.iter().position(|other| other.rank == rank) {
                let Held { read, steps, next, .. } = held.remove(oldest);
                fold(&read, next..steps.len())?;
            }
        }
        held.push(Held { read, rank, steps, next: 0 });
        Ok(())
    })?;
    release(&mut held, None, &mut fold)?;
    Ok(read_to)
}

/// A block of one worker, of which some rows have to wait for those of others.
struct Held<T> {
    read: T,
    rank: u32,
    steps: Vec<u64>,
    next: usize,
}

/// Folds the rows of steps before `limit`, or all, a step at a time.
fn release<T>(
    held: &mut Vec<Held<T>>,
    limit: Option<u64>,
    fold: &mut impl FnMut(&T, Range<usize>) -> Result<(), AnalysisError>,
) -> Result<(), AnalysisError> {
    loop {
        held.retain(|block| block.next < block.steps.len());
        // Blocks of one rank stand in the order in which they came, and of equals the first is the least.
        let least = held.iter_mut().min_by_key(|block| (block.steps[block.next], block.rank));
        let Some(block) = least.filter(|block| limit.is_none_or(|limit| block.steps[block.next] < limit)) else {
            return Ok(());
        };
        let step = block.steps[block.next];
        let rows = block.steps[block.next..].iter().take_while(|other| **other == step).count();
        fold(&block.read, block.next..block.next + rows)?;
        block.next += rows;
    }
}
