//! Starts a recorder, on a new run or on an existing one.

use super::cards::CardBook;
use super::config::{Config, OnBatchNorm, Worker};
use super::copies::DeviceRing;
use super::error::{find_no_run, quote_names, RecordError};
use super::folding::make_sides;
use super::guard::TrainingGuard;
use super::handle::Recorder;
use super::head::Head;
use super::layer_rates::RatesTold;
use super::manifest::{find_batch_norm_difference, list_differences, make_manifest};
use super::message::Message;
use super::metric::MetricState;
use super::past::{lock_end, Past};
use super::queue::Queue;
use super::reach::Reach;
use super::reproduction::Reproduction;
use super::rows::RowMaker;
use super::shared::Shared;
use super::sketcher::LayerSketcher;
use super::state::{Abandoned, State};
use super::statistics::FrozenStatistics;
use super::thread::run_background;
use super::watch::{Seen, Trained, Watch};
use super::workers::{check_same_end, part_folder};
use crate::taps::{LazyFold, Registered, SharedFold, Taps};
use gradlog_format::log::{LayerRecord, LogWriter, Manifest, QueueFile};
use gradlog_format::run::{ReadError, Run};
use gradlog_format::sketch::Form;
use std::path::Path;
use std::sync::Arc;

/// The last step at which a run can be taken up again: behind it there is room for all steps that a training can take.
const STEP_MAX: u64 = 1 << 62;

impl Recorder {
    /// Starts a run in the folder `dir`. The folder is made if it does not exist, and must not hold a run.
    ///
    /// With [`Config::worker`] it starts that worker's part of the run. The folder may then hold the parts of other
    /// workers.
    ///
    /// # Errors
    /// [`RecordError::Taps`] for refused layers, for names used twice, for taps that another recorder holds, and for a
    /// declared model with BatchNorm under [`OnBatchNorm::Refuse`](crate::OnBatchNorm::Refuse).
    /// [`RecordError::Config`] for settings out of range. [`RecordError::Start`] if the folder cannot be written or
    /// holds a run. [`RecordError::Worker`] if it holds parts of workers with other layers, seeds or sketches.
    /// [`RecordError::Stopped`] if the background thread cannot be started.
    pub fn create(dir: impl AsRef<Path>, taps: &Taps, config: Config) -> Result<Self, RecordError> {
        let (manifest, held) = prepare_taps(taps, &config)?;
        let folder = part_folder(dir.as_ref(), &manifest)?;
        let writer = LogWriter::create(&folder, &manifest, config.writer_options())
            .map_err(|e| RecordError::Start(Arc::new(e)))?;
        start_recorder(&folder, taps, held, config, manifest, writer, Past::default())
    }

    /// Resumes the run in the folder `dir`, at the step after the last one that was recorded with its visits.
    ///
    /// The taps must be those of the run, with the same seed and sketches. Nothing that is there changes: new rows go
    /// into new segments.
    ///
    /// The run is read and checked first, because no reader reads beyond damage.
    ///
    /// Each worker resumes its own part, and all must go on at one step. After a crash the parts may end at different
    /// steps; this call then fails. Give the step with [`Recorder::resume_at`].
    ///
    /// # Errors
    /// [`RecordError::NoRun`] if there is no run: call [`Recorder::create`] then. [`RecordError::Differs`] if layers,
    /// shapes, seeds or sketches differ. [`RecordError::Resume`] if the run is damaged, or if the workers' parts end at
    /// different steps. Otherwise as [`Recorder::create`].
    ///
    /// # Cost
    /// One read of the whole run.
    pub fn resume(dir: impl AsRef<Path>, taps: &Taps, config: Config) -> Result<Self, RecordError> {
        Self::open_again(dir.as_ref(), taps, config, None)
    }

    /// As [`Recorder::resume`], at step `step`. Use it if the training starts again from an earlier checkpoint, taken
    /// before that step. Rows of that step and later are superseded: they stay in the files and no longer count. Visits
    /// of earlier steps that the log lacks, for example after a full disk, count as dropped. If the log ends before
    /// `step`, it says how many steps it knows nothing of.
    ///
    /// # Errors
    /// As [`Recorder::resume`]; also for a step above 2^62.
    pub fn resume_at(dir: impl AsRef<Path>, taps: &Taps, config: Config, step: u64) -> Result<Self, RecordError> {
        Self::open_again(dir.as_ref(), taps, config, Some(step))
    }

    fn open_again(dir: &Path, taps: &Taps, config: Config, step: Option<u64>) -> Result<Self, RecordError> {
        if let Some(step) = step.filter(|step| *step > STEP_MAX) {
            let what = format!("step {step} is not possible: give the number of steps before it, at most 2^62");
            return Err(RecordError::Resume(what));
        }
        let (wanted, held) = prepare_taps(taps, &config)?;
        let folder = part_folder(dir, &wanted)?;
        let refuse = |error: ReadError| RecordError::Resume(error.to_string());
        let run =
            Run::open_one(&folder).map_err(|error| find_no_run(&folder, &error).unwrap_or_else(|| refuse(error)))?;
        let manifest = run.manifest().clone();
        drop(run);
        let mut differences = list_differences(&manifest, &wanted);
        differences.extend(find_batch_norm_difference(&manifest, &wanted));
        if !differences.is_empty() {
            return Err(RecordError::Differs { what: differences });
        }
        let (past, mut writer) = lock_end(&folder, step, &config, LogWriter::resume, refuse)?;
        if past.is_without_training() {
            let what = "it holds sweeps of checkpoints from elsewhere and no training: record a training into another \
                        folder, or add to this run with `Replay::open`";
            return Err(RecordError::Resume(what.into()));
        }
        if step.is_none() && config.worker.is_some() {
            check_same_end(dir, &wanted, past.step)?;
        }
        if let Some(gap) = past.gap {
            writer.append_gap(gap.step, gap.epoch, gap.visits).map_err(|e| RecordError::Start(Arc::new(e)))?;
        }
        if let Some((step, epoch, steps)) = past.unknown {
            writer.append_unknown_steps(step, epoch, steps).map_err(|e| RecordError::Start(Arc::new(e)))?;
        }
        start_recorder(&folder, taps, held, config, manifest, writer, past)
    }
}

/// Checks taps and settings, and takes the taps for a recorder.
pub(super) fn prepare_taps(taps: &Taps, config: &Config) -> Result<(Manifest, TapsGuard), RecordError> {
    config.check()?;
    let mut registry = taps.registry();
    let mut problems = registry.prepare();
    if !registry.variables.is_empty() && registry.layers.iter().any(|layer| !layer.is_variable()) {
        problems.push(
            "layers are tapped and variables are declared: use either `taps.tap` or `taps.declare_variables` in one run".into(),
        );
    }
    let batch_norms = registry.untapped_batch_norms();
    if config.on_batch_norm == OnBatchNorm::Refuse && !batch_norms.is_empty() && !registry.layers.is_empty() {
        problems.push(format!(
            "the model has BatchNorm ({}), which couples the examples of a batch in training mode, so that no example \
             has a gradient of its own: use GroupNorm, LayerNorm or RmsNorm; or run it with frozen statistics, and tap \
             `taps::FrozenBatchNorm` or set `Config::on_batch_norm` to `OnBatchNorm::Frozen`; or record each example's \
             share of the batch gradient with `OnBatchNorm::RecordShare`",
            quote_names(&batch_norms)
        ));
    }
    if !problems.is_empty() {
        return Err(RecordError::Taps(problems));
    }
    let manifest = make_manifest(&registry, config)?;
    drop(registry);
    if !taps.acquire(config.sketching) {
        let what = "another recorder is recording with these taps: finish or drop it first, or give each recorder its own `Taps`";
        return Err(RecordError::Taps(vec![what.into()]));
    }
    Ok((manifest, TapsGuard(Some(taps.clone()))))
}

pub(super) fn start_recorder(
    dir: &Path,
    taps: &Taps,
    held: TapsGuard,
    config: Config,
    manifest: Manifest,
    writer: LogWriter,
    past: Past,
) -> Result<Recorder, RecordError> {
    let registry = taps.registry();
    let layers = registry.recorded_layers();
    let variables = registry.recorded_variables(&layers);
    let registered = registry.layers.len();
    let reach = Reach::new(&registry);
    let statistics = registry.statistics.clone();
    let frozen = FrozenStatistics::new(&registry, &config);
    let head = registry.head().map(|(name, weight, bias)| Head::new(name, weight, bias));
    drop(registry);
    // A width from disk is used only if these settings could have made it.
    let known = past.folded_width.filter(|width| (1..=config.sketch.folded_max).contains(width));
    let always_folded = manifest.layers.iter().filter(|layer| layer.inputs == 0).map(|layer| layer.parameters).sum();
    let shared_fold = Arc::new(SharedFold::new(config.sketch.clone(), known, always_folded));
    let places = manifest.fold_places();
    let fold = |(number, (record, layer)): (usize, (&LayerRecord, &Registered))| {
        let placing = (layer.tied.is_some(), places.get(number).copied());
        let fold = LazyFold::new(record.seed_folded, record.parameters as usize, placing, shared_fold.clone());
        let first = layer.spec.parameters.first().map_or(0, |first| first.shape.elem_count());
        let fold = fold.with_gap(first, layer.skipped_elements());
        Arc::new(fold.with_sides(make_sides(&manifest, layer, number)))
    };
    let folds: Vec<Arc<LazyFold>> = manifest.layers.iter().zip(&layers).enumerate().map(fold).collect();
    for (layer, fold) in layers.iter().zip(&folds) {
        layer.slot.set_fold(Some(fold.clone()));
    }
    let sketchers = (manifest.layers.iter().zip(&folds).zip(&layers))
        .map(|((record, fold), layer)| LayerSketcher::new(record.clone(), fold.clone(), layer.tied, &config.sketch))
        .collect();
    let (mut queue, inbox) = Queue::<Message>::new(&config);
    let shared = Arc::new(Shared::default());
    let divisor = config.worker.map_or(1.0, Worker::divisor);
    let rows = RowMaker::new(sketchers, config.sketch.clone(), shared_fold.clone(), divisor, config.guard.clone());
    let guard = TrainingGuard::new(config.guard.clone());
    let cards = CardBook::new(config.cards, past.cards);
    let (sketching, flush_interval) = (config.sketching, config.flush_interval);
    let (on_failure, on_nonfinite) = (config.on_failure, config.on_nonfinite);
    // What an earlier session said of layers must not be taken for this one.
    let all = if past.has_layer_rates { layers.len() as u32 } else { 0 };
    let unsent_layers = (0..all).map(|layer| Seen { step: past.step, layer, trained: Trained::Whole }).collect();
    let told = if past.has_layer_rates { RatesTold::outdated(&layers) } else { RatesTold::default() };
    let for_thread = (config, shared.clone(), told, QueueFile::create(dir));
    let thread = std::thread::Builder::new()
        .name("gradlog".into())
        .spawn(move || {
            let (config, shared, told, fill) = for_thread;
            run_background(config, writer, (rows, told), (inbox, fill), shared);
        })
        .map_err(|e| RecordError::Stopped(format!("the background thread cannot be started: {e}")))?;
    queue.set_reader(thread.thread());
    let mut forms = if past.forms.is_empty() { vec![None; layers.len()] } else { past.forms };
    for (form, layer) in forms.iter_mut().zip(&layers) {
        // A run that was begun with factors keeps them.
        *form = form.or(layer.folded.then_some(Form::Folded));
    }
    let state = State {
        dir: dir.to_owned(),
        taps: taps.clone(),
        forms,
        variables: variables.into_iter().map(|(number, var)| (number, var, folds[number].clone())).collect(),
        folds,
        moments: None,
        metric: MetricState::default(),
        registered,
        reach,
        optimizer_asked: false,
        statistics,
        own_losses: Default::default(),
        head,
        held_all: false,
        shared_fold,
        manifest,
        layers: Arc::new(layers),
        queue: Some(queue),
        thread: Some(thread),
        shared,
        on_failure,
        on_nonfinite,
        guard,
        cards,
        sketching,
        copies: DeviceRing::default(),
        flush_interval,
        step: past.step,
        epoch: 0,
        batch_size: 0,
        sent_in_step: 0,
        gap: None,
        unsent_end: None,
        dropped: 0,
        dropped_probes: 0,
        abandoned: Abandoned::default(),
        visits: 0,
        probe_sets: past.probe_sets,
        learning_rate: None,
        replayed: None,
        recorded_losses: None,
        reproduction: Reproduction::default(),
        probes: 0,
        sweeps: 0,
        frozen,
        watch: Watch::default(),
        unsent_layers,
    };
    held.keep_taps();
    Ok(Recorder { state: Some(state) })
}

/// Taps that are taken for a recorder. They are released if the recorder cannot be started.
pub(super) struct TapsGuard(Option<Taps>);

impl TapsGuard {
    fn keep_taps(mut self) {
        self.0 = None;
    }
}

impl Drop for TapsGuard {
    fn drop(&mut self) {
        if let Some(taps) = &self.0 {
            taps.release();
        }
    }
}

#[cfg(test)]
mod stuck;
