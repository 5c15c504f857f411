//! Where output goes: stdout, or a file that appears when it is whole; and the progress bar.

use super::error::CliError;
use crate::report::printable;
use gradlog_format::run::{Damage, ReadError, Run, Workers};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What a verb talks to.
pub(super) struct Console<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// Words.
    pub words: &'a mut dyn Write,
    /// Whether somebody watches the words being written.
    pub progress: bool,
}

impl Console<'_> {
    /// Says one line. Words that nobody can read are no reason to fail.
    pub(super) fn say(&mut self, words: impl std::fmt::Display) {
        // Names and paths are in them that somebody else has chosen.
        let _ = writeln!(self.words, "{}", printable(&words.to_string()));
    }

    /// Says how many rows a table without `--top` leaves out.
    pub(super) fn say_more(&mut self, asked: Option<u64>, rows: usize, shown: usize) {
        if asked.is_none() && rows > shown {
            self.say(format_args!("{} more: see them with --top N, or all with --format csv", rows - shown));
        }
    }

    /// Says where the run is damaged, if it is.
    pub(super) fn say_damage(&mut self, damage: Option<&Damage>) {
        if let Some(damage) = damage {
            self.say(format_args!("warning: {damage}"));
        }
    }

    /// A bar for `passes` passes over the blocks of a run; hidden unless somebody watches.
    pub(super) fn bar(&self, run: &Run, passes: usize, doing: &'static str) -> ProgressBar {
        self.bar_over(&[run], passes, doing)
    }

    /// The same over several runs.
    pub(super) fn bar_over(&self, runs: &[&Run], passes: usize, doing: &'static str) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        // Headers only: a small part of what the pass itself reads.
        let bytes: u64 = runs.iter().flat_map(|run| run.scan()).map(|block| block.bytes()).sum();
        let total = bytes.saturating_mul(passes as u64);
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(doing);
        bar
    }
}

/// Stdout, or a file beside the one that is to appear.
pub(super) enum Target<'a> {
    Stdout(BufWriter<&'a mut dyn Write>),
    File { path: PathBuf, temporary: Option<PathBuf>, file: BufWriter<File> },
}

impl<'a> Target<'a> {
    pub(super) fn open(path: Option<&Path>, stdout: &'a mut dyn Write) -> Result<Self, CliError> {
        let Some(path) = path else {
            return Ok(Target::Stdout(BufWriter::new(stdout)));
        };
        let failed = |source| CliError::Out { path: path.to_owned(), source };
        // A pipe or a device is written to as it is: renaming would put a file in its place.
        let special = std::fs::metadata(path).is_ok_and(|about| !about.is_file());
        let temporary = if special { None } else { Some(beside(path).map_err(failed)?) };
        let mut options = OpenOptions::new();
        options.write(true);
        if !special {
            options.create_new(true);
        }
        let file = options.open(temporary.as_deref().unwrap_or(path)).map_err(failed)?;
        Ok(Target::File { path: path.to_owned(), temporary, file: BufWriter::new(file) })
    }

    /// What went wrong while writing here.
    pub(super) fn failed(path: Option<&Path>, source: io::Error) -> CliError {
        match path {
            Some(path) => CliError::Out { path: path.to_owned(), source },
            None => CliError::Stdout(source),
        }
    }

    /// Everything is written: a file now takes its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if let Target::File { path, temporary, file } = &mut self {
            if let Some(from) = temporary.as_ref() {
                file.get_ref().sync_all()?;
                std::fs::rename(from, path)?;
            }
            // Nothing is left to remove.
            *temporary = None;
        }
        Ok(())
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if let Target::File { temporary: Some(temporary), .. } = self {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Stdout(out) => out.write(bytes),
            Target::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::Stdout(out) => out.flush(),
            Target::File { file, .. } => file.flush(),
        }
    }
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.partial", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Says what a reader of the result should know of the workers that recorded the run, if several did.
///
/// # Errors
/// As [`Run::workers`].
pub(super) fn say_workers(console: &mut Console<'_>, run: &Run) -> Result<(), ReadError> {
    if let Some(worker) = run.manifest().worker {
        let (rank, workers) = (worker.rank, worker.workers);
        console.say(format_args!(
            "note: this is the part of worker {rank} of {workers} alone; the run is the folder around it"
        ));
    }
    for note in run.workers()?.iter().flat_map(Workers::notes) {
        console.say(format_args!("note: {note}"));
    }
    Ok(())
}

/// What [`say_workers`] says, for a result in a file; `None` if all workers are there and came equally far.
///
/// # Errors
/// As [`Run::workers`].
pub(super) fn workers_note(run: &Run) -> Result<Option<String>, ReadError> {
    let notes = run.workers()?.map(|workers| workers.notes()).filter(|notes| !notes.is_empty());
    Ok(notes.map(|notes| notes.join("; ")))
}

/// Says which part of the model's gradient was recorded, so that a part is not taken for the whole.
pub(super) fn say_coverage(console: &mut Console<'_>, run: &Run) {
    match run.manifest().coverage() {
        Some(share) if share < 0.9995 => console.say(format_args!(
            "note: the gradients are those of {:.1} % of the model's parameters; `gradlog info` lists the layers",
            100.0 * share
        )),
        Some(_) => {}
        None => console.say("note: the gradients are those of the recorded layers; `gradlog info` lists them"),
    }
}
