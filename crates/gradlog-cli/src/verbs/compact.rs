//! `gradlog compact`: a run with its visits sorted by example.

use crate::arguments::EXIT_CODES;
use crate::error::CliError;
use crate::frame::{Asked, Content, Shown, Verb};
use clap::Args;
use gradlog_analysis::{CompactReport, Compaction};
use std::path::PathBuf;
use std::slice;

/// Write a run anew with its visits sorted into buckets of examples, so that each job with --part reads its own
///
/// All visits of an example are then in one bucket, in the order of their steps. A job with --part I/N reads its own
/// buckets alone, if N divides the number of buckets. Scores are the same bit for bit.
/// The adjoint and `gradlog watch` need the order of the training and refuse the new run; so does a recorder that would
/// go on in it.
///
/// NEW appears when it is whole and has been read back. RUN is not changed. What an interrupted call leaves is a folder
/// `.NEW.compacting`: the same call deletes it and starts over.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run; that of several workers becomes one
    run: PathBuf,
    /// How many buckets: about one for each 100,000 examples
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    buckets: u32,
    /// Folder of the new run; must not exist
    #[arg(long, value_name = "NEW")]
    out: PathBuf,
    /// Megabytes of rows that are held before they are written; memory may be twice that
    #[arg(long, value_name = "MB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
}

impl Verb for Arguments {
    type Answer<'run> = CompactReport;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<CompactReport, CliError> {
        let memory = (self.memory as usize).saturating_mul(1_000_000);
        asked.read("compacting", 2, |progress| {
            Compaction::new(self.buckets).memory_bytes(memory).share_progress(progress).write(asked.run(), &self.out)
        })
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, report: CompactReport) -> Result<Shown<'run>, CliError> {
        let pairs = vec![
            ("visits", report.visits.to_string()),
            ("sweep rows", report.sweeps.to_string()),
            ("dropped", report.dropped.to_string()),
            ("buckets", self.buckets.to_string()),
            ("blocks", report.blocks.to_string()),
            ("bytes", report.bytes.to_string()),
        ];
        let after = vec![format!("{} was read back: it holds the same rows", self.out.display())];
        Ok(Shown { content: Content::Pairs(pairs), after, ..Shown::default() })
    }
}
