//! `--part I/N`: an answer for a share of the examples, as one job of a batch queue.

use clap::Args;
use gradlog_analysis::ExampleShare;

/// Which share of the examples, if not all.
#[derive(Debug, Args)]
pub(crate) struct PartArguments {
    /// Answer for part I of N of the examples alone, as one of N jobs, from 1/N to N/N. --out takes the file of the
    /// part. `gradlog merge` makes the whole answer of all N files
    #[arg(long, value_name = "I/N", requires = "out", conflicts_with = "format")]
    pub(crate) part: Option<ExampleShare>,
}
