//! Gradients as a block holds them: which layers, in which form, and their vectors.

use crate::AnalysisError;
use gradlog_format::log::{Column, ColumnKey, LayerRecord, Manifest};
use gradlog_format::run::{Block, Origin, ReadError, Vectors};

/// A layer whose gradient is kept as two factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Factored {
    pub layer: u16,
    pub inputs: usize,
    pub outputs: usize,
    pub bias: bool,
    pub input_origin: Origin,
    pub delta_origin: Origin,
}

/// The name of all folded layers together.
const FOLDED: &str = "folded";

/// Which vectors the rows of a block have. Two gradients have a dot product if their layouts are equal.
///
/// The vectors ("parts") are numbered: input and delta of each factored layer in turn, then the folded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub factored: Vec<Factored>,
    pub folded: Option<usize>,
}

impl Layout {
    /// The layout of a block, empty if it holds no gradients.
    pub(crate) fn read(block: &Block, manifest: &Manifest) -> Self {
        let mut factored = Vec::new();
        for layer in block.layers(Column::Input) {
            let Some(record) = manifest.layers.get(usize::from(layer)) else { continue };
            let width = |column| block.width(ColumnKey { column, layer });
            if let (Some(inputs), Some(outputs)) = (width(Column::Input), width(Column::Delta)) {
                let input_origin = Origin::of_input(record, &manifest.sketch);
                let delta_origin = Origin::of_delta(record, &manifest.sketch);
                factored.push(Factored { layer, inputs, outputs, bias: record.bias, input_origin, delta_origin });
            }
        }
        Self { factored, folded: block.width(Column::Folded) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.factored.is_empty() && self.folded.is_none()
    }

    /// Length of each part.
    pub(crate) fn widths(&self) -> Vec<usize> {
        self.factored.iter().flat_map(|f| [f.inputs, f.outputs]).chain(self.folded).collect()
    }

    /// Bytes of one decoded gradient.
    pub(crate) fn decoded_bytes(&self) -> usize {
        self.widths().iter().fold(0usize, |sum, width| sum.saturating_add(width.saturating_mul(4)))
    }

    /// Of each part, whether it is a random projection of a longer vector, and so has lost something.
    ///
    /// `places` are those of the layers in the folded vector ([`Manifest::fold_places`]).
    pub(crate) fn projected(&self, layers: &[LayerRecord], places: &[u64]) -> Vec<bool> {
        let loses = |origin: Origin, width: usize| match origin {
            // A rotation of the next power of two is exact.
            Origin::Projected { inputs, .. } => inputs as usize > width || !width.is_power_of_two(),
            _ => false,
        };
        let sides =
            self.factored.iter().flat_map(|f| [loses(f.input_origin, f.inputs), loses(f.delta_origin, f.outputs)]);
        let folded = |width: usize| {
            let is_factored = |number: usize| self.factored.iter().any(|f| usize::from(f.layer) == number);
            let others = layers.iter().enumerate().filter(|(number, _)| !is_factored(*number));
            let others: Vec<(usize, &LayerRecord)> = others.collect();
            // Layers that are placed side by side and fit lose nothing, and so does one that fits alone.
            let fits = |number: usize, layer: &LayerRecord| match (places.get(number), others.len()) {
                (Some(place), _) => place.saturating_add(layer.parameters) <= width as u64,
                (None, 1) => layer.parameters <= width as u64,
                (None, _) => false,
            };
            others.is_empty() || !width.is_power_of_two() || !others.iter().all(|(number, layer)| fits(*number, layer))
        };
        sides.chain(self.folded.map(folded)).collect()
    }

    /// In words, with the names of the layers.
    pub(crate) fn describe(&self, layers: &[LayerRecord]) -> String {
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

    /// Names of the blocks of a gradient that stand apart: each factored layer, then all folded ones together. One that
    /// is folded alone has its own name. `whole` is the layout that this one is of.
    pub(crate) fn names(&self, whole: &Layout, layers: &[LayerRecord]) -> Vec<String> {
        let name = |f: &Factored| layers.get(usize::from(f.layer)).map_or_else(String::new, |layer| layer.name.clone());
        let mut names: Vec<String> = self.factored.iter().map(name).collect();
        if self.folded.is_some() {
            names.push(match whole.folded_layers(layers).as_slice() {
                [one] => (*one).to_owned(),
                _ => FOLDED.into(),
            });
        }
        names
    }

    /// Names of the layers that share the folded vector.
    fn folded_layers<'a>(&self, layers: &'a [LayerRecord]) -> Vec<&'a str> {
        let factored = |number: usize| self.factored.iter().any(|f| usize::from(f.layer) == number);
        let folded = layers.iter().enumerate().filter(|(number, _)| self.folded.is_some() && !factored(*number));
        folded.map(|(_, layer)| layer.name.as_str()).collect()
    }

    /// Numbers of the layers whose gradients are in it. `whole` is the layout that this one is of.
    pub(crate) fn layer_numbers(&self, whole: &Layout, layers: &[LayerRecord]) -> Vec<usize> {
        let own = |number: usize| self.factored.iter().any(|f| usize::from(f.layer) == number);
        let factored = |number: usize| whole.factored.iter().any(|f| usize::from(f.layer) == number);
        (0..layers.len()).filter(|number| own(*number) || self.folded.is_some() && !factored(*number)).collect()
    }

    /// The same with the vectors of some layers alone, by name; of all if none is named.
    ///
    /// # Errors
    /// [`AnalysisError::NoSuchLayer`] for a name that is not there, or that of a layer whose gradient shares a vector
    /// with those of others that are not named.
    pub(crate) fn select_layers(&self, names: &[String], layers: &[LayerRecord]) -> Result<Self, AnalysisError> {
        if names.is_empty() {
            return Ok(self.clone());
        }
        let named = |name: &str| names.iter().any(|other| other == name);
        let has_name = |f: &&Factored| layers.get(usize::from(f.layer)).is_some_and(|layer| named(&layer.name));
        let factored: Vec<Factored> = self.factored.iter().filter(has_name).cloned().collect();
        let folded = self.folded_layers(layers);
        let alone = |name: &String| {
            let factored = factored.iter().any(|f| layers.get(usize::from(f.layer)).is_some_and(|l| l.name == *name));
            !factored && !folded.contains(&name.as_str()) && (name != FOLDED || self.folded.is_none())
        };
        let whole =
            self.folded.is_some() && (named(FOLDED) || !folded.is_empty() && folded.iter().all(|name| named(name)));
        if let Some(name) = names.iter().find(|name| alone(name)) {
            let known = self.names(self, layers);
            return Err(AnalysisError::NoSuchLayer { name: name.clone(), known, folded: Vec::new() });
        }
        if let (false, Some(name)) = (whole, names.iter().find(|name| folded.contains(&name.as_str()))) {
            let folded = folded.into_iter().map(str::to_owned).collect();
            return Err(AnalysisError::NoSuchLayer { name: name.clone(), known: self.names(self, layers), folded });
        }
        Ok(Self { factored, folded: self.folded.filter(|_| whole) })
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (ColumnKey, Origin)> + '_ {
        let factored = self.factored.iter().flat_map(|f| {
            let key = |column| ColumnKey { column, layer: f.layer };
            [(key(Column::Input), f.input_origin), (key(Column::Delta), f.delta_origin)]
        });
        factored.chain(self.folded.map(|_| (Column::Folded.into(), Origin::Rotated)))
    }
}

/// The vectors of a block, inflated but still as they are stored.
pub(crate) struct Gradients {
    parts: Vec<Vectors>,
}

impl Gradients {
    /// Reads the vectors of a block whose layout is `layout`.
    pub(crate) fn read(block: &Block, layout: &Layout) -> Result<Self, ReadError> {
        block.announce(layout.keys().map(|(values, _)| values));
        let parts = layout.keys().map(|(values, origin)| block.vectors(values, origin)).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }

    /// Vectors that no block holds.
    #[cfg(test)]
    pub(crate) fn made(parts: Vec<Vectors>) -> Self {
        Self { parts }
    }

    /// The vectors of one part.
    pub(crate) fn part(&self, part: usize) -> &Vectors {
        &self.parts[part]
    }
}
