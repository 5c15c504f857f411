//! Events that a guard told of during the training (FORMAT.md, "Events").

use super::block::Block;
use super::error::ReadError;
use super::handle::Run;
use crate::log::{BlockKind, Column, EventAction, EventKind, EventSentence, Manifest};

/// What a guard noticed of one example, or of the loss.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EventRecord {
    /// The optimizer step.
    pub step: u64,
    /// The epoch at that time.
    pub epoch: u32,
    /// What was noticed.
    pub kind: EventKind,
    /// The example; `None` for the loss, and for a row that counts several examples.
    pub example: Option<u64>,
    /// Number of the layer with the largest part of the gradient, or of the first one that is not finite. `None` where
    /// it is not known.
    pub layer: Option<u32>,
    /// Of a large gradient, its norm `‖g‖`. Of a divergence, the running mean of the loss. Otherwise NaN or infinite.
    pub value: f32,
    /// The value beyond which there is an event; NaN where there is none.
    pub limit: f32,
    /// What the limit is made of: the 99th percentile of recent norms, or the least running mean. NaN for none.
    pub reference: f32,
    /// What the training did.
    pub action: EventAction,
    /// How many events the row stands for: 1 where it names an example.
    pub count: u64,
}

impl EventRecord {
    /// The event as one sentence, with the layer's name from `manifest`.
    pub fn sentence(&self, manifest: &Manifest) -> String {
        let layer = self.layer.and_then(|number| manifest.layers.get(number as usize));
        let (kind, examples) = (self.kind, self.example);
        let sentence = EventSentence {
            step: self.step,
            kind,
            examples: examples.as_slice(),
            more: if examples.is_some() || kind == EventKind::Divergence && self.count == 1 { 0 } else { self.count },
            layer: layer.map(|layer| layer.name.as_str()),
            value: f64::from(self.value),
            reference: f64::from(self.reference),
            action: self.action,
        };
        sentence.to_string()
    }
}

pub(super) fn read(block: &Block) -> Result<Vec<EventRecord>, ReadError> {
    let (steps, epochs) = (block.u64s(Column::Step)?, block.u32s(Column::Epoch)?);
    let (kinds, actions) = (block.u8s(Column::EventKind)?, block.u8s(Column::EventAction)?);
    let (examples, layers) = (block.u64s(Column::Example)?, block.u32s(Column::Layer)?);
    let (values, limits) = (block.f32s(Column::Value)?, block.f32s(Column::Limit)?);
    let (references, counts) = (block.f32s(Column::Reference)?, block.u64s(Column::Count)?);
    let row = |i: usize| {
        // A reader passes over rows of kinds and actions that a newer version added.
        let (kind, action) = (EventKind::from_code(kinds[i])?, EventAction::from_code(actions[i])?);
        Some(EventRecord {
            step: steps[i],
            epoch: epochs[i],
            kind,
            example: Some(examples[i]).filter(|id| *id != Column::NO_EXAMPLE),
            layer: Some(layers[i]).filter(|layer| *layer != Column::NO_LAYER_NUMBER),
            value: values[i],
            limit: limits[i],
            reference: references[i],
            action,
            count: counts[i],
        })
    };
    Ok((0..block.rows()).filter_map(row).collect())
}

impl Block {
    /// The events of a block of kind Events. Rows of a kind that a newer version added are left out.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub fn events(&self) -> Result<Vec<EventRecord>, ReadError> {
        read(self)
    }
}

impl Run {
    /// What a guard noticed during the training, in the order in which it was recorded. If the run is damaged, what
    /// comes before the damage.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if an event cannot be read.
    ///
    /// # Cost
    /// Reads the headers of all blocks.
    pub fn events(&self) -> Result<Vec<EventRecord>, ReadError> {
        let mut events = Vec::new();
        let mut scan = self.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Events)) {
            events.extend(read(&block)?);
        }
        scan.not_refused()?;
        Ok(events)
    }
}
