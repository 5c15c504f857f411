//! Where output goes: stdout, or a file that appears when it is whole; and the progress bar.

use crate::error::CliError;
use crate::report::{printable, Format};
use gradlog_analysis::Progress;
use gradlog_format::run::Run;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What a verb talks to.
pub(crate) struct Console<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// Words.
    pub words: &'a mut dyn Write,
    /// The progress bar.
    pub watch: Watch,
    /// How wide the terminal is on which somebody looks at the data, in columns; `usize::MAX` if it does not say.
    pub terminal: Option<usize>,
}

impl Console<'_> {
    /// Says one line. Words that nobody can read are no reason to fail.
    pub(crate) fn say(&mut self, words: impl std::fmt::Display) {
        // Names and paths are in them that somebody else has chosen.
        let line = printable(&words.to_string());
        self.watch.bar().suspend(|| {
            let _ = writeln!(self.words, "{line}");
        });
    }
}

/// Whether work is to end before it is done.
pub(crate) type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// The progress bar of a command, hidden unless somebody watches. All clones are the same bar.
#[derive(Clone)]
pub(crate) struct Watch {
    /// Whether somebody watches the words being written.
    is_watched: bool,
    /// Says when the reading of a run is to end.
    stop: Option<Stop>,
    bar: Arc<Mutex<ProgressBar>>,
}

impl Watch {
    pub(crate) fn new(is_watched: bool) -> Self {
        Self { is_watched, stop: None, bar: Arc::new(Mutex::new(ProgressBar::hidden())) }
    }

    /// One that nobody watches, and whose questions fail when `stop` says so.
    pub(crate) fn stopping(stop: Stop) -> Self {
        Self { stop: Some(stop), ..Self::new(false) }
    }

    /// Draws a bar for `passes` passes over the blocks of some runs.
    pub(crate) fn start(&self, runs: &[&Run], passes: usize, doing: &'static str) {
        self.clear();
        if !self.is_watched {
            return;
        }
        // Headers only: a small part of what the pass itself reads.
        let bytes: u64 = runs.iter().flat_map(|run| run.scan()).map(|block| block.bytes()).sum();
        let total = bytes.saturating_mul(passes as u64);
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(doing);
        self.replace_bar(bar);
    }

    /// The bar that is there, or a hidden one.
    pub(crate) fn bar(&self) -> ProgressBar {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the bar off the terminal.
    pub(crate) fn clear(&self) {
        self.replace_bar(ProgressBar::hidden()).finish_and_clear();
    }

    /// Moves the bar that is there at the time of each report.
    pub(crate) fn progress(&self) -> Progress {
        let watch = self.clone();
        let progress = Progress::new(move |bytes| watch.bar().inc(bytes));
        match self.stop.clone() {
            Some(stop) => progress.stop_when(move || stop()),
            None => progress,
        }
    }

    /// Puts another bar in the place of the one that is there, and returns the latter.
    fn replace_bar(&self, bar: ProgressBar) -> ProgressBar {
        std::mem::replace(&mut *self.bar.lock().unwrap_or_else(PoisonError::into_inner), bar)
    }
}

/// Where a verb writes, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination<'a> {
    /// The file, or stdout.
    pub out: Option<&'a Path>,
    pub format: Format,
    /// The most rows.
    pub rows_max: Option<usize>,
    /// Whether nobody asked for so few rows.
    pub is_cut_by_default: bool,
}

impl Destination<'_> {
    pub(crate) fn stdout() -> Self {
        Self { out: None, format: Format::Table, rows_max: None, is_cut_by_default: false }
    }

    /// Names the place that could not be written.
    pub(crate) fn explain(&self, source: io::Error) -> CliError {
        match self.out {
            Some(path) => CliError::Out { path: path.to_owned(), source },
            None => CliError::Stdout(source),
        }
    }
}

/// Stdout, or a temporary file that takes its name when it is whole.
pub struct Target<'a>(To<'a>);

enum To<'a> {
    Stdout(BufWriter<&'a mut dyn Write>),
    File { path: PathBuf, temporary: Option<PathBuf>, file: BufWriter<File> },
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let to = match &self.0 {
            To::Stdout(_) => Path::new("stdout"),
            To::File { path, .. } => path,
        };
        f.debug_tuple("Target").field(&to).finish()
    }
}

impl<'a> Target<'a> {
    /// Begins to write.
    ///
    /// # Errors
    /// What the system says; so it is for all of these.
    pub fn open(path: Option<&Path>, stdout: &'a mut dyn Write) -> io::Result<Self> {
        let Some(path) = path else {
            return Ok(Target(To::Stdout(BufWriter::new(stdout))));
        };
        // A pipe or a device is written to as it is: renaming would put a file in its place.
        let special = std::fs::metadata(path).is_ok_and(|about| !about.is_file());
        let temporary = if special { None } else { Some(temporary_path(path)?) };
        let mut options = OpenOptions::new();
        options.write(true);
        if !special {
            options.create_new(true);
        }
        let file = options.open(temporary.as_deref().unwrap_or(path))?;
        Ok(Target(To::File { path: path.to_owned(), temporary, file: BufWriter::new(file) }))
    }

    /// Everything is written: a file now takes its name.
    ///
    /// # Errors
    /// As [`Target::open`].
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if let To::File { path, temporary, file } = &mut self.0 {
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
        if let To::File { temporary: Some(temporary), .. } = &mut self.0 {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            To::Stdout(out) => out.write(bytes),
            To::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            To::Stdout(out) => out.flush(),
            To::File { file, .. } => file.flush(),
        }
    }
}

/// The name under which a file is written, in the same folder.
fn temporary_path(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.partial", std::process::id()));
    Ok(path.with_file_name(temporary))
}
