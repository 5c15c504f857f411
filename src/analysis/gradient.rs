//! Gradients as a block holds them: which layers, in which form, and their vectors.

use crate::log::{Column, ColumnKey, LayerRecord, NO_LAYER};
use crate::run::{Block, ReadError, Vectors};

/// A layer whose gradient is kept as two factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Factored {
    pub layer: u16,
    pub inputs: usize,
    pub outputs: usize,
    pub bias: bool,
}

/// Which vectors the rows of a block have. Two gradients have a dot product if their layouts are equal.
///
/// The vectors ("parts") are numbered: input and delta of each factored layer in turn, then the folded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub factored: Vec<Factored>,
    pub folded: Option<usize>,
}

impl Layout {
    /// The layout of a block, empty if it holds no gradients.
    pub(super) fn of(block: &Block, layers: &[LayerRecord]) -> Self {
        let mut factored = Vec::new();
        for (layer, record) in (0..NO_LAYER).zip(layers) {
            let width = |column| block.width(ColumnKey { column, layer });
            if let (Some(inputs), Some(outputs)) = (width(Column::Input), width(Column::Delta)) {
                factored.push(Factored { layer, inputs, outputs, bias: record.bias });
            }
        }
        Self { factored, folded: block.width(Column::Folded) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.factored.is_empty() && self.folded.is_none()
    }

    /// Length of each part.
    pub(super) fn widths(&self) -> Vec<usize> {
        self.factored.iter().flat_map(|f| [f.inputs, f.outputs]).chain(self.folded).collect()
    }

    /// Of each part, whether it is a random projection of a longer vector and not the vector itself.
    pub(super) fn projected(&self, layers: &[LayerRecord]) -> Vec<bool> {
        let sides = self.factored.iter().flat_map(|f| {
            let whole = layers.get(usize::from(f.layer)).map_or((0, 0), |layer| (layer.inputs, layer.outputs));
            [whole.0 as usize > f.inputs, whole.1 as usize > f.outputs]
        });
        sides.chain(self.folded.map(|_| true)).collect()
    }

    /// In words, with the names of the layers.
    pub(super) fn describe(&self, layers: &[LayerRecord]) -> String {
        let mut parts: Vec<String> = self
            .factored
            .iter()
            .map(|f| {
                let name = layers.get(usize::from(f.layer)).map_or("?", |layer| layer.name.as_str());
                format!("{name} factored {}x{}", f.inputs, f.outputs)
            })
            .collect();
        parts.extend(self.folded.map(|width| format!("the others folded to {width}")));
        if parts.is_empty() {
            return "no gradients".into();
        }
        parts.join(", ")
    }

    fn keys(&self) -> impl Iterator<Item = (ColumnKey, ColumnKey)> + '_ {
        let factored = self.factored.iter().flat_map(|f| {
            let key = |column| ColumnKey { column, layer: f.layer };
            [(key(Column::Input), key(Column::InputScale)), (key(Column::Delta), key(Column::DeltaScale))]
        });
        factored.chain(self.folded.map(|_| (Column::Folded.into(), Column::FoldedScale.into())))
    }
}

/// The vectors of a block, inflated but still as they are stored.
pub(super) struct Gradients {
    parts: Vec<Vectors>,
}

impl Gradients {
    /// Reads the vectors of a block whose layout is `layout`.
    pub(super) fn read(block: &Block, layout: &Layout) -> Result<Self, ReadError> {
        let parts = layout.keys().map(|(values, scales)| block.vectors(values, scales)).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }

    /// Vectors that no block holds.
    #[cfg(test)]
    pub(super) fn made(parts: Vec<Vectors>) -> Self {
        Self { parts }
    }

    /// The vectors of one part.
    pub(super) fn part(&self, part: usize) -> &Vectors {
        &self.parts[part]
    }
}
