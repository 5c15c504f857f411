//! Why a verb failed.

use crate::analysis::AnalysisError;
use crate::run::ReadError;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    #[error("cannot write {path}: {source}; nothing was left there: give another --out, or make room")]
    Out { path: PathBuf, source: io::Error },
}
