//! The manifest of a run: makes it from the taps, and compares it with that of an existing run.

use super::config::{Config, OnBatchNorm, Worker};
use super::error::RecordError;
use super::folding;
use super::reach::list_names;
use super::state::now_ms;
use crate::taps::{matching_variables, Registered, Registry};
use gradlog_format::log::{BatchNormHandling, BatchNormRecord, Extension, LayerRecord, Manifest, VariableRecord};
use gradlog_format::sketch::{derive_seed, Side};
use std::collections::hash_map::{HashMap, RandomState};
use std::hash::{BuildHasher, Hasher};

/// Makes the manifest of a run of these taps.
pub(super) fn make_manifest(registry: &Registry, config: &Config) -> Result<Manifest, RecordError> {
    let width = |n: usize, name: &str| {
        u32::try_from(n).map_err(|_| RecordError::Taps(vec![format!("layer `{name}` is wider than 2^32")]))
    };
    let shape = |dims: &[usize]| dims.iter().map(|d| *d as u64).collect::<Vec<u64>>();
    let mut layers = Vec::with_capacity(registry.layers.len());
    let recorded = registry.recorded_layers();
    for (number, layer) in recorded.iter().enumerate() {
        let (inputs, outputs) = layer.spec.factors.unwrap_or((0, 0));
        let seed = |side| derive_seed(config.seed, number as u32, side);
        // Tied layers share one tensor, so their gradients add. One seed gives them one projection.
        let folded_seed = derive_seed(config.seed, layer.tied.unwrap_or(number) as u32, Side::Folded);
        let own = layer.spec.parameters.iter().map(|p| (p.name.clone(), shape(p.shape.dims())));
        let mut shapes: Vec<_> = own.collect();
        let skipped = layer.skipped.iter().map(|(name, skipped)| (name.clone(), shape(skipped.dims())));
        shapes.splice(shapes.len().min(1)..shapes.len().min(1), skipped);
        layers.push(LayerRecord {
            name: layer.name.clone(),
            kind: layer.spec.kind.into(),
            inputs: width(inputs, &layer.name)?,
            outputs: width(outputs, &layer.name)?,
            bias: layer.spec.bias,
            parameters: (layer.spec.elements() + layer.skipped_elements()) as u64,
            shapes,
            seed_input: seed(Side::Input),
            seed_delta: seed(Side::Delta),
            seed_folded: folded_seed,
        });
    }
    // Statistics are not trained, so they are no parameters. Neither are frozen variables.
    let model = registry.trained_variables();
    let mut covered = vec![false; model.len()];
    // Numbers of recorded tensors that the declared map lacks. They are of the model as well.
    let mut outside = HashMap::new();
    for layer in &recorded {
        for parameter in &layer.spec.parameters {
            let variables = model.iter().map(|(name, shape, id)| (name.as_str(), shape, *id));
            let matches = matching_variables(&layer.name, parameter, variables);
            if let [one] = matches[..] {
                covered[one] = true;
            } else if let Some(id) = parameter.id {
                outside.insert(id, parameter.shape.elem_count() as u64);
            }
        }
    }
    let untapped = model.iter().zip(&covered).filter(|(_, covered)| !**covered).map(|(variable, _)| variable);
    let (random, clock) = (RandomState::new().build_hasher().finish(), RandomState::new().build_hasher().finish());
    let mut run_id = [0u8; 16];
    run_id[..8].copy_from_slice(&random.to_le_bytes());
    run_id[8..].copy_from_slice(&(clock ^ now_ms()).to_le_bytes());
    Ok(Manifest {
        run_id,
        created_ms: now_ms(),
        version: env!("CARGO_PKG_VERSION").into(),
        seed: config.seed,
        sketch: config.sketch.clone(),
        layers,
        untapped: untapped.map(|(name, s, _)| VariableRecord { name: name.clone(), shape: shape(s.dims()) }).collect(),
        model_parameters: registry.model.as_ref().map(|_| {
            let declared: u64 = model.iter().map(|(_, s, _)| s.elem_count() as u64).sum();
            declared + outside.values().sum::<u64>()
        }),
        notes: config.notes.iter().cloned().chain(frozen_note(registry)).collect(),
        worker: config.worker.map(Worker::to_record),
        extensions: batch_norm_record(registry, config)
            .map(|record| record.to_extension())
            .transpose()
            .map_err(|error| RecordError::Taps(vec![error.to_string()]))?
            .into_iter()
            .chain([Manifest::fold_places_field()])
            .chain(two_sided_field(&recorded, config)?)
            .collect(),
    })
}

/// What the manifest says of layers that are projected from both sides.
fn two_sided_field(layers: &[Registered], config: &Config) -> Result<Option<Extension>, RecordError> {
    let projected = config.folding.choose(layers, config.sketching);
    let field = (!projected.is_empty()).then(|| Manifest::two_sided_field(&projected)).transpose();
    field.map_err(|error| RecordError::Taps(vec![error.to_string()]))
}

/// What the run says of frozen layers and variables.
fn frozen_note(registry: &Registry) -> Option<(String, String)> {
    let frozen = registry.frozen_names();
    (!frozen.is_empty()).then(|| ("frozen".into(), format!("{} (not recorded)", list_names(&frozen).replace('`', ""))))
}

/// What the manifest says about BatchNorm layers that may run in training mode.
fn batch_norm_record(registry: &Registry, config: &Config) -> Option<BatchNormRecord> {
    let layers = registry.untapped_batch_norms();
    let handling = match config.on_batch_norm {
        OnBatchNorm::Frozen => BatchNormHandling::Frozen,
        OnBatchNorm::Refuse | OnBatchNorm::RecordShare => BatchNormHandling::Share,
    };
    (!layers.is_empty()).then_some(BatchNormRecord { handling, layers })
}

/// The difference in what is recorded for BatchNorm, between a run and what is to be recorded into it.
pub(super) fn find_batch_norm_difference(run: &Manifest, wanted: &Manifest) -> Option<String> {
    let words = |manifest: &Manifest| match manifest.batch_norm() {
        None => "no BatchNorm in training mode".to_owned(),
        Some(record) => {
            let how = match record.handling {
                BatchNormHandling::Frozen => "frozen BatchNorm",
                _ => "BatchNorm in training mode",
            };
            format!("{how} ({})", record.layers.join(", "))
        }
    };
    (run.batch_norm() != wanted.batch_norm()).then(|| format!("it has {}, now there is {}", words(run), words(wanted)))
}

/// Lists what differs between a run and what is to be recorded into it.
pub(super) fn list_differences(run: &Manifest, wanted: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    if run.seed != wanted.seed {
        found.push(format!("the seed was {}, now it is {}", run.seed, wanted.seed));
    }
    if run.sketch != wanted.sketch {
        found.push(format!("the sketches were {:?}, now they are {:?}", run.sketch, wanted.sketch));
    }
    found.extend(folding::find_difference(run, wanted));
    if run.worker != wanted.worker {
        let whose = |manifest: &Manifest| match manifest.worker {
            Some(w) => format!("the part of worker {} of {} under the {}", w.rank, w.workers, w.reduction),
            None => "a whole run".into(),
        };
        found.push(format!("it is {}, now it is to be {}", whose(run), whose(wanted)));
    }
    if run.layers.len() != wanted.layers.len() {
        found.push(format!("it has {} layers, now there are {}", run.layers.len(), wanted.layers.len()));
    }
    for (old, new) in run.layers.iter().zip(&wanted.layers) {
        let seeds = |layer: &LayerRecord| [layer.seed_input, layer.seed_delta, layer.seed_folded];
        if old.name != new.name || old.kind != new.kind {
            found.push(format!("layer `{}` ({}) is now `{}` ({})", old.name, old.kind, new.name, new.kind));
        } else if old.shapes != new.shapes {
            let (before, now) = (shape_words(old), shape_words(new));
            found.push(format!("layer `{}` had {before}, now it has {now}", old.name));
        } else if seeds(old) != seeds(new) && run.seed == wanted.seed {
            // Another seed of the run changes all of these, and is named above.
            found.push(format!("layer `{}` shares its weight with other layers than before", old.name));
        } else if (old.inputs, old.outputs, old.bias, old.parameters)
            != (new.inputs, new.outputs, new.bias, new.parameters)
        {
            let sizes = |layer: &LayerRecord| format!("{} inputs and {} outputs", layer.inputs, layer.outputs);
            found.push(format!("layer `{}` had {}, now it has {}", old.name, sizes(old), sizes(new)));
        }
    }
    found
}

/// The shapes of a layer's parameters: `weight [7, 6], bias [7]`.
fn shape_words(layer: &LayerRecord) -> String {
    let words: Vec<String> = layer.shapes.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
    words.join(", ")
}
