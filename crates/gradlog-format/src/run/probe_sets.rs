//! The names and the numbers of a run's probe sets.

use super::error::ReadError;
use super::handle::Run;
use crate::log::BlockKind;

impl Run {
    /// The names of the probe sets, by number. Sets of one name are one set: rows of all their numbers belong to it.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if a name cannot be read.
    pub fn probe_sets(&self) -> Result<Vec<String>, ReadError> {
        let mut names: Vec<String> = Vec::new();
        let mut scan = self.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::ProbeSet)) {
            let (number, name) = block.probe_set()?;
            if !self.parts().is_empty() {
                continue; // The scan numbers the sets of all workers, and their blocks come in another order.
            }
            if number as usize != names.len() {
                return Err(block.damaged(format!("probe set {number} where {} belongs", names.len())));
            }
            names.push(name);
        }
        scan.damage()?;
        Ok(scan.united_sets().map_or(names, <[String]>::to_vec))
    }
}

/// The most names of probe sets that a recovery makes up.
const MADE_UP_NAMES_MAX: u64 = 4096;

/// The numbers of the probe sets of a run that is recovered. Names may be lost. Each is in a block of its own, so at
/// most as many names are lost as blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SetNumbers {
    /// The number of the next set.
    pub(super) next: u32,
    made_up: u64,
}

impl SetNumbers {
    /// Makes up names for all sets below `below` that have none. Returns the numbers of these, or `None`, and changes
    /// nothing, if fewer blocks are lost.
    pub(super) fn make_up(&mut self, below: u32, lost_blocks: u64) -> Option<std::ops::Range<u32>> {
        let needed = u64::from(below.saturating_sub(self.next));
        if needed > lost_blocks.min(MADE_UP_NAMES_MAX).saturating_sub(self.made_up) {
            return None;
        }
        let unnamed = self.next..below.max(self.next);
        self.made_up += needed;
        self.next = unnamed.end;
        Some(unnamed)
    }
}
