//! Whether the parts of several workers make one run, and the manifest of the whole.

use super::error::ReadError;
use crate::log::{LayerRecord, Manifest, WorkerRecord};
use std::path::Path;

/// All manifests of a run are held, so there is a limit on their bytes.
const PART_MANIFESTS_BYTES_MAX: u64 = 1 << 28;

/// The manifest of a run of several workers, made from those of its parts one after another.
pub(super) struct Union<'a> {
    dir: &'a Path,
    whole: Option<Manifest>,
    bytes: u64,
}

impl<'a> Union<'a> {
    /// No part of the run in `dir` is known yet.
    pub(super) fn new(dir: &'a Path) -> Self {
        Self { dir, whole: None, bytes: 0 }
    }

    fn refuse(&self, what: String) -> ReadError {
        ReadError::Workers { path: self.dir.to_owned(), what }
    }

    /// Counts the bytes of a manifest before it is read.
    pub(super) fn add_bytes(&mut self, bytes: u64) -> Result<(), ReadError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > PART_MANIFESTS_BYTES_MAX {
            return Err(self.refuse(format!(
                "the manifests of its parts have more than {PART_MANIFESTS_BYTES_MAX} bytes together"
            )));
        }
        Ok(())
    }

    /// Adds the part in `folder`, whose name says `rank`. Checks that it belongs to the run.
    pub(super) fn add(&mut self, rank: u32, folder: &Path, manifest: &Manifest) -> Result<(), ReadError> {
        match manifest.worker {
            Some(WorkerRecord { rank: own, .. }) if own == rank => {}
            Some(WorkerRecord { rank: own, workers, .. }) => {
                return Err(self.refuse(format!("{} holds the part of worker {own} of {workers}", folder.display())))
            }
            None => {
                let what = format!("{} holds a whole run and not the part of a worker", folder.display());
                return Err(self.refuse(what));
            }
        }
        let Some(whole) = &mut self.whole else {
            self.whole = Some(manifest.clone());
            return Ok(());
        };
        let found = differences(whole, manifest);
        if !found.is_empty() {
            return Err(self.refuse(found.join("; ")));
        }
        whole.created_ms = whole.created_ms.min(manifest.created_ms);
        for (name, value) in &manifest.notes {
            if !whole.notes.contains(&(name.clone(), value.clone())) {
                whole.notes.push((format!("{name} (worker {rank})"), value.clone()));
            }
        }
        Ok(())
    }

    /// The manifest of the whole: that of the lowest rank without the rank, with the notes of all parts.
    pub(super) fn finish(self) -> Result<Manifest, ReadError> {
        match self.whole {
            Some(whole) => Ok(Manifest { worker: None, ..whole }),
            None => Err(self.refuse("it holds no part".into())),
        }
    }
}

/// The differences between the manifests of two parts that must agree in all parts of a run, in words. Empty if they
/// fit.
pub fn differences(one: &Manifest, other: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    let name = |manifest: &Manifest| manifest.worker.map_or("a whole run".into(), |w| format!("worker {}", w.rank));
    let (first, second) = (name(one), name(other));
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{what} {a} in the part of {first} and {b} in that of {second}"));
        }
    };
    let of = |manifest: &Manifest| manifest.worker.map(|w| (w.workers, w.reduction));
    if let (Some(a), Some(b)) = (of(one), of(other)) {
        differ("the number of workers is", a.0.to_string(), b.0.to_string());
        differ("the reduction is the", a.1.to_string(), b.1.to_string());
    }
    differ("the seed is", one.seed.to_string(), other.seed.to_string());
    differ("the sketches are", format!("{:?}", one.sketch), format!("{:?}", other.sketch));
    differ("the number of layers is", one.layers.len().to_string(), other.layers.len().to_string());
    if one.layers.len() == other.layers.len() {
        for (number, (a, b)) in one.layers.iter().zip(&other.layers).enumerate().filter(|(_, (a, b))| a != b) {
            let same_name = a.name == b.name && a.kind == b.kind;
            let words = |l: &LayerRecord| match same_name {
                true => format!("`{}` of shapes {:?}", l.name.escape_debug(), l.shapes),
                false => format!("`{}` ({})", l.name.escape_debug(), l.kind.escape_debug()),
            };
            let (a, b) = (words(a), words(b));
            // Names and shapes may be the same where only the seeds or the bias are not.
            let b = if a == b { format!("another `{}`", other.layers[number].name.escape_debug()) } else { b };
            differ(&format!("layer {number} is"), a, b);
        }
    }
    found
}
