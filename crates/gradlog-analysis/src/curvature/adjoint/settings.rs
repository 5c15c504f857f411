//! The optimizer's settings for each number of a flat vector: parameter groups have their own.

use crate::rows::layer_rates::{Factors, LayerRates};
use crate::vectors::flatten::Flattener;
use crate::vectors::places::ParameterNumber;
use crate::AnalysisError;
use gradlog_format::log::Manifest;
use std::ops::{Range, RangeInclusive};

/// Numbers of a block that share their settings.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::curvature) struct Setting {
    pub places: Range<usize>,
    /// What multiplies the learning rate of the step.
    pub rate: f32,
    /// The weight decay, if it is not that of the step.
    pub decay: Option<f32>,
    /// How many parameters a number stands for.
    pub pool: f32,
}

/// The settings of each block of the flat vectors.
///
/// # Errors
/// [`AnalysisError::OutOfRange`] if parameters share numbers and have several learning rates, or if a decay changes.
pub(in crate::curvature) fn settings(
    flattener: &Flattener,
    manifest: &Manifest,
    (factors, rates): (&Factors, &LayerRates),
    steps: &RangeInclusive<u64>,
) -> Result<Vec<Vec<Setting>>, AnalysisError> {
    let decay = |parameter: &ParameterNumber| {
        rates.decay(*parameter, steps).map_err(|step| AnalysisError::OutOfRange {
            what: "the weight decay of a parameter group",
            given: format!("another one from step {step} on"),
            range: "one throughout: the adjoint unrolls all steps of the run".into(),
        })
    };
    let elements = |(layer, number): &ParameterNumber| {
        let record = manifest.layers.get(usize::from(*layer));
        let shape = record.and_then(|record| record.shapes.get(*number));
        shape.map_or(0, |(_, shape)| shape.iter().fold(1u64, |product, side| product.saturating_mul(*side)))
    };
    let factors = factors.of(&flattener.layout);
    let mut blocks = Vec::new();
    for stretches in flattener.stretches(manifest) {
        let mut block: Vec<Setting> = Vec::new();
        for stretch in stretches {
            let mut own = stretch.entries.iter().filter_map(|entry| factors.get(*entry).copied());
            let rate = own.next().unwrap_or(1.0);
            if let Some(other) = own.find(|other| *other != rate) {
                return Err(AnalysisError::OutOfRange {
                    what: "the learning rates of the layers",
                    given: format!("{rate} and {other} times the step's, of layers that share numbers"),
                    range: "one rate for layers that share numbers: take the adjoint layer by layer".into(),
                });
            }
            // Those that share numbers take the decay of the largest: in most models biases alone have another.
            let largest = stretch.parameters.iter().max_by_key(|parameter| elements(parameter));
            let decay = largest.map(decay).transpose()?.flatten();
            match block.last_mut() {
                Some(Setting { places, rate: last, decay: of_last, pool })
                    if places.end == stretch.places.start
                        && (*last, *of_last, *pool) == (rate, decay, stretch.pool) =>
                {
                    places.end = stretch.places.end;
                }
                _ => block.push(Setting { places: stretch.places, rate, decay, pool: stretch.pool }),
            }
        }
        blocks.push(block);
    }
    Ok(blocks)
}
