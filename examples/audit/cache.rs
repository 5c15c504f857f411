//! Trainings that need not be done twice: what came of each is kept in a file.

use crate::images::Images;
use crate::task::Setting;
use anyhow::{Context, Result};
use gradlog_analysis::audit::{Change, Trained, TrainingError};
use std::collections::BTreeMap;
use std::path::PathBuf;

type Entry = (Vec<f64>, Vec<bool>);

/// What came of trainings, by what they were. Without a folder nothing is kept.
pub struct Cache {
    path: Option<PathBuf>,
    prefix: String,
    known: BTreeMap<String, Entry>,
    fresh: usize,
}

impl Cache {
    /// Of one setting with its images and probes; `folder` is that of the cache.
    pub fn open(folder: Option<&PathBuf>, setting: &Setting, images: &Images, probes: &Images) -> Result<Self> {
        let what = format!(
            "{} {:08x} {:08x} {}",
            setting.describe(images.len(), crate::images::Pixels::Unit),
            images.checksum(),
            probes.checksum(),
            probes.len()
        );
        let path = folder.map(|folder| folder.join(format!("{:08x}.json", crc32fast::hash(what.as_bytes()))));
        let known = match path.as_ref().filter(|path| path.exists()) {
            Some(path) => serde_json::from_slice(&std::fs::read(path)?)
                .with_context(|| format!("{} is no cache of trainings: remove it", path.display()))?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, prefix: what, known, fresh: 0 })
    }

    /// What came of a training, or what `train` makes of it.
    pub fn get(
        &mut self,
        seed: u64,
        change: &Change<'_>,
        train: impl FnOnce() -> Result<Trained, TrainingError>,
    ) -> Result<Trained, TrainingError> {
        if self.path.is_none() {
            return train();
        }
        let key = format!("{} {seed} {}", self.prefix, describe(change));
        if let Some((losses, right)) = self.known.get(&key) {
            return Ok(Trained { losses: losses.clone(), right: right.clone() });
        }
        let trained = train()?;
        self.known.insert(key, (trained.losses.clone(), trained.right.clone()));
        self.fresh += 1;
        if self.fresh.is_multiple_of(50) {
            self.write()?;
        }
        Ok(trained)
    }

    /// Writes the file.
    pub fn write(&self) -> Result<()> {
        let Some(path) = self.path.as_ref().filter(|_| self.fresh > 0) else { return Ok(()) };
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let write = || std::fs::write(path, serde_json::to_vec(&self.known)?);
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn describe(change: &Change<'_>) -> String {
    let of = |ids: &[u64]| {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        format!("{} {:08x}", ids.len(), crc32fast::hash(&bytes))
    };
    match change {
        Change::Weighted { examples, weight } => format!("weight {weight} of {}", of(examples)),
        Change::Only(ids) => format!("only {}", of(ids)),
        other => format!("{other:?}"),
    }
}
