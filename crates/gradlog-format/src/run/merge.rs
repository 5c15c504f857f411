//! Merges the parts of several workers into one stream of blocks.
//!
//! This file decides the order of the blocks, their numbers and those of the probe sets in the whole run. It also
//! decides where a run ends that is being written. [`super::steps`] merges the rows of steps. All other rows stay as
//! their worker wrote them.

use super::block::{Block, United};
use super::error::{Damage, ReadError, Stopped};
use super::handle::Run;
use super::scan::PartScan;
use super::steps::StepSums;
use crate::log::{BlockBuilder, BlockKind, Column};
use std::sync::Arc;

/// An iterator over the blocks of a run. It ends at the end of the run, at the first damage, or where the file system
/// refuses. Call [`Scan::damage`] after it to learn which it was.
///
/// In a run of several workers:
///
/// - Blocks of visits come in the order of their first steps. Steps rise within one worker's rows. The rows of two
///   workers' blocks may overlap in steps.
/// - Steps are merged: one row a step, with the batch size of all workers. Other columns are those of the lowest rank.
/// - Probes, sweeps, checkpoints, probe sets and gaps come before the visits that their worker wrote after them. Sets
///   of the same name are one set.
/// - There is an End block, with the totals of all, if all workers have a part and finished.
/// - While workers still record, the scan ends with the last step that all of these have recorded completely. So all
///   visits of a step are there, or none. Workers that record no more do not hold it up.
/// - Damage in one part ends the whole scan, so its result is a prefix of the run. So does a file system that refuses
///   to read one part.
#[derive(Debug)]
pub struct Scan<'run>(Kind<'run>);

#[derive(Debug)]
enum Kind<'run> {
    One(Box<PartScan<'run>>),
    Several(Box<Merge<'run>>),
}

impl Run {
    /// Iterates over all committed blocks in the order in which they were written, up to the first damage.
    ///
    /// [`Scan`] defines the order for a run of several workers. Ask [`Scan::damage`] at the end.
    pub fn scan(&self) -> Scan<'_> {
        Scan::new(self)
    }
}

impl<'run> Scan<'run> {
    pub(super) fn new(run: &'run Run) -> Self {
        if run.parts().is_empty() {
            return Self(Kind::One(Box::new(run.part_scan())));
        }
        Self(Kind::Several(Box::new(Merge::new(run))))
    }

    /// The damage at which the scan ended, or `None` if it ended at the end of the run.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the scan ended because the file system refused, and [`ReadError::Newer`] if only a newer
    /// version can read on. The rest of the run may then be intact.
    pub fn damage(&self) -> Result<Option<&Damage>, ReadError> {
        match &self.0 {
            Kind::One(scan) => scan.damage(),
            Kind::Several(merge) => Stopped::report(merge.stopped.as_ref()),
        }
    }

    /// In a run of several workers: the names of the probe sets met so far, by their numbers in the whole run.
    pub(super) fn united_sets(&self) -> Option<&[String]> {
        match &self.0 {
            Kind::One(_) => None,
            Kind::Several(merge) => Some(&merge.names),
        }
    }

    /// An error if the scan ended because the place refused. What was read may then be less than there is.
    pub(super) fn not_refused(&self) -> Result<(), ReadError> {
        match self.damage() {
            Err(error @ ReadError::Io { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// Preallocated bytes behind the last block. Not 0 while a run is being written, and if its recorder was killed.
    pub fn zero_tail_bytes(&self) -> u64 {
        self.scans().map(PartScan::zero_tail_bytes).sum()
    }

    /// Training visits that the scan left out because the training resumed at an earlier step.
    pub fn superseded_visits(&self) -> u64 {
        self.scans().map(PartScan::superseded_visits).sum()
    }

    /// The scan, with blocks of which every row is superseded. These have no rows.
    pub(super) fn with_void_blocks(self) -> Self {
        Self(match self.0 {
            Kind::One(scan) => Kind::One(Box::new(scan.with_void_blocks())),
            Kind::Several(mut merge) => {
                let parts = merge.parts.into_iter();
                merge.parts = parts.map(|part| Part { scan: part.scan.with_void_blocks(), ..part }).collect();
                Kind::Several(merge)
            }
        })
    }

    /// Damage if intact blocks follow the zeros at which the scan ended. Reads all bytes there.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses.
    pub(super) fn blocks_behind_the_end(&self) -> Result<Option<Damage>, ReadError> {
        for scan in self.scans() {
            if let Some(damage) = scan.blocks_behind_the_end()? {
                return Ok(Some(damage));
            }
        }
        Ok(None)
    }

    fn scans(&self) -> impl Iterator<Item = &PartScan<'run>> {
        let (one, several) = match &self.0 {
            Kind::One(scan) => (Some(scan.as_ref()), None),
            Kind::Several(merge) => (None, Some(merge.parts.iter().map(|part| &part.scan))),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }
}

impl Iterator for Scan<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        match &mut self.0 {
            Kind::One(scan) => scan.next(),
            Kind::Several(merge) => merge.next(),
        }
    }
}

#[derive(Debug)]
struct Merge<'run> {
    parts: Vec<Part<'run>>,
    /// Names of the probe sets of the whole run, by number.
    names: Vec<String>,
    steps: StepSums,
    /// Whether a worker has no part.
    missing: bool,
    sequence: u64,
    stopped: Option<Stopped>,
    ended: bool,
}

#[derive(Debug)]
struct Part<'run> {
    rank: u32,
    scan: PartScan<'run>,
    /// The next block of this part.
    head: Option<Block>,
    /// For each of its probe sets, the number in the whole run.
    sets: Arc<Vec<u32>>,
    /// Its End block, if no later block reopened the run.
    end: Option<Block>,
    ended: bool,
}

impl<'run> Merge<'run> {
    fn new(run: &'run Run) -> Self {
        let nowhere = |what| Damage { path: run.dir().to_owned(), offset: 0, block: Some(0), what };
        let (limit, stopped) = match live_limit(run) {
            Ok(limit) => (limit, None),
            Err(error) => (None, Some(Stopped::from_error(error, nowhere))),
        };
        let part = |part: &'run Run| Part {
            rank: part.manifest().worker.map_or(0, |worker| worker.rank),
            scan: part.part_scan().with_limit(limit),
            head: None,
            sets: Arc::default(),
            end: None,
            ended: false,
        };
        let workers = run.parts().first().and_then(|part| part.manifest().worker).map_or(0, |worker| worker.workers);
        Self {
            parts: run.parts().iter().map(part).collect(),
            names: Vec::new(),
            steps: StepSums::new(run.parts().len()),
            missing: run.parts().len() < workers as usize,
            sequence: 0,
            stopped,
            ended: false,
        }
    }

    fn next(&mut self) -> Option<Block> {
        if self.ended {
            return None;
        }
        let mut parts = 0..self.parts.len();
        while let (None, Some(number)) = (&self.stopped, parts.next()) {
            self.stopped = self.fill(number).err().map(|stopped| stopped.with_block(self.sequence));
        }
        if self.stopped.is_some() {
            // Yields the complete steps and nothing else: other blocks may lie behind what cannot be read.
            let block = self.complete_steps(1);
            self.ended = block.is_none();
            return block;
        }
        if let Some(block) = self.complete_steps(StepSums::BLOCK_ROWS) {
            return Some(block);
        }
        // Visits come in the order of their steps. Other blocks come first, because visits may follow them.
        let key = |part: &Part<'_>| {
            let head = part.head.as_ref()?;
            Some((head.kind() == Some(BlockKind::Visits)).then(|| head.steps().0))
        };
        let next = (0..self.parts.len()).filter_map(|i| Some((key(&self.parts[i])?, i))).min();
        if let Some((_, number)) = next {
            let part = &mut self.parts[number];
            let (rank, sets) = (Some(part.rank), part.sets.clone());
            let head = part.head.take()?;
            return Some(self.adopt(head, rank, sets));
        }
        if let Some(block) = self.complete_steps(1) {
            return Some(block);
        }
        self.ended = true;
        self.end_block()
    }

    /// Reads the next block of a part, if none is ready. Collects the steps and End blocks that come before it.
    fn fill(&mut self, number: usize) -> Result<(), Stopped> {
        let part = &mut self.parts[number];
        while part.head.is_none() && !part.ended {
            let Some(block) = part.scan.next() else {
                part.ended = true;
                if let Some(stopped) = part.scan.stopped() {
                    return Err(stopped.with_block(self.sequence));
                }
                self.steps.end_part(number);
                return Ok(());
            };
            // A replay may follow the End block of a training. The run is finished all the same.
            if block.reopens_run() {
                part.end = None;
            }
            let here = (block.segment.path.clone(), block.offset);
            let stopped = |error: ReadError| {
                Stopped::from_error(error, |what| Damage { path: here.0, offset: here.1, block: None, what })
            };
            match block.kind() {
                Some(BlockKind::Steps) => {
                    self.steps.add_rows(number, part.rank, &block).map_err(stopped)?;
                }
                Some(BlockKind::End) => {
                    block.check().map_err(stopped)?;
                    part.end = Some(block);
                }
                Some(BlockKind::ProbeSet) => {
                    let name = match block.probe_set() {
                        Ok((set, name)) if set as usize == part.sets.len() => name,
                        Ok((set, _)) => {
                            let what = format!("probe set {set} where {} belongs", part.sets.len());
                            return Err(stopped(block.damaged(what)));
                        }
                        Err(error) => return Err(stopped(error)),
                    };
                    let known = self.names.iter().position(|known| *known == name);
                    let united = known.unwrap_or_else(|| {
                        self.names.push(name);
                        self.names.len() - 1
                    });
                    Arc::make_mut(&mut part.sets).push(united as u32);
                    part.head = Some(block);
                }
                _ => part.head = Some(block),
            }
        }
        Ok(())
    }

    /// A block of complete steps, if there are at least `rows` of them.
    fn complete_steps(&mut self, rows: usize) -> Option<Block> {
        let made = self.steps.take_block(rows)?;
        Some(self.adopt(made, None, Arc::default()))
    }

    /// The End block of the whole run, if all workers have a part and finished.
    fn end_block(&mut self) -> Option<Block> {
        let all = self.parts.iter().all(|part| part.end.is_some());
        if !all || self.missing {
            return None;
        }
        let ends: Vec<Block> = self.parts.iter_mut().filter_map(|part| part.end.take()).collect();
        // They were checked when they were read.
        let total = |column: Column| {
            let each = ends.iter().filter_map(|end| end.u64s(column).ok()?.first().copied());
            each.fold(0, u64::saturating_add)
        };
        let mut builder = BlockBuilder::new(BlockKind::End);
        builder.u64s(Column::Visits, [total(Column::Visits)]);
        builder.u64s(Column::Dropped, [total(Column::Dropped)]);
        builder.advance(1, 0, 0);
        let bytes = ends.iter().map(Block::bytes).sum();
        let made = super::steps::unwritten_block(&mut builder, ends.first()?.segment.clone(), bytes)?;
        Some(self.adopt(made, None, Arc::default()))
    }

    /// Numbers a block in the whole run.
    fn adopt(&mut self, block: Block, rank: Option<u32>, sets: Arc<Vec<u32>>) -> Block {
        let made = block.united.as_ref().and_then(|united| united.made.clone());
        let united = United { sequence: self.sequence, rank, sets, made };
        self.sequence += 1;
        Block { united: Some(united), ..block }
    }
}

/// The step before which the scan of a run ends that is being written. It is the first step that one of the recording
/// workers has not recorded in full.
fn live_limit(run: &Run) -> Result<Option<u64>, ReadError> {
    let mut until = None;
    for part in run.parts() {
        if part.lock_is_held()? {
            let complete = part.part_scan().complete_steps()?;
            until = Some(until.map_or(complete, |least: u64| least.min(complete)));
        }
    }
    Ok(until)
}
