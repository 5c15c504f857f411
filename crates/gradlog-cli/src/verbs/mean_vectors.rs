//! What verbs that compare the mean gradients of examples have in common.

use crate::arguments::{OutputArguments, VectorArguments, WindowArguments};
use crate::error::CliError;
use crate::frame::Asked;
use clap::Args;
use gradlog_analysis::{Combine, FlatVectors, Window};
use std::path::PathBuf;
use std::slice;

/// The run whose mean gradients are compared, and where the rows go.
#[derive(Debug, Args)]
pub(super) struct MeanVectorArguments {
    /// Folder of the run
    run: PathBuf,
    #[command(flatten)]
    vectors: VectorArguments,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    pub(super) output: OutputArguments,
}

impl MeanVectorArguments {
    pub(super) fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    pub(super) fn window(&self) -> Window {
        self.window.window()
    }

    /// Reads the mean gradient of each example.
    pub(super) fn ask(&self, asked: &Asked<'_>) -> Result<FlatVectors, CliError> {
        let question = self.vectors.question(&asked.window, Combine::Mean);
        asked.read("reading", 1, |progress| question.share_progress(progress).compute(asked.run()))
    }
}
