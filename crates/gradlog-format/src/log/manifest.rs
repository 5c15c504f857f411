//! The manifest describes a run. It is written once, when the run is created (FORMAT.md, "Manifest").

use super::codec::{self, DecodeError};
use super::extension::{self, Extension};
use super::prefix::{check_prefix, file_prefix, Prefix, FORMAT_VERSION};
use super::worker::{WorkerRecord, WORKERS_MAX};
use crate::sketch::SketchConfig;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The most layers that a run may have. Their numbers have 16 bits, and one value means "no layer".
pub const LAYERS_MAX: usize = 65_535;
/// File kind of the manifest.
const KIND_MANIFEST: u16 = 1;

/// One layer whose gradients the run holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The name that the layer was tapped under.
    pub name: String,
    /// Its type: `linear`, `conv2d`, ...
    pub kind: String,
    /// Width of its input factor, without the 1 that is appended for the bias. 0 if its gradient is always folded.
    pub inputs: u32,
    /// Width of its output-gradient factor. 0 if its gradient is always folded.
    pub outputs: u32,
    /// Whether it has a bias. Then its gradient is `δ ⊗ [a; 1]`.
    pub bias: bool,
    /// How many numbers its whole gradient has.
    pub parameters: u64,
    /// Name and shape of each of its parameters, in the order of the flattened gradient.
    pub shapes: Vec<(String, Vec<u64>)>,
    /// Seed of the fold of its input factor.
    pub seed_input: u64,
    /// Seed of the fold of its output-gradient factor.
    pub seed_delta: u64,
    /// Seed of the fold of its whole gradient.
    pub seed_folded: u64,
}

/// Tag of the extension field that says that layers are placed side by side in the folded vector.
const TAG_FOLD_PLACES: u16 = 2;

/// A variable of the model that no tapped layer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariableRecord {
    /// Its name in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
}

/// Describes a run: its layers, seeds and sketches, and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Random bytes that identify the run. Each of its segments repeats them.
    pub run_id: [u8; 16],
    /// When the run was created, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The gradlog version that wrote it.
    pub version: String,
    /// The seed that all other seeds were derived from.
    pub seed: u64,
    /// Lengths and encodings of the sketches.
    pub sketch: SketchConfig,
    /// The recorded layers. A layer's number is its place here.
    pub layers: Vec<LayerRecord>,
    /// Variables of the model that no recorded layer holds. Empty if the model was not declared.
    pub untapped: Vec<VariableRecord>,
    /// How many parameters the model has, if it was declared.
    pub model_parameters: Option<u64>,
    /// Notes of the program that recorded the run: name and value.
    pub notes: Vec<(String, String)>,
    /// The worker that recorded this part, if several workers record the run.
    pub worker: Option<WorkerRecord>,
    /// Fields that this version does not know, and private ones, in ascending order of their tags. To keep them is
    /// enough: no number in the run depends on them.
    #[serde(skip)]
    pub extensions: Vec<Extension>,
}

impl Manifest {
    /// How many parameters the recorded layers have. A tensor that several layers share counts once.
    pub fn recorded_parameters(&self) -> u64 {
        let mut sum = 0u64;
        // Tied layers lie in one vector, which the longest of them fills.
        let mut longest = HashMap::new();
        for layer in &self.layers {
            if layer.shapes.is_empty() {
                sum = sum.saturating_add(layer.parameters);
                continue;
            }
            let counted = longest.entry(layer.seed_folded).or_insert(0u64);
            sum = sum.saturating_add(layer.parameters.saturating_sub(*counted));
            *counted = layer.parameters.max(*counted);
        }
        sum
    }

    /// Where each layer's gradient lies in the folded vector if it is placed there: the layers side by side, in the
    /// order of FORMAT.md. In the order of the layers; empty if the run places none (FORMAT.md,
    /// "Folded"). A layer that is projected from both sides ([`Manifest::two_sided`]) has no place: its is `u64::MAX`.
    pub fn fold_places(&self) -> Vec<u64> {
        if self.extensions.iter().all(|field| field.tag != TAG_FOLD_PLACES) {
            return Vec::new();
        }
        // Tied layers have one gradient, which is the sum of theirs. One may have a bias that the other lacks.
        let mut longest = HashMap::new();
        for layer in &self.layers {
            let length = longest.entry(layer.seed_folded).or_insert(0);
            *length = layer.parameters.max(*length);
        }
        // What is projected has no place of its own: it is hashed onto the others. A field that cannot be read is
        // refused where runs are opened.
        let projected = self.two_sided().unwrap_or_default();
        let mut places = vec![0u64; self.layers.len()];
        let mut next = 0u64;
        let mut of_seed = HashMap::new();
        for number in self.fold_order() {
            let seed = self.layers[number].seed_folded;
            places[number] = *of_seed.entry(seed).or_insert_with(|| {
                let place = next;
                next = next.saturating_add(longest.get(&seed).copied().unwrap_or(0));
                place
            });
            if projected.contains_key(&(number as u32)) {
                places[number] = u64::MAX;
            }
        }
        places
    }

    /// The numbers of the layers: first those that are never factored, then the others.
    fn fold_order(&self) -> impl Iterator<Item = usize> + '_ {
        let never = |number: &usize| self.layers[*number].inputs == 0;
        let all = || 0..self.layers.len();
        all().filter(never).chain(all().filter(move |number| !never(number)))
    }

    /// The extension field that says that the layers of a run are placed side by side in the folded vector.
    pub fn fold_places_field() -> Extension {
        Extension { tag: TAG_FOLD_PLACES, bytes: Vec::new() }
    }

    /// The share of the model's parameters that is recorded, if the model was declared.
    pub fn coverage(&self) -> Option<f64> {
        self.model_parameters.map(|all| (self.recorded_parameters() as f64 / (all as f64).max(1.0)).min(1.0))
    }

    /// The bytes of the manifest file.
    ///
    /// # Errors
    /// [`DecodeError`] if the manifest is too large for the format.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DecodeError> {
        self.check_limits()?;
        let mut payload = codec::encode(self)?;
        extension::append(&mut payload, &self.extensions)?;
        let mut bytes = file_prefix(KIND_MANIFEST).to_vec();
        if bytes.len() + 8 + payload.len() > codec::DECODE_LIMIT_BYTES {
            let length = bytes.len() + 8 + payload.len();
            return Err(DecodeError(format!("a manifest of {length} bytes, more than the format allows")));
        }
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(checksum(&bytes, &payload).to_le_bytes());
        bytes.extend(payload);
        Ok(bytes)
    }

    /// Reads the bytes of a manifest file.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are no manifest, are damaged, or are of a newer format version.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        // Version 1 is the only one. Of a later one, the prefix says which layout follows.
        const { assert!(FORMAT_VERSION == 1, "read the manifest by the version of its prefix") };
        let Prefix { rest, .. } = check_prefix(bytes, KIND_MANIFEST)?;
        if bytes.len() > codec::DECODE_LIMIT_BYTES {
            return Err(DecodeError(format!("a manifest of {} bytes, more than the format allows", bytes.len())));
        }
        let (Some(length), Some(crc)) = (read_u32(rest, 0), read_u32(rest, 4)) else {
            return Err(DecodeError("the manifest ends within its header".into()));
        };
        let payload = &rest[8..];
        if payload.len() != length as usize {
            return Err(DecodeError(format!("the manifest has {} bytes of {length}", payload.len())));
        }
        if checksum(&bytes[..16], payload) != crc {
            return Err(DecodeError("the manifest's checksum does not match".into()));
        }
        let (mut manifest, read) = codec::decode_front::<Self>(payload)?;
        manifest.extensions = extension::parse(&payload[read..])?;
        manifest.check_limits()?;
        if let Some(WorkerRecord { rank, workers, .. }) = manifest.worker {
            if rank >= workers || workers > WORKERS_MAX {
                return Err(DecodeError(format!("worker {rank} of {workers}: ranks are counted from 0")));
            }
        }
        Ok(manifest)
    }

    fn check_limits(&self) -> Result<(), DecodeError> {
        match self.layers.len() {
            0..=LAYERS_MAX => Ok(()),
            more => Err(DecodeError(format!("{more} layers, more than the {LAYERS_MAX} that the format allows"))),
        }
    }
}

/// CRC-32 of the 16 bytes before the checksum and the payload behind it.
fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    let four = bytes.get(offset..offset + 4)?;
    Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}
