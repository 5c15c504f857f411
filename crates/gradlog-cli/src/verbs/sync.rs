//! `gradlog sync`: copies a run to an object store, also while it is recorded.

use crate::error::CliError;
use crate::frame::{Asked, Shown, Verb};
use clap::Args;
use std::path::PathBuf;

/// Copy a run to an object store, also while it is recorded
#[derive(Debug, Args)]
#[command(after_help = "\
Segments that are finished are copied. The one that a recorder still writes to follows when the recorder has ended. \
Each file is read back and compared. What is there and equal is not sent again. Nothing is deleted.

Credentials come from environment variables: AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY and \
the like. docs/remote.md lists them.")]
#[cfg_attr(not(feature = "remote"), allow(dead_code))]
pub(crate) struct Arguments {
    /// Folder of the run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where to: s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, http:// or https://
    #[arg(value_name = "URL")]
    url: PathBuf,
    /// Go on until the recorder has ended; wait for a run that has not begun, for 10 minutes
    #[arg(long)]
    follow: bool,
    /// With --follow, how many seconds to wait before looking for new segments
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

impl Verb for Arguments {
    type Answer<'run> = Done;

    /// None: a run that has not begun cannot be opened.
    fn runs(&self) -> &[PathBuf] {
        &[]
    }

    fn check(&self) -> Result<(), CliError> {
        use crate::places::is_address;
        let wrong = |place: &PathBuf, what: &str| Err(CliError::Arguments(format!("{}: {what}", place.display())));
        match (is_address(&self.run), is_address(&self.url)) {
            (true, _) => wrong(&self.run, "`sync` copies a run from a folder of this machine, not from a store"),
            (_, false) => {
                wrong(&self.url, "this is no address: s3://BUCKET/PATH and the like; `cp -r` copies to a folder")
            }
            _ => Ok(()),
        }
    }

    #[cfg(not(feature = "remote"))]
    fn ask<'run>(&self, _: &Asked<'run>) -> Result<Done, CliError> {
        Err(crate::places::without_stores(&self.url))
    }

    #[cfg(feature = "remote")]
    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Done, CliError> {
        use crate::report::printable;
        use gradlog_store::{Sync, SyncEvent};
        let mut sync = Sync::new(&self.run, &self.url);
        if self.follow {
            sync = sync.follow(std::time::Duration::from_secs(self.every));
        }
        let mut waits = false;
        let told = |event: SyncEvent<'_>| {
            let line = match event {
                SyncEvent::Sent { path, bytes } => format!("sent {} ({bytes} bytes)", path.display()),
                SyncEvent::WaitsForRun if std::mem::replace(&mut waits, true) => return,
                SyncEvent::WaitsForRun => format!("waiting for a run in {}", self.run.display()),
                SyncEvent::TriesAgain { error } => format!("note: {error}; trying again in {} s", self.every),
                _ => return,
            };
            // These lines matter while they happen, which may be days before the end.
            eprintln!("{}", printable(&line));
        };
        let report = match sync.run(told) {
            Err(gradlog_store::StoreError::Read(error)) => return Err(CliError::Read(error)),
            report => report?,
        };
        let _ = asked;
        let mut words = vec![format!(
            "{} of {} files sent ({} bytes), {} were there and equal",
            report.sent_files,
            report.sent_files + report.equal_files,
            report.sent_bytes,
            report.equal_files
        )];
        for open in &report.open_segments {
            words.push(format!(
                "note: {} is still being written, and was not copied: run the same command again, or with --follow",
                open.display()
            ));
        }
        if report.open_segments.is_empty() && !report.finished {
            words.push(
                "note: the recorder ended without finishing the run: what it committed is copied; if the training \
                 resumes, run the same command again"
                    .into(),
            );
        }
        Ok(Done { words })
    }

    fn show<'run>(&'run self, _: &'run Asked<'run>, answer: Done) -> Result<Shown<'run>, CliError> {
        Ok(Shown { words: answer.words, ..Shown::default() })
    }
}

/// What was done, in words.
pub(crate) struct Done {
    words: Vec<String>,
}
