//! The parts of a page, a file each: what is asked of `gradlog_analysis`, and how it lies in the page's JSON.

mod curves;
mod groups;
mod head;
mod histories;
mod map;
mod probes;
mod scores;
mod suspects;

pub(crate) use curves::curves_part;
pub(crate) use groups::{groups_part, too_many_to_compare, Compared};
pub(crate) use head::{head_part, run_name};
pub(crate) use histories::{history_arrays, read_histories};
pub(crate) use map::map_part;
pub(crate) use probes::{probes_part, read_wall, set_names};
pub(crate) use scores::{describe_score, scores_part};
pub(crate) use suspects::suspects_part;

use crate::error::CliError;
use gradlog_analysis::AnalysisError;
use serde_json::{json, Value};

/// A part that the run cannot give is a sentence, and no failure of the page: a run without gradients has suspects and
/// no proponents. A file system that refuses is a failure, and so is a run without any visit.
pub(crate) fn or_reason(found: Result<Value, CliError>) -> Result<Value, CliError> {
    match found {
        Err(CliError::Analysis(error)) if is_about_the_run(&error) => Ok(reason(&error.to_string())),
        other => other,
    }
}

/// A part that says why it is empty.
pub(crate) fn reason(words: &str) -> Value {
    json!({ "missing": words })
}

pub(crate) fn is_about_the_run(error: &AnalysisError) -> bool {
    match error {
        AnalysisError::Read(_) | AnalysisError::NoVisits | AnalysisError::SameRun { .. } => false,
        // A part that was given up is no part that is empty.
        AnalysisError::Stopped => false,
        AnalysisError::InRun { source, .. } | AnalysisError::Cut { source, .. } => is_about_the_run(source),
        _ => true,
    }
}
