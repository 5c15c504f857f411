//! Where the runs of a command line lie: in folders of this machine, or in object stores.

use crate::error::CliError;
use gradlog_format::run::{ReadError, Run};
use std::path::Path;

/// Whether the name of a run is an address such as `s3://bucket/path`.
pub(crate) fn is_address(run: &Path) -> bool {
    let scheme = run.to_str().and_then(|path| path.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Opens a run by the path of its folder or by its address.
pub(crate) fn open_run(run: &Path) -> Result<Run, CliError> {
    if !is_address(run) {
        return Ok(Run::open(run)?);
    }
    open_address(run)
}

#[cfg(feature = "remote")]
fn open_address(run: &Path) -> Result<Run, CliError> {
    match gradlog_store::open_run(run, gradlog_store::Options::default()) {
        Err(gradlog_store::StoreError::Read(error)) => Err(CliError::Read(error)),
        opened => Ok(opened?),
    }
}

#[cfg(not(feature = "remote"))]
fn open_address(run: &Path) -> Result<Run, CliError> {
    Err(without_stores(run))
}

/// The error of a command that was built without object stores.
#[cfg(not(feature = "remote"))]
pub(crate) fn without_stores(run: &Path) -> CliError {
    CliError::Arguments(format!(
        "{}: this gradlog was built without object stores: build it with the feature `remote`, \
         or copy the run into a folder",
        run.display()
    ))
}

/// An error if a store refused something on the way. Some of what was read may then be missing from an answer.
pub(crate) fn check_places(runs: &[&Run]) -> Result<(), CliError> {
    match runs.iter().find_map(|run| Some((run, run.place().refusal()?))) {
        Some((run, error)) => Err(CliError::Read(ReadError::Io { path: run.dir().to_owned(), error })),
        None => Ok(()),
    }
}
