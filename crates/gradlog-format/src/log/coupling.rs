//! What couples the examples of a batch, and what is then recorded (FORMAT.md, "BatchNorm").
//!
//! An example has a gradient of its own only if its loss does not depend on the other examples of its batch. Where
//! examples are coupled, a row holds the example's *share* of the batch gradient: the part that flows through its own
//! activations, divided by its coefficient. The shares, times their coefficients, add up to the batch gradient.

use super::codec::{self, DecodeError};
use super::extension::Extension;
use super::manifest::Manifest;
use serde::{Deserialize, Serialize};

/// Tag of the extension field with the declared model's BatchNorm layers.
const TAG_BATCH_NORM: u16 = 1;
/// More names than this are counted and not listed.
const NAMED_MAX: usize = 4;

/// How a run treats the BatchNorm layers of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum BatchNormHandling {
    /// They may run in training mode. A row holds the example's share of the batch gradient.
    Share = 0,
    /// They run with frozen statistics, in evaluation mode. So they couple nothing.
    Frozen = 1,
}

/// The BatchNorm layers of the declared model that are not tapped with frozen statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchNormRecord {
    /// How the run treats them.
    pub handling: BatchNormHandling,
    /// Their names in the model.
    pub layers: Vec<String>,
}

impl BatchNormRecord {
    /// The extension field that holds the record.
    ///
    /// # Errors
    /// [`DecodeError`] if it is too large for the format.
    pub fn to_extension(&self) -> Result<Extension, DecodeError> {
        let value = Value { handling: self.handling as u32, layers: self.layers.clone() };
        Ok(Extension { tag: TAG_BATCH_NORM, bytes: codec::encode(&value)? })
    }
}

/// The value of the field. A handling that this version does not know is taken for a share.
#[derive(Serialize, Deserialize)]
struct Value {
    handling: u32,
    layers: Vec<String>,
}

/// What couples examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CouplingKind {
    /// BatchNorm in training mode.
    BatchNorm,
    /// Something in the model. A check of the gradients found it.
    Model,
    /// The loss: an example's loss depends on the other examples of its batch. A check of the gradients found it.
    Losses,
}

/// Something that couples the examples of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coupling {
    /// What couples them.
    pub kind: CouplingKind,
    /// The names of the layers that do; empty if they are not known.
    pub names: Vec<String>,
    /// Whether the run records gradients. They are shares then.
    pub has_gradients: bool,
}

/// The words for results: what couples the examples.
impl std::fmt::Display for Coupling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.kind {
            CouplingKind::BatchNorm => "BatchNorm in training mode",
            CouplingKind::Model => "the model",
            CouplingKind::Losses => "the loss",
        })?;
        let named: Vec<String> =
            self.names.iter().take(NAMED_MAX).map(|name| format!("`{}`", name.escape_debug())).collect();
        match (named.len(), self.names.len() - named.len()) {
            (0, _) => {}
            (_, 0) => write!(f, " ({})", named.join(", "))?,
            (_, more) => write!(f, " ({} and {more} more)", named.join(", "))?,
        }
        f.write_str(match self.has_gradients {
            true => " couples the examples of a batch: gradients are shares of the batch gradient",
            false => " couples the examples of a batch: losses and predictions depend on the batch",
        })
    }
}

impl Manifest {
    /// The BatchNorm layers of the declared model, if it has any that are not tapped. `None` also for a field that this
    /// version cannot read.
    pub fn batch_norm(&self) -> Option<BatchNormRecord> {
        let field = self.extensions.iter().find(|field| field.tag == TAG_BATCH_NORM)?;
        let Value { handling, layers } = codec::decode(&field.bytes).ok()?;
        let frozen = handling == BatchNormHandling::Frozen as u32;
        let handling = if frozen { BatchNormHandling::Frozen } else { BatchNormHandling::Share };
        Some(BatchNormRecord { handling, layers })
    }

    /// What couples the examples of a batch, as far as it was known when the run was created. Results say it.
    /// [`Run::couplings`](crate::run::Run::couplings) adds what checks have found.
    pub fn couplings(&self) -> Vec<Coupling> {
        match self.batch_norm() {
            Some(BatchNormRecord { handling: BatchNormHandling::Share, layers }) => {
                let has_gradients = !self.layers.is_empty();
                vec![Coupling { kind: CouplingKind::BatchNorm, names: layers, has_gradients }]
            }
            _ => Vec::new(),
        }
    }
}
