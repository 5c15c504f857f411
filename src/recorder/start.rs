//! Starting a recorder: on a new run, or on one that is there.

use super::message::Message;
use super::past::{lock_at_the_end, Past};
use super::queue::{Gauge, Queue};
use super::rows::{LayerSketcher, RowMaker};
use super::thread::{self, Shared};
use super::workers::{part_folder, same_end};
use super::{now_ms, Config, Inner, RecordError, Recorder};
use crate::taps::{LazyFold, Registered, Registry, SharedFold, Taps};
use gradlog_format::log::{LayerRecord, LogWriter, Manifest, VariableRecord, WriterOptions};
use gradlog_format::run::{ReadError, Run};
use gradlog_format::sketch::{derive_seed, Side};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

impl Recorder {
    /// Starts a run in the folder `dir`, which is made if need be and must not hold a run.
    ///
    /// One of several workers ([`Config::worker`]) starts its part of the run; the folder may hold the parts of others.
    ///
    /// # Errors
    /// [`RecordError::Taps`] for refused layers and names used twice, [`RecordError::Config`] for settings out of range,
    /// [`RecordError::Start`] if the folder cannot be written or holds a run, [`RecordError::Worker`] if it holds parts of workers
    /// with other layers, seeds or sketches.
    pub fn create(dir: impl AsRef<Path>, taps: &Taps, config: Config) -> Result<Self, RecordError> {
        let (manifest, held) = prepare(taps, &config)?;
        let folder = part_folder(dir.as_ref(), &manifest)?;
        let writer =
            LogWriter::create(&folder, &manifest, options(&config)).map_err(|e| RecordError::Start(Arc::new(e)))?;
        start(&folder, taps, held, config, manifest, writer, Past::default())
    }

    /// Goes on with the run in the folder `dir`, after a crash or by intention, at the step after the last that was recorded with its
    /// visits.
    ///
    /// The taps must be those that the run was recorded with, and seed and sketches the same. Nothing that is there is changed: what
    /// follows goes into new segments.
    ///
    /// All that is there is read and checked first, for what is recorded behind damage is read by nobody.
    ///
    /// Workers take up their parts each for itself. All must go on at one step, so this is refused where their parts end at
    /// different ones, as they do after a crash: say then by [`Recorder::resume_at`] where the training goes on.
    ///
    /// # Errors
    /// [`RecordError::Resume`] if there is no run, if it is damaged, or if layers, shapes, seeds or scheme differ, saying which;
    /// else as [`Recorder::create`].
    pub fn resume(dir: impl AsRef<Path>, taps: &Taps, config: Config) -> Result<Self, RecordError> {
        Self::take_up(dir.as_ref(), taps, config, None)
    }

    /// As [`Recorder::resume`], at step `step`: for a training that starts again from an earlier checkpoint, taken before that step.
    /// What was recorded at that step and later is superseded: it stays in the files and is counted no more. Visits of earlier steps
    /// that the log should have and has not, as after a full disk, are counted as dropped.
    ///
    /// # Errors
    /// As [`Recorder::resume`].
    pub fn resume_at(dir: impl AsRef<Path>, taps: &Taps, config: Config, step: u64) -> Result<Self, RecordError> {
        Self::take_up(dir.as_ref(), taps, config, Some(step))
    }

    fn take_up(dir: &Path, taps: &Taps, config: Config, step: Option<u64>) -> Result<Self, RecordError> {
        let (wanted, held) = prepare(taps, &config)?;
        let folder = part_folder(dir, &wanted)?;
        let refused = |error: ReadError| RecordError::Resume(error.to_string());
        let manifest = Run::open_one(&folder).map_err(refused)?.manifest().clone();
        let differences = differences(&manifest, &wanted);
        if !differences.is_empty() {
            return Err(RecordError::Resume(format!(
                "it was recorded with other settings: {}",
                differences.join("; ")
            )));
        }
        let (past, mut writer) = lock_at_the_end(&folder, step, &config, LogWriter::resume, refused)?;
        if step.is_none() && config.worker.is_some() {
            same_end(dir, &wanted, past.step)?;
        }
        if let Some(gap) = past.gap {
            writer.append_gap(gap.step, gap.epoch, gap.visits).map_err(|e| RecordError::Start(Arc::new(e)))?;
        }
        start(&folder, taps, held, config, manifest, writer, past)
    }
}

pub(super) fn options(config: &Config) -> WriterOptions {
    WriterOptions { segment_bytes: config.segment_bytes, zstd_level: config.zstd_level }
}

/// Checks taps and settings, and takes the taps.
pub(super) fn prepare(taps: &Taps, config: &Config) -> Result<(Manifest, Held), RecordError> {
    config.check()?;
    let registry = taps.registry();
    let mut problems = registry.problems.clone();
    if !registry.variables.is_empty() && registry.layers.iter().any(|layer| layer.spec.kind != "variable") {
        problems.push("layers are tapped and variables declared: a run is recorded one way or the other".into());
    }
    if !problems.is_empty() {
        return Err(RecordError::Taps(problems));
    }
    let manifest = manifest(&registry, config)?;
    drop(registry);
    if !taps.hold() {
        let what = "another recorder is recording with them: finish or drop it first, or give each its own `Taps`";
        return Err(RecordError::Taps(vec![what.into()]));
    }
    Ok((manifest, Held(Some(taps.clone()))))
}

/// What differs between a run and what is to be recorded into it.
pub(super) fn differences(run: &Manifest, wanted: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    if run.seed != wanted.seed {
        found.push(format!("the seed was {}, now it is {}", run.seed, wanted.seed));
    }
    if run.sketch != wanted.sketch {
        found.push(format!("the sketches were {:?}, now they are {:?}", run.sketch, wanted.sketch));
    }
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
    for (old, new) in run.layers.iter().zip(&wanted.layers).filter(|(old, new)| old != new) {
        found.push(match old.name == new.name && old.kind == new.kind {
            false => format!("layer `{}` ({}) is now `{}` ({})", old.name, old.kind, new.name, new.kind),
            true => format!("layer `{}` had the shapes {:?}, now {:?}", old.name, old.shapes, new.shapes),
        });
    }
    found
}

pub(super) fn start(
    dir: &Path,
    taps: &Taps,
    held: Held,
    config: Config,
    manifest: Manifest,
    writer: LogWriter,
    past: Past,
) -> Result<Recorder, RecordError> {
    let registry = taps.registry();
    let layers = registry.layers.clone();
    let variables = registry.variables.clone();
    drop(registry);
    // A width from disk is believed within what the same settings could have made.
    let known = past.folded_width.filter(|width| (1..=config.sketch.folded_max).contains(width));
    let shared_fold = Arc::new(SharedFold::new(config.sketch.clone(), known));
    let fold = |(record, layer): (&LayerRecord, &Registered)| {
        let parameters = record.parameters as usize;
        Arc::new(LazyFold::new(record.seed_folded, parameters, layer.tied.is_some(), shared_fold.clone()))
    };
    let folds: Vec<Arc<LazyFold>> = manifest.layers.iter().zip(&layers).map(fold).collect();
    for (layer, fold) in layers.iter().zip(&folds) {
        layer.slot.set_fold(Some(fold.clone()));
    }
    let sketchers = (manifest.layers.iter().zip(&folds).zip(&layers))
        .map(|((record, fold), layer)| LayerSketcher::new(record.clone(), fold.clone(), layer.tied, &config.sketch))
        .collect();
    let (mut queue, inbox, gauge): (Queue<Message>, _, Arc<Gauge>) = Queue::new(&config);
    let shared = Arc::new(Shared::default());
    let divisor = config.worker.map_or(1.0, super::Worker::divisor);
    let rows = RowMaker::new(sketchers, config.sketch.clone(), shared_fold.clone(), divisor);
    let on_failure = config.on_failure;
    let for_thread = (config, shared.clone());
    let thread = std::thread::Builder::new()
        .name("gradlog".into())
        .spawn(move || {
            let (config, shared) = for_thread;
            thread::run(config, writer, rows, inbox, gauge, shared);
        })
        .map_err(|e| RecordError::Stopped(format!("the background thread cannot be started: {e}")))?;
    queue.read_by(thread.thread());
    let variables = variables.into_iter().zip(&folds).enumerate();
    let forms = if past.forms.is_empty() { vec![None; layers.len()] } else { past.forms };
    let inner = Inner {
        dir: dir.to_owned(),
        taps: taps.clone(),
        forms,
        variables: variables.map(|(i, ((_, var), fold))| (i, var, fold.clone())).collect(),
        shared_fold,
        manifest,
        layers: Arc::new(layers),
        queue: Some(queue),
        thread: Some(thread),
        shared,
        on_failure,
        step: past.step,
        epoch: 0,
        batch_size: 0,
        gap: None,
        unsent_step: None,
        dropped: 0,
        visits: 0,
        probe_sets: past.probe_sets,
        learning_rate: None,
        replayed: None,
        probes: 0,
        sweeps: 0,
    };
    held.keep();
    Ok(Recorder { inner: Some(inner) })
}

/// Lets go of taps that were taken for a recorder that did not come to be.
pub(super) struct Held(Option<Taps>);

impl Held {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(taps) = &self.0 {
            taps.release();
        }
    }
}

/// The manifest of a run of these taps.
fn manifest(registry: &Registry, config: &Config) -> Result<Manifest, RecordError> {
    let width = |n: usize, name: &str| {
        u32::try_from(n).map_err(|_| RecordError::Taps(vec![format!("layer `{name}` is wider than 2^32")]))
    };
    let shape = |dims: &[usize]| dims.iter().map(|d| *d as u64).collect::<Vec<u64>>();
    let mut layers = Vec::with_capacity(registry.layers.len());
    for (number, layer) in registry.layers.iter().enumerate() {
        let (inputs, outputs) = layer.spec.factors.unwrap_or((0, 0));
        let seed = |side| derive_seed(config.seed, number as u32, side);
        // Gradients of one tensor are one gradient: tied layers are folded by the same projection and so add up.
        let folded_seed = derive_seed(config.seed, layer.tied.unwrap_or(number) as u32, Side::Folded);
        layers.push(LayerRecord {
            name: layer.name.clone(),
            kind: layer.spec.kind.into(),
            inputs: width(inputs, &layer.name)?,
            outputs: width(outputs, &layer.name)?,
            bias: layer.spec.bias,
            parameters: layer.spec.elements() as u64,
            shapes: layer.spec.parameters.iter().map(|p| (p.name.clone(), shape(p.shape.dims()))).collect(),
            seed_input: seed(Side::Input),
            seed_delta: seed(Side::Delta),
            seed_folded: folded_seed,
        });
    }
    let model = registry.model.as_deref().unwrap_or_default();
    let mut covered = vec![false; model.len()];
    for layer in &registry.layers {
        for parameter in &layer.spec.parameters {
            // A layer that hides its tensors (GroupNorm) or was only declared is recognized by its name, if that is the name of one.
            let full = format!("{}.{}", layer.name, parameter.name);
            let by_name = |name: &str| name == full || name.ends_with(&format!(".{full}"));
            let matches: Vec<usize> = (0..model.len())
                .filter(|&i| {
                    let (name, shape, id) = &model[i];
                    parameter.id.map_or_else(|| by_name(name) && *shape == parameter.shape, |own| own == *id)
                })
                .collect();
            if let [one] = matches[..] {
                covered[one] = true;
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
        model_parameters: registry.model.as_ref().map(|all| all.iter().map(|(_, s, _)| s.elem_count() as u64).sum()),
        notes: config.notes.clone(),
        worker: config.worker.map(super::Worker::record),
    })
}

#[cfg(test)]
mod stuck;
