//! What can go wrong while a training run is recorded.

use super::guard::GuardEvent;
use gradlog_format::log::{segment_path, LogError, MANIFEST_FILE};
use gradlog_format::run::ReadError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Why something was not recorded. The training itself is not affected: a loop may report the error and go on.
///
/// The text of an error includes its cause, so `source()` is always `None`.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The taps cannot be recorded as they are: a layer is refused, or a name is used twice.
    #[error("these taps cannot be recorded: {}", .0.join("; "))]
    Taps(Vec<String>),
    /// A setting is out of range.
    #[error("the configuration cannot be used: {0}")]
    Config(String),
    /// A pass lacks something, or got something that does not fit.
    #[error("step {step}: {what}")]
    Pass {
        /// The optimizer step that the pass belongs to.
        step: u64,
        /// What is missing or wrong, and what to do.
        what: String,
    },
    /// The forward pass went through a layer, but backward brought no gradient to it.
    #[error(
        "step {step}: no gradient came back to {}, although the forward pass went through. {why}",
        quote_names(layers)
    )]
    Severed {
        /// The optimizer step that the pass belongs to.
        step: u64,
        /// The layers' names.
        layers: Vec<String>,
        /// The possible causes, the likeliest first, and what to do about each.
        why: String,
    },
    /// The background thread could not write and records no more. Every later call returns this error too.
    #[error("recording has stopped: {0}; the log keeps what was written before")]
    Log(Arc<LogError>),
    /// Recording failed, and the training went on without it ([`OnFailure::GoOn`](crate::OnFailure::GoOn)).
    #[error(
        "from step {step} on, {visits} visits and {probes} probes are not in the log, and the training went on without it: {cause}"
    )]
    Unrecorded {
        /// The first step with missing visits.
        step: u64,
        /// Number of missing visits, from that step on.
        visits: u64,
        /// Number of missing probes, from the whole recording.
        probes: u64,
        /// What went wrong.
        cause: Box<RecordError>,
    },
    /// A loss or a gradient of the pass is NaN or infinite, and [`Config::on_nonfinite`](crate::Config::on_nonfinite)
    /// does not record such steps. The step was abandoned: no visit of it is recorded, and the next step has its
    /// number.
    #[error(
        "step {step} is not finite and was left out: {what}. Do not take the optimizer's step, and drop the gradients that were \
         accumulated for it"
    )]
    NotFinite {
        /// The optimizer step.
        step: u64,
        /// What is not finite.
        what: String,
        /// Whether the loop should go on with the next step ([`OnNonFinite::Skip`](crate::OnNonFinite::Skip)).
        skipped: bool,
    },
    /// The [`Guard`](crate::Guard) left out the step, as its `on_event` says. No visit of it is recorded, and the next
    /// step has its number.
    #[error("{event}. Do not take the optimizer's step, and drop the gradients that were accumulated for it")]
    Guarded {
        /// What was noticed.
        event: Box<GuardEvent>,
        /// Whether the loop should go on with the next step ([`OnEvent::Skip`](crate::OnEvent::Skip)).
        skipped: bool,
    },
    /// A card was refused: it is none, or beyond [`Config::cards`](crate::Config::cards). It is counted. The training
    /// and everything else that is recorded go on.
    #[error("example {example} is not described: {what}")]
    Card {
        /// The example.
        example: u64,
        /// Why.
        what: String,
    },
    /// The run could not be started: its folder holds a run, is locked, or cannot be written.
    #[error("{0}")]
    Start(Arc<LogError>),
    /// There is no run to resume or to replay.
    #[error("there is no run in {path}: start one with `Recorder::create`, or give another folder")]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// The run was recorded with other layers or settings, so it can be neither resumed nor replayed with these.
    #[error("the run was recorded with other layers or settings: {}", .what.join("; "))]
    Differs {
        /// The differences, one sentence each.
        what: Vec<String>,
    },
    /// The run could not be resumed.
    #[error("the run cannot be resumed: {0}")]
    Resume(String),
    /// The run could not be replayed.
    #[error("the run cannot be replayed: {0}")]
    Replay(String),
    /// A checkpoint could not be saved. The recording goes on, and later calls do not return this error.
    #[error("the checkpoint of step {step} was not saved: {cause}; free disk space, or go on without it: the recording continues")]
    Checkpoint {
        /// The step that comes after the checkpoint.
        step: u64,
        /// What went wrong.
        cause: Arc<LogError>,
    },
    /// This worker's part does not fit the other workers' parts, or the folder.
    #[error("this worker cannot record here: {0}")]
    Worker(String),
    /// The background thread found an error or ended. Every later call returns this error too.
    #[error("recording has stopped: {0}")]
    Stopped(String),
    /// The background thread did not answer within [`Config::wait_max`](crate::Config::wait_max).
    #[error(
        "the background thread did not keep up for {0:?}; the disk may be stuck: raise `wait_max`, or use `Overflow::DropNewest`"
    )]
    Timeout(Duration),
    /// candle failed in a loss, a backward pass or a step.
    #[error("candle: {0}")]
    Candle(Arc<candle_core::Error>),
}

impl RecordError {
    /// Whether this says that the step was skipped, because it is not finite or the [`Guard`](crate::Guard) left it
    /// out. The loop then leaves out the optimizer's step and goes on.
    pub fn is_skipped_step(&self) -> bool {
        matches!(self, RecordError::NotFinite { skipped: true, .. } | RecordError::Guarded { skipped: true, .. })
    }
}

/// Makes a [`RecordError::Log`]: the background thread could not write.
pub(super) fn wrap_log_error(error: LogError) -> RecordError {
    RecordError::Log(Arc::new(error))
}

/// Makes a [`RecordError::NoRun`] of `error` if the folder `path` holds no run. Returns `None` for other errors: a run
/// that cannot be read, or lost its manifest, is not absent.
pub(super) fn find_no_run(path: &Path, error: &ReadError) -> Option<RecordError> {
    let absent = matches!(error, ReadError::NotARun { .. })
        && !path.join(MANIFEST_FILE).exists()
        && !segment_path(path, 0).exists();
    absent.then(|| RecordError::NoRun { path: path.to_owned() })
}

impl From<candle_core::Error> for RecordError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(Arc::new(error))
    }
}

/// Lets `?` work in a training loop that returns candle's own `Result`.
impl From<RecordError> for candle_core::Error {
    fn from(error: RecordError) -> Self {
        candle_core::Error::wrap(error)
    }
}

pub(super) fn quote_names(names: &[String]) -> String {
    let all: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    all.join(", ")
}
