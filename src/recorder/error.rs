//! What can go wrong while a training run is recorded.

use gradlog_format::log::LogError;
use std::sync::Arc;
use std::time::Duration;

/// Why something was not recorded. None of these touches the training itself: a loop may log one and go on.
///
/// The text of an error includes its cause, so `source()` is always `None`.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The taps cannot be recorded as they are: a refused layer, a name used twice.
    #[error("these taps cannot be recorded: {}", .0.join("; "))]
    Taps(Vec<String>),
    /// A setting is out of range.
    #[error("config: {0}")]
    Config(String),
    /// A pass did not get what it needs.
    #[error("step {step}: {what}")]
    Pass {
        /// The optimizer step that the pass belongs to.
        step: u64,
        /// What is missing or wrong, and what to do.
        what: String,
    },
    /// A layer was reached going forward and got no gradient going back.
    #[error(
        "step {step}: no gradient came back to {}, although the forward pass went through. Either its output does not reach the loss (a \
         second forward inside the pass, a head that is not used), or something behind it has no backward, and then it and all before it \
         are not being trained. In candle-nn 0.11 `LayerNorm`, `RmsNorm`, `ops::softmax_last_dim` and \
         the fused rotary embeddings stop gradients without a word (candle issues 2168, 3011, 3752): tap the norms, which makes \
         them differentiable, and use `ops::softmax` and the `rope_slow` functions; a `detach` has the same effect",
        quoted(layers)
    )]
    Severed {
        /// The optimizer step that the pass belongs to.
        step: u64,
        /// The layers' names.
        layers: Vec<String>,
    },
    /// The background thread could not write; nothing more is recorded. Sticky: every later call returns it too.
    #[error("recording has stopped: {0}; what the log holds already stays as it is")]
    Log(Arc<LogError>),
    /// Nothing more could be recorded, and the training went on without ([`OnFailure::GoOn`](crate::OnFailure::GoOn)).
    #[error(
        "nothing was recorded from step {step} on, {visits} visits in all, and the training went on without: {cause}"
    )]
    Unrecorded {
        /// The first step of which visits are missing.
        step: u64,
        /// Visits that are missing, from that step on.
        visits: u64,
        /// What went wrong.
        cause: Box<RecordError>,
    },
    /// The run could not be started: its folder holds a run, is locked, or cannot be written.
    #[error("{0}")]
    Start(Arc<LogError>),
    /// The run could not be taken up again.
    #[error("the run cannot be resumed: {0}")]
    Resume(String),
    /// Nothing can be replayed into the run as it was asked.
    #[error("the run cannot be replayed: {0}")]
    Replay(String),
    /// A checkpoint could not be saved. Not sticky: the recording goes on.
    #[error("no checkpoint of step {step} was saved: {cause}; make room, or go on without: the recording is not touched by it")]
    Checkpoint {
        /// The step before which it was to be taken.
        step: u64,
        /// What went wrong.
        cause: Arc<LogError>,
    },
    /// This worker's part does not fit the parts of the others, or the folder.
    #[error("this worker cannot record here: {0}")]
    Worker(String),
    /// The background thread found something wrong, or died. Sticky.
    #[error("recording has stopped: {0}")]
    Stopped(String),
    /// The queue stayed full for as long as [`Config::wait_max`](crate::Config::wait_max) allows.
    #[error(
        "the recorder did not keep up for {0:?}: is the disk stuck? Raise `wait_max`, or use `Overflow::DropNewest`"
    )]
    Timeout(Duration),
    /// candle refused something that a pass asked of it.
    #[error("candle: {0}")]
    Candle(Arc<candle_core::Error>),
}

impl From<LogError> for RecordError {
    fn from(error: LogError) -> Self {
        Self::Log(Arc::new(error))
    }
}

impl From<candle_core::Error> for RecordError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(Arc::new(error))
    }
}

/// So that `?` works in a training loop that returns candle's own `Result`.
impl From<RecordError> for candle_core::Error {
    fn from(error: RecordError) -> Self {
        candle_core::Error::wrap(error)
    }
}

pub(super) fn quoted(names: &[String]) -> String {
    let all: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    all.join(", ")
}
