//! A stretch of a run that cannot be read: what the blocks around it say of its contents.

use super::error::Damage;
use crate::log::{BlockHeader, BlockKind};

/// What is missing between two readable blocks, or behind the last.
///
/// A number is `None` if it is not known. It may be that no block is missing: a damaged segment header costs none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The first damage in the stretch.
    pub damage: Damage,
    /// Blocks that are missing.
    pub blocks: Option<u64>,
    /// Training visits in them.
    pub visits: Option<u64>,
    /// Probe visits in them.
    pub probes: Option<u64>,
    /// Rows of steps in them.
    pub steps: Option<u64>,
    /// No row of an earlier step is missing, according to the blocks around.
    pub first_step: u64,
    /// No row of a later step is missing. `None` if no later step can be read.
    pub last_step: Option<u64>,
    /// Epoch in which the stretch begins, according to the blocks around.
    pub first_epoch: u32,
}

impl Lost {
    /// Whether nothing is missing despite the damage.
    pub fn is_nothing(&self) -> bool {
        self.blocks == Some(0)
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.blocks {
            Some(0) => f.write_str("no block is lost")?,
            Some(1) => f.write_str("1 block is lost")?,
            Some(blocks) => write!(f, "{blocks} blocks are lost")?,
            None => f.write_str("all that followed is lost")?,
        }
        if !self.is_nothing() {
            match (self.visits, self.probes, self.steps) {
                (Some(visits), Some(probes), Some(steps)) => {
                    write!(f, " with {visits} visits, {probes} probe visits and {steps} steps")?;
                }
                (Some(visits), ..) => write!(f, " with {visits} visits")?,
                _ => f.write_str(", with how many visits is not known")?,
            }
            match self.last_step {
                Some(last) if last == self.first_step => write!(f, ", of step {last}")?,
                Some(last) => write!(f, ", between step {} and step {last}", self.first_step)?,
                None => write!(f, ", from step {} on", self.first_step)?,
            }
        }
        write!(f, ": {}, byte {}: {}", self.damage.path.display(), self.damage.offset, self.damage.what)
    }
}

/// A stretch whose end is not known yet.
pub(super) struct Stretch {
    pub(super) damage: Damage,
    /// Sequence number of the first block that can be missing.
    first: u64,
    /// Sequence number of the first block behind the headers that were read.
    next: u64,
    /// Readable headers of unreadable blocks.
    headers: u64,
    visits: u64,
    probes: u64,
    steps: u64,
    /// First step, last step and first epoch in those headers.
    known: Option<(u64, u64, u32)>,
    /// Last step and epoch before the stretch.
    before: Option<(u64, u32)>,
    /// Whether there may be blocks here that nothing counts.
    uncounted: bool,
}

impl Stretch {
    pub(super) fn begin(damage: Damage, sequence: u64, before: Option<(u64, u32)>) -> Self {
        Self {
            damage,
            first: sequence,
            next: sequence,
            headers: 0,
            visits: 0,
            probes: 0,
            steps: 0,
            known: None,
            before,
            uncounted: false,
        }
    }

    /// Notes that blocks here cannot be counted. The number of a later block can still say how many there were.
    pub(super) fn mark_uncounted(&mut self) {
        self.uncounted = true;
    }

    /// Adds a block of which only the header can be read.
    pub(super) fn add_header(&mut self, header: &BlockHeader) {
        if header.sequence < self.next {
            return;
        }
        self.next = header.sequence.saturating_add(1);
        self.headers += 1;
        let rows = u64::from(header.rows);
        match BlockKind::from_code(header.kind) {
            Some(BlockKind::Visits) => self.visits += rows,
            Some(BlockKind::Probes) => self.probes += rows,
            Some(BlockKind::Steps) => self.steps += rows,
            _ => {}
        }
        if has_steps(header) {
            let (first, last, epoch) = self.known.unwrap_or((header.first_step, header.last_step, header.first_epoch));
            self.known = Some((first.min(header.first_step), last.max(header.last_step), epoch));
        }
    }

    /// Ends the stretch before the block of this header.
    pub(super) fn end(self, next: &BlockHeader) -> Lost {
        let missing = next.sequence.saturating_sub(self.first);
        let next_step = has_steps(next).then_some(next.first_step);
        self.close(Some(missing), next_step)
    }

    /// Ends the stretch at the end of the run.
    pub(super) fn end_of_run(self) -> Lost {
        let missing = (!self.uncounted).then_some(self.next - self.first);
        self.close(missing, None)
    }

    fn close(self, missing: Option<u64>, next_step: Option<u64>) -> Lost {
        // A readable header says what its block held. So all is known if every missing block has one.
        let all = missing == Some(self.headers);
        let around = self.before.unwrap_or((0, 0));
        let (first_step, last_step, first_epoch) = match self.known {
            Some((first, last, epoch)) if all => (first, Some(last), epoch),
            _ => (around.0, next_step, around.1),
        };
        Lost {
            damage: self.damage,
            blocks: missing,
            visits: all.then_some(self.visits),
            probes: all.then_some(self.probes),
            steps: all.then_some(self.steps),
            first_step,
            last_step,
            first_epoch,
        }
    }
}

/// Whether the rows of a block have steps. Otherwise the steps in its header are 0 and say nothing.
pub(super) fn has_steps(header: &BlockHeader) -> bool {
    let with = [BlockKind::Visits, BlockKind::Steps, BlockKind::Probes, BlockKind::Gaps];
    with.iter().any(|kind| *kind as u16 == header.kind)
}
