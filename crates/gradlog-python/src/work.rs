//! Long questions: the interpreter is free while they run, Ctrl-C ends them, and a bar shows how far they are.

use crossbeam_channel::{bounded, RecvTimeoutError};
use gradlog_analysis::Progress;
use gradlog_format::run::Run;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// How often Ctrl-C is looked for, and the bar is moved.
const TICK: Duration = Duration::from_millis(100);

/// Bytes of the blocks of some runs, from their headers.
fn bytes(runs: &[Arc<Run>]) -> u64 {
    runs.iter().flat_map(|run| run.scan()).map(|block| block.bytes()).sum()
}

/// Runs `question` in a thread of its own, without the interpreter's lock. `passes` is how often it reads the runs.
///
/// # Errors
/// `KeyboardInterrupt`, and what the question's own result is made into.
pub(crate) fn ask<T: Send + 'static>(
    py: Python<'_>,
    runs: &[Arc<Run>],
    passes: u64,
    question: impl FnOnce(&Progress) -> PyResult<T> + Send + 'static,
) -> PyResult<T> {
    let (read, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counter, flag) = (read.clone(), stop.clone());
    let count = move |more| {
        counter.fetch_add(more, Ordering::Relaxed);
    };
    let progress = Progress::new(count).stop_when(move || flag.load(Ordering::Relaxed));
    let (sender, answer) = bounded(1);
    let thread = std::thread::Builder::new().name("gradlog".into()).spawn(move || {
        // Nobody listens after Ctrl-C.
        let _sent = sender.send(question(&progress));
    })?;
    let mut bar = None;
    let mut seen = 0;
    loop {
        let waited = py.detach(|| answer.recv_timeout(TICK));
        match waited {
            Ok(result) => {
                if let Some(bar) = &bar {
                    close(py, bar);
                }
                return result;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let panicked = thread.join().is_err();
                let what = if panicked { "the thread that reads the run panicked" } else { "there is no answer" };
                return Err(pyo3::exceptions::PyRuntimeError::new_err(what));
            }
        }
        let now = read.load(Ordering::Relaxed);
        // The bar is Python: the signal may reach it first.
        let went_on = py.check_signals().and_then(|()| match &bar {
            None => open_bar(py, bytes(runs).saturating_mul(passes)).map(|opened| bar = Some(opened)),
            Some(Some(bar)) => interrupted(py, bar.call_method1(py, "update", (now - seen,))).map(drop),
            Some(None) => Ok(()),
        });
        if let Err(interrupt) = went_on {
            stop.store(true, Ordering::Relaxed);
            if let Some(bar) = &bar {
                close(py, bar);
            }
            return Err(interrupt);
        }
        seen = now;
    }
}

/// What a bar gave. Its errors are none of the question's, but for Ctrl-C.
fn interrupted<T>(py: Python<'_>, result: PyResult<T>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => Err(error),
        Err(_) => Ok(None),
    }
}

/// A bar of tqdm, if it is installed. It draws nothing where nobody looks.
fn open_bar(py: Python<'_>, total: u64) -> PyResult<Option<Py<PyAny>>> {
    let opened = py.import("gradlog._bars").and_then(|bars| bars.call_method1("open_bar", (total,)));
    let bar = interrupted(py, opened)?;
    Ok(bar.filter(|bar| !bar.is_none()).map(Bound::unbind))
}

fn close(py: Python<'_>, bar: &Option<Py<PyAny>>) {
    if let Some(bar) = bar {
        let _closed = bar.call_method0(py, "close");
    }
}
