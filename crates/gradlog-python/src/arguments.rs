//! Arguments as Python gives them.

use crate::error::GradlogError;
use gradlog_analysis::Window;
use pyo3::prelude::*;
use pyo3::types::PyRange;
use std::ops::Range;
use std::str::FromStr;

/// Some epochs or steps: one number, or a `range`.
#[derive(Debug, Clone)]
pub(crate) struct Span(Range<u64>);

impl<'py> FromPyObject<'_, 'py> for Span {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(range) = given.cast::<PyRange>() {
            let read = |name: &str| -> PyResult<i64> { range.getattr(name)?.extract() };
            let (start, stop, step) = (read("start")?, read("stop")?, read("step")?);
            return match (u64::try_from(start), u64::try_from(stop)) {
                (Ok(start), Ok(stop)) if step == 1 && start < stop => Ok(Self(start..stop)),
                _ => Err(GradlogError::new_err(format!(
                    "range({start}, {stop}, {step}) is no stretch of epochs or steps: give range(first, last + 1)"
                ))),
            };
        }
        let only: u64 = given
            .extract()
            .map_err(|_| GradlogError::new_err("epochs and steps are a number or a range, such as range(2, 5)"))?;
        Ok(Self(only..only.saturating_add(1)))
    }
}

/// The window of these epochs and steps. `at` is `visits`, `sweep` or `sweep:STEP`.
pub(crate) fn window(epochs: Option<Span>, steps: Option<Span>, at: &str) -> PyResult<Window> {
    let mut window = match (at, at.strip_prefix("sweep:").map(u64::from_str)) {
        ("visits", _) => Window::everything(),
        ("sweep", _) => Window::sweeps(),
        (_, Some(Ok(step))) => Window::sweep_at(step),
        _ => return Err(GradlogError::new_err(format!("at={at:?}: it is \"visits\", \"sweep\" or \"sweep:STEP\""))),
    };
    if let Some(Span(epochs)) = epochs {
        let bound = |epoch: u64| u32::try_from(epoch).unwrap_or(u32::MAX);
        window = window.with_epochs(bound(epochs.start)..bound(epochs.end));
    }
    if let Some(Span(steps)) = steps {
        window = window.with_steps(steps);
    }
    Ok(window)
}

/// The value of a name.
pub(crate) fn named<T: FromStr<Err = gradlog_analysis::AnalysisError>>(name: &str) -> PyResult<T> {
    name.parse().map_err(crate::error::analysis_error)
}
