//! The background thread: takes passes off the queue and hands them to the log. It is the only thread that touches the
//! log's files.

use super::config::{Config, OnFailure};
use super::error::{wrap_log_error, RecordError};
use super::fill::FillTold;
use super::layer_rates::RatesTold;
use super::log_state::LogState;
use super::message::Message;
use super::queue::Inbox;
use super::rows::RowMaker;
use super::shared::Shared;
use crossbeam_channel::RecvTimeoutError;
use gradlog_format::log::{LogWriter, QueueFile};
use gradlog_kernels::stage::{self, Stage};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

/// Runs until it is asked to finish or the recorder is gone. `shared` keeps the first failure. After it, messages are
/// taken and dropped, so that a recorder that has failed never blocks the training.
pub(super) fn run_background(
    config: Config,
    writer: LogWriter,
    rows: (RowMaker, RatesTold),
    (mut inbox, file): (Inbox<Message>, QueueFile),
    shared: Arc<Shared>,
) {
    let goes_on = config.on_failure == OnFailure::GoOn;
    let mut log = LogState::new(config, writer, rows, shared.clone());
    // Declared after the log: it is dropped before the log lets go of the lock.
    let mut fill = FillTold::new(file);
    if goes_on {
        log.writer.spare_room();
    }
    loop {
        let message = match inbox.next(log.patience().min(fill.patience())) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            // Dropped without `finish`: writes what is here if it can, without totals.
            Err(RecvTimeoutError::Disconnected) => {
                if log.can_write() {
                    let _ = run_guarded(&shared, || log.write_rest());
                }
                return;
            }
        };
        let start = Instant::now();
        stage::enter(Stage::Other);
        let (bytes, last) = match &message {
            Some(Message::Pass { bytes, .. } | Message::Cards { bytes, .. }) => (*bytes, false),
            Some(Message::Finish(_)) => (0, true),
            _ => (0, false),
        };
        let asker = match &message {
            Some(Message::Flush(reply) | Message::Finish(reply)) => Some(reply.clone()),
            _ => None,
        };
        if let Some(message) = &message {
            log.missed.count_message(message);
            if goes_on {
                // The work below may hang on a stuck disk. The training's side then says what is missing.
                shared.lock_progress().first_unwritten = log.missed.first_unwritten.map(|(step, _)| step);
            }
        }
        if last {
            fill.end();
        }
        if !shared.has_failed() {
            let outcome = run_guarded(&shared, || {
                if let Some(message) = message {
                    log.take_message(message)?;
                }
                log.do_due_work()
            });
            if outcome.is_err() && goes_on {
                log.write_first_gap();
            }
        }
        if last && shared.has_failed() {
            // Rows from before the pass that failed are still written.
            if log.can_write() {
                let _ = run_guarded(&shared, || log.write_rest());
            }
            if goes_on {
                log.write_last_words();
            }
            if log.can_write() {
                let _ = run_guarded(&shared, || log.writer.finish().map_err(wrap_log_error));
            }
        }
        if goes_on {
            log.publish_missing();
        }
        inbox.release(bytes);
        fill.tell_if_due(&inbox);
        {
            let mut progress = shared.lock_progress();
            progress.bytes = log.writer.written_bytes();
            progress.worked += start.elapsed();
        }
        stage::enter(Stage::Idle);
        // The answer comes last, because the caller may then read the log or end the process. The caller may have
        // stopped waiting.
        if let Some(asker) = asker {
            let _ = asker.send(());
        }
        if last {
            return;
        }
    }
}

/// Runs `f`. An error or a panic becomes the recorder's failure, which stays.
fn run_guarded(shared: &Shared, f: impl FnOnce() -> Result<(), RecordError>) -> Result<(), ()> {
    let outcome = catch_unwind(AssertUnwindSafe(f));
    let error = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(panic) => {
            let words = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            RecordError::Stopped(format!(
                "the background thread panicked: {words}; please report this as a bug in gradlog"
            ))
        }
    };
    shared.fail(error);
    Err(())
}
