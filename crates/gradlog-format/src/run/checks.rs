//! Checks of recorded gradients: what they found (FORMAT.md, "Checks").

use super::block::Block;
use super::error::ReadError;
use super::handle::Run;
use crate::log::{BlockKind, Column, Coupling, CouplingKind, FindingKind};

/// A longer text is damage.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// The verdict of one check of the recorded gradients.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckRecord {
    /// The optimizer step that followed it.
    pub step: u64,
    /// The epoch at that time.
    pub epoch: u32,
    /// Number of examples that were compared.
    pub examples: u32,
    /// What was found, one bit for each [`FindingKind`].
    pub findings: u32,
    /// The verdict in words, as the check printed it.
    pub text: String,
}

impl CheckRecord {
    /// Whether the check found this.
    pub fn found(&self, kind: FindingKind) -> bool {
        self.findings & kind.bit() != 0
    }

    /// Whether every recorded gradient was the example's own.
    pub fn agrees(&self) -> bool {
        self.findings & !FindingKind::UncoveredVariable.bit() == 0
    }
}

pub(super) fn read(block: &Block) -> Result<CheckRecord, ReadError> {
    if block.rows() != 1 || block.width(Column::Text).is_some_and(|bytes| bytes > TEXT_BYTES_MAX) {
        return Err(block.damaged("not one check with a text of at most 2^20 bytes".into()));
    }
    let absent = || block.damaged("a check without a number".into());
    let first = |values: Vec<u32>| values.first().copied().ok_or_else(absent);
    Ok(CheckRecord {
        step: block.u64s(Column::Step)?.first().copied().ok_or_else(absent)?,
        epoch: first(block.u32s(Column::Epoch)?)?,
        examples: first(block.u32s(Column::Checked)?)?,
        findings: first(block.u32s(Column::Findings)?)?,
        text: String::from_utf8_lossy(&block.u8s(Column::Text)?).into_owned(),
    })
}

impl Run {
    /// The checks of recorded gradients, in the order in which they were made. If the run is damaged, those before the
    /// damage.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if a check cannot be read.
    ///
    /// # Cost
    /// Reads the headers of all blocks.
    pub fn checks(&self) -> Result<Vec<CheckRecord>, ReadError> {
        let mut scan = self.scan();
        let blocks = scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Checks));
        let found = blocks.map(|block| read(&block)).collect::<Result<_, _>>()?;
        scan.not_refused()?;
        Ok(found)
    }

    /// What couples the examples of a batch: what the manifest says, and what checks have found. Every result of the
    /// run should say it. Empty if nothing is known to couple them.
    ///
    /// # Errors
    /// As [`Run::checks`].
    ///
    /// # Cost
    /// As [`Run::checks`].
    pub fn couplings(&self) -> Result<Vec<Coupling>, ReadError> {
        let mut found = self.manifest().couplings();
        let checks = self.checks()?;
        let has = |kind| checks.iter().any(|check| check.found(kind));
        let has_gradients = !self.manifest().layers.is_empty();
        let coupling = |kind| Coupling { kind, names: Vec::new(), has_gradients };
        // A BatchNorm that the manifest names is the coupling that a check finds.
        if found.is_empty() && has(FindingKind::CoupledExamples) {
            found.push(coupling(CouplingKind::Model));
        }
        if has(FindingKind::CoupledLosses) {
            found.push(coupling(CouplingKind::Losses));
        }
        Ok(found)
    }
}
