//! Why a verb failed.

use super::arguments::{narrowed, Extent};
use gradlog_analysis::{AnalysisError, Window};
use gradlog_format::run::{ReadError, RecoverError};
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "{0}; without an intact manifest nothing can be recovered: it alone says what layers, seeds and encodings the numbers \
         belong to. Put back `manifest` from a copy of the run"
    )]
    Recover(ReadError),
    #[error(transparent)]
    Recovery(#[from] RecoverError),
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
    #[error("no visit lies inside `{}`: there are visits of {there}", narrowed(window))]
    Outside { window: Window, there: Extent },
    #[error("no example has a score, so there is nothing to keep, and no list was written")]
    NothingToKeep,
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    #[error("cannot write {path}: {source}; nothing was left there: give another --out, or make room")]
    Out { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source}")]
    In { path: PathBuf, source: io::Error },
    #[error(
        "{path}, line {line}: `{text}` is not the id of an example; a line is `id`, or `id,` and what belongs to it"
    )]
    NotAnId { path: PathBuf, line: u64, text: String },
}
