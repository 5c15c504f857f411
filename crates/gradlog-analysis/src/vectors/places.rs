//! Which parameters the numbers of a flat vector belong to.

use super::flatten::Flattener;
use super::part::{FoldedBasis, Part, Place};
use gradlog_format::log::{LayerRecord, Manifest};
use gradlog_format::sketch::locate;
use std::ops::Range;

/// A parameter: the number of its layer, and its place among the parameters of the layer.
pub(crate) type ParameterNumber = (u16, usize);

/// Numbers of a block that belong to the same parameters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stretch {
    pub places: Range<usize>,
    /// The entries of the layout that they are of: the factored layers, then the folded vector. One, unless several
    /// share the numbers.
    pub entries: Vec<usize>,
    /// The parameters, as far as their shapes are known.
    pub parameters: Vec<ParameterNumber>,
    /// How many elements of the parameters a number stands for, at least 1.
    pub pool: f32,
}

fn elements(shape: &(String, Vec<u64>)) -> usize {
    let product = shape.1.iter().fold(1u64, |product, side| product.saturating_mul(*side));
    usize::try_from(product).unwrap_or(usize::MAX)
}

/// The number of a bias behind the weight, if the layer has both.
fn bias_number(layer: Option<&LayerRecord>) -> usize {
    layer.map_or(1, |layer| layer.shapes.len().saturating_sub(1))
}

impl Flattener {
    /// The stretches of each block, in order. Numbers between them are 0 in every vector.
    pub(crate) fn stretches(&self, manifest: &Manifest) -> Vec<Vec<Stretch>> {
        let mut blocks: Vec<Vec<Stretch>> = self.blocks.iter().map(|_| Vec::new()).collect();
        for region in &self.regions {
            let alone = self.regions.iter().filter(|other| other.block == region.block).count() == 1;
            let parts = self.parts[region.block].iter().filter(|part| alone || part.is_folded() == region.is_folded);
            let parts: Vec<&Part> = parts.collect();
            let out = &mut blocks[region.block];
            let before = out.len();
            let is_whole = parts.iter().all(|part| self.add_stretches(part, manifest, out));
            if !is_whole {
                out.truncate(before);
                let layers: Vec<u16> = parts.iter().flat_map(|part| self.layers_of(part, manifest)).collect();
                let records = || layers.iter().filter_map(|layer| manifest.layers.get(usize::from(*layer)));
                let parameters: u64 = records().map(|layer| layer.parameters).fold(0, u64::saturating_add);
                out.push(Stretch {
                    places: region.places.clone(),
                    entries: parts.iter().map(|part| self.entry(part)).collect(),
                    parameters: (layers.iter().zip(records()))
                        .flat_map(|(layer, record)| (0..record.shapes.len()).map(|number| (*layer, number)))
                        .collect(),
                    pool: (parameters as f32 / region.places.len().max(1) as f32).max(1.0),
                });
            }
        }
        blocks
    }

    /// The layers whose gradients are in a part.
    fn layers_of(&self, part: &Part, manifest: &Manifest) -> Vec<u16> {
        let is_factored = |number: usize| self.whole.factored.iter().any(|f| usize::from(f.layer) == number);
        match part {
            Part::Factored { layer, .. } => vec![layer.layer],
            Part::Folded { .. } => {
                let folded = (0..manifest.layers.len()).filter(|number| !is_factored(*number));
                folded.map(|number| number as u16).collect()
            }
        }
    }

    /// Adds the stretches of a part of which each number is known to belong to one parameter. Returns whether it is so.
    fn add_stretches(&self, part: &Part, manifest: &Manifest, out: &mut Vec<Stretch>) -> bool {
        match part {
            Part::Factored { layer, place: Place::At(first), .. } => {
                let record = manifest.layers.get(usize::from(layer.layer));
                let (rows, length) = part.sides();
                let parameters = record.map_or(0, |record| record.parameters);
                let pool = (parameters as f32 / (rows * length).max(1) as f32).max(1.0);
                let weights = length - usize::from(layer.bias);
                for row in 0..rows {
                    let from = first + row * length;
                    let mut add = |places: Range<usize>, number: usize| {
                        if !places.is_empty() {
                            let (entries, parameters) = (vec![self.entry(part)], vec![(layer.layer, number)]);
                            out.push(Stretch { places, entries, parameters, pool });
                        }
                    };
                    add(from..from + weights, 0);
                    add(from + weights..from + length, bias_number(record));
                }
                true
            }
            Part::Folded { width, place: Place::At(first), basis: FoldedBasis::Buckets, .. } => {
                self.add_placed(*width, *first, manifest, out)
            }
            _ => false,
        }
    }

    /// Adds the stretches of folded layers whose parameters have a bucket each, of `width`. Returns whether all have.
    fn add_placed(&self, width: usize, first: usize, manifest: &Manifest, out: &mut Vec<Stretch>) -> bool {
        let is_factored = |number: usize| self.whole.factored.iter().any(|f| usize::from(f.layer) == number);
        let folded: Vec<usize> = (0..manifest.layers.len()).filter(|number| !is_factored(*number)).collect();
        if !width.is_power_of_two() {
            return false;
        }
        let (places, is_alone) = (manifest.fold_places(), folded.len() == 1);
        let mut stretches: Vec<Stretch> = Vec::new();
        for number in folded {
            let record = &manifest.layers[number];
            let length = usize::try_from(record.parameters).unwrap_or(usize::MAX);
            let place = places.get(number).and_then(|place| usize::try_from(*place).ok());
            // A layer that is hashed alone, and no longer than the vector, is turned in it and loses nothing.
            let begin = match place.filter(|place| place.saturating_add(length) <= width) {
                Some(place) => place,
                None if is_alone && length <= width => locate(record.seed_folded, width, 0).0,
                None => return false,
            };
            let mut from = begin;
            for (parameter, shape) in record.shapes.iter().enumerate() {
                let to = from.saturating_add(elements(shape)).min(begin + length);
                // It may go on at the beginning.
                let pieces = [from.min(width)..to.min(width), from.max(width) - width..to.max(width) - width];
                for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
                    let places = first + piece.start..first + piece.end;
                    // Tied layers lie at one place: the first that is met says whose it is.
                    if stretches.iter().all(|stretch| stretch.places.start != places.start) {
                        let entries = vec![self.layout.factored.len()];
                        let parameters = vec![(number as u16, parameter)];
                        stretches.push(Stretch { places, entries, parameters, pool: 1.0 });
                    }
                }
                from = to;
            }
        }
        stretches.sort_by_key(|stretch| stretch.places.start);
        out.append(&mut stretches);
        true
    }
}
