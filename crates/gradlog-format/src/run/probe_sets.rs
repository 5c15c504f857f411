//! The names of a run's probe sets.

use super::error::ReadError;
use super::handle::Run;
use crate::log::BlockKind;

impl Run {
    /// The names of the probe sets, by number.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if a name cannot be read.
    pub fn probe_sets(&self) -> Result<Vec<String>, ReadError> {
        let mut names: Vec<String> = Vec::new();
        let mut scan = self.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::ProbeSet)) {
            let (number, name) = block.probe_set()?;
            // Several workers may each have recorded a share of one set.
            if names.get(number) == Some(&name) && !self.parts().is_empty() {
                continue;
            }
            if number != names.len() {
                return Err(block.damaged(format!("probe set {number} where {} belongs", names.len())));
            }
            names.push(name);
        }
        scan.damage()?;
        Ok(names)
    }
}
