//! What all verbs do alike, written once.
//!
//! A verb opens its runs and asks under a progress bar. It says what the answer is computed from and what it leaves
//! out, writes the answer, and names damage last. [`run`] does these in this order. A verb gives its question and its
//! columns.

use crate::error::CliError;
use crate::notes::Notes;
use crate::output::{Console, Destination, Stop, Target, Watch};
use crate::places::{check_places, is_address, open_run};
use crate::report::{self, printable, Format, Rows, Value};
use gradlog_analysis::{ExampleShare, Progress, Window};
use gradlog_arrow::AnswerTable;
use gradlog_format::log::{LOCK_FILE, MANIFEST_FILE, QUEUE_FILE};
use gradlog_format::run::{Damage, ReadError, Run};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How a verb ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The run is damaged; the output is computed from what can be read.
    Loss,
}

/// A verb: how it differs from the others.
pub(crate) trait Verb {
    /// What the runs answer. It may hold on to them.
    type Answer<'run>;

    /// Folders of the runs that are asked.
    fn runs(&self) -> &[PathBuf];

    /// Which rows of the runs count.
    fn window(&self) -> Window {
        Window::everything()
    }

    /// The share of the examples that is asked about, if not all.
    fn share(&self) -> Option<ExampleShare> {
        None
    }

    /// Where the output goes.
    fn destination(&self) -> Destination<'_> {
        Destination::stdout()
    }

    /// Why the runs must be folders of this machine, if they must.
    fn needs_folders(&self) -> Option<&'static str> {
        None
    }

    /// Whether the frame names missing workers.
    fn names_workers(&self) -> bool {
        true
    }

    /// Refuses arguments that do not fit together.
    fn check(&self) -> Result<(), CliError> {
        Ok(())
    }

    /// What it means that a run cannot be opened.
    fn explain_unopened(&self, error: ReadError) -> CliError {
        error.into()
    }

    /// Asks.
    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Self::Answer<'run>, CliError>;

    /// Says what the answer comes to.
    fn show<'run>(&'run self, asked: &'run Asked<'run>, answer: Self::Answer<'run>) -> Result<Shown<'run>, CliError>;
}

/// What is asked about.
pub(crate) struct Asked<'run> {
    pub runs: Vec<&'run Run>,
    pub window: Window,
    watch: Watch,
    terminal: Option<usize>,
}

impl<'run> Asked<'run> {
    /// Asks about whole runs, with no progress bar, until `stop` says that nobody wants the answer.
    pub(crate) fn quietly(runs: Vec<&'run Run>, stop: Stop) -> Self {
        Self { runs, window: Window::everything(), watch: Watch::stopping(stop), terminal: None }
    }

    /// The only run, of a verb that takes one.
    pub(crate) fn run(&self) -> &'run Run {
        self.runs[0]
    }

    /// Reads under a progress bar for `passes` passes over the runs.
    pub(crate) fn read<T, E: Into<CliError>>(
        &self,
        doing: &'static str,
        passes: usize,
        question: impl FnOnce(&Progress) -> Result<T, E>,
    ) -> Result<T, CliError> {
        self.watch.start(&self.runs, passes, doing);
        let found = question(&self.watch.progress()).map_err(Into::into);
        self.watch.clear();
        found
    }

    /// What moves the bar that is there.
    pub(crate) fn progress(&self) -> Progress {
        self.watch.progress()
    }

    /// Starts a bar for several calls; the frame clears it.
    pub(crate) fn start(&self, doing: &'static str, passes: usize) {
        self.watch.start(&self.runs, passes, doing);
    }

    /// Takes the bar off the terminal: nothing is read any more.
    pub(crate) fn stop(&self) {
        self.watch.clear();
    }

    /// How wide the terminal is on which `to` is looked at, if it is a table on a terminal.
    pub(crate) fn terminal(&self, to: &Destination<'_>) -> Option<usize> {
        self.terminal.filter(|_| to.out.is_none() && to.format == Format::Table)
    }

    /// Whether a picture of plain characters belongs behind what goes to `to`: only a table on a terminal.
    pub(crate) fn draws(&self, to: &Destination<'_>) -> bool {
        self.terminal(to).is_some()
    }

    /// The names of the runs.
    pub(crate) fn names(&self) -> Vec<String> {
        self.runs.iter().map(|run| run.dir().display().to_string()).collect()
    }

    /// The folder of a run and a colon, if there are several runs.
    pub(crate) fn prefix(&self, run: &Run) -> String {
        match self.runs.len() {
            0 | 1 => String::new(),
            _ => format!("{}: ", printable(&run.dir().display().to_string())),
        }
    }
}

/// What an answer comes to: words for people, content for everybody.
#[derive(Default)]
pub(crate) struct Shown<'a> {
    /// What the answer says; before the content.
    pub words: Vec<String>,
    /// What the answer rests on, in the library's line: with the rows, or where content has no place for it, in words.
    pub basis: Option<String>,
    /// What the answer leaves out, with the name of the run that it is about where there are several.
    pub left_out: Vec<(String, Notes)>,
    pub content: Content<'a>,
    /// Why there may rightly be no rows, and what to do to get some. Without it an answer without rows is a failure.
    pub if_empty: Option<String>,
    /// What is said behind the content.
    pub after: Vec<String>,
    pub damage: Vec<Damage>,
    /// What is said behind the damage.
    pub last: Vec<String>,
    /// Whether something is lost that is no damage of the log.
    pub loss: bool,
    /// Why there is no content, if that is a failure.
    pub failure: Option<CliError>,
}

/// What goes to stdout or into a file.
#[derive(Default)]
pub(crate) enum Content<'a> {
    #[default]
    Nothing,
    Sheet(Sheet<'a>),
    /// One number a line.
    Numbers(Vec<u64>),
    /// Names and what they are.
    Pairs(Vec<(&'static str, String)>),
    /// Rows that the verb writes one after another, headed by what they rest on.
    Streamed(Streaming<'a>),
    /// Anything else, written by the verb.
    Written(Writing<'a>),
}

impl Content<'_> {
    /// Whether it is a list without rows, as far as that is known before they are written.
    fn has_no_rows(&self) -> bool {
        matches!(self, Content::Sheet(sheet) if sheet.table.rows.len() == 0)
    }

    /// Whether it says itself what it rests on.
    fn holds_basis(&self) -> bool {
        matches!(self, Content::Sheet(_) | Content::Streamed(_))
    }
}

/// Writes content and says how it ended.
pub(crate) type Writing<'a> = Box<dyn FnOnce(&mut dyn Write) -> Result<Ending, CliError> + 'a>;

/// Writes rows behind what they rest on.
pub(crate) type Streaming<'a> = Box<dyn FnOnce(&mut dyn Write, Option<&str>) -> Result<Ending, CliError> + 'a>;

/// How the writing of content ended.
#[derive(Default)]
pub(crate) struct Ending {
    pub words: Option<String>,
    pub damage: Option<Damage>,
}

/// Rows under columns.
pub(crate) struct Sheet<'a> {
    /// The keys of JSON before the rows.
    pub head: Vec<(&'static str, Value)>,
    pub table: AnswerTable<'a>,
}

/// What words about each of some runs begin with: its name and a colon, if there are several.
pub(crate) fn prefixes(names: &[String]) -> Vec<String> {
    match names.len() {
        0 | 1 => vec![String::new()],
        _ => names.iter().map(|name| format!("{}: ", printable(name))).collect(),
    }
}

/// Runs a verb.
pub(crate) fn run<V: Verb>(verb: &V, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    verb.check()?;
    let to = verb.destination();
    if to.format.is_binary() && to.out.is_none() && console.terminal.is_some() {
        let why = "this format is not for a terminal: give --out FILE, or send it into a pipe";
        return Err(CliError::Arguments(why.into()));
    }
    if let Some(out) = to.out.filter(|out| is_of_a_log(out)) {
        let why = format!("--out {} is a file of a run: give another name", printable(&out.display().to_string()));
        return Err(CliError::Arguments(why));
    }
    if let (Some(why), Some(address)) = (verb.needs_folders(), verb.runs().iter().find(|run| is_address(run))) {
        return Err(CliError::Arguments(format!("{}: {why}", printable(&address.display().to_string()))));
    }
    let opened = verb.runs().iter().map(|run| open_run(run)).collect::<Result<Vec<Run>, CliError>>();
    let mut opened = opened.map_err(|error| match error {
        CliError::Read(error) => verb.explain_unopened(error),
        other => other,
    })?;
    if let Some(share) = verb.share() {
        // Of a compacted run, its own buckets are all that is read.
        opened = opened.into_iter().map(|run| run.with_share(share.number() - 1, share.of())).collect();
    }
    let runs: Vec<&Run> = opened.iter().collect();
    let asked = Asked { runs, window: verb.window(), watch: console.watch.clone(), terminal: console.terminal };
    let outcome = ask_and_show(verb, &asked, console);
    asked.watch.clear();
    outcome.and_then(|outcome| check_places(&asked.runs).map(|()| outcome))
}

/// Whether a file is one that a recorder wrote: output would replace it.
fn is_of_a_log(out: &Path) -> bool {
    let Some(name) = out.file_name().and_then(|name| name.to_str()) else { return false };
    let is_named_so = [MANIFEST_FILE, LOCK_FILE, QUEUE_FILE].contains(&name) || name.starts_with("segment-");
    let folder = out.parent().unwrap_or(Path::new(""));
    is_named_so && out.exists() && (folder.join(MANIFEST_FILE).is_file() || name == MANIFEST_FILE)
}

fn ask_and_show<'run, V: Verb>(
    verb: &'run V,
    asked: &'run Asked<'run>,
    console: &mut Console<'_>,
) -> Result<Outcome, CliError> {
    let answer = verb.ask(asked)?;
    check_places(&asked.runs)?;
    let Shown { words, basis, left_out, mut content, if_empty, after, mut damage, last, loss, mut failure } =
        verb.show(asked, answer)?;
    words.iter().for_each(|line| console.say(line));
    let notes = left_out.iter().flat_map(|(prefix, notes)| notes.iter().map(move |note| format!("{prefix}{note}")));
    match (content.has_no_rows(), &if_empty) {
        // The notes are the reason.
        (true, None) => {
            failure = failure.or(Some(no_rows(notes.collect(), &damage)));
            content = Content::Nothing;
        }
        (true, Some(reason)) => {
            notes.for_each(|note| console.say(format_args!("note: {note}")));
            console.say(format_args!("note: there are no rows: {reason}"));
        }
        (false, _) => notes.for_each(|note| console.say(format_args!("note: {note}"))),
    }
    if let (Some(basis), false, None) = (&basis, content.holds_basis(), &failure) {
        console.say(format_args!("basis: {basis}"));
    }
    for run in &asked.runs {
        if verb.names_workers() {
            for note in run.worker_notes()? {
                console.say(format_args!("note: {}{note}", asked.prefix(run)));
            }
        }
    }
    let ending = write(content, basis.as_deref(), &verb.destination(), (&mut *console, asked.runs.as_slice()))?;
    asked.watch.clear();
    after.into_iter().chain(ending.words).for_each(|line| console.say(line));
    damage.extend(ending.damage.filter(|_| damage.is_empty()));
    damage.iter().for_each(|damage| console.say(format_args!("warning: {damage}")));
    last.iter().for_each(|line| console.say(line));
    if let Some(failure) = failure {
        return Err(failure);
    }
    Ok(if loss || !damage.is_empty() { Outcome::Loss } else { Outcome::Done })
}

/// The error of an answer without rows: what was left out is the reason, or the damage.
pub(crate) fn no_rows(mut reasons: Vec<String>, damage: &[Damage]) -> CliError {
    if !damage.is_empty() {
        reasons.push("what was asked for may lie behind the damage.".into());
    }
    CliError::NoRows(reasons.join(" "))
}

/// What is missing of the workers of a run, for a result in a file; `None` if all are there and came equally far.
pub(crate) fn missing_workers(run: &Run) -> Result<Option<String>, ReadError> {
    let notes = run.workers()?.map(|workers| workers.notes()).filter(|notes| !notes.is_empty());
    Ok(notes.map(|notes| notes.join("; ")))
}

/// The first damage, for a result in a file.
pub(crate) fn first_damage<'a>(damage: impl IntoIterator<Item = &'a Damage>) -> Value {
    damage.into_iter().next().map(ToString::to_string).into()
}

fn write(
    content: Content<'_>,
    basis: Option<&str>,
    to: &Destination<'_>,
    (console, runs): (&mut Console<'_>, &[&Run]),
) -> Result<Ending, CliError> {
    if matches!(content, Content::Nothing) {
        return Ok(Ending::default());
    }
    let terminal = console.terminal.filter(|_| to.out.is_none());
    let mut target = Target::open(to.out, console.out).map_err(|error| to.explain(error))?;
    let written = write_content(content, basis, (to, terminal), &mut target);
    written
        .and_then(|ending| {
            // Rows that are written one after another are read meanwhile.
            check_places(runs)?;
            target.finish()?;
            Ok(ending)
        })
        .map_err(|error| match error {
            CliError::Write(source) => to.explain(source),
            other => other,
        })
}

fn write_content(
    content: Content<'_>,
    basis: Option<&str>,
    to: (&Destination<'_>, Option<usize>),
    target: &mut Target<'_>,
) -> Result<Ending, CliError> {
    match content {
        Content::Nothing => Ok(Ending::default()),
        Content::Sheet(sheet) => Ok(write_sheet(sheet, basis, to, target)?),
        Content::Numbers(numbers) => {
            numbers.iter().try_for_each(|number| writeln!(target, "{number}"))?;
            Ok(Ending::default())
        }
        Content::Pairs(pairs) => {
            report::write_pairs(target, &pairs)?;
            Ok(Ending::default())
        }
        Content::Streamed(writing) => writing(target, basis),
        Content::Written(writing) => writing(target),
    }
}

fn write_sheet(
    sheet: Sheet<'_>,
    basis: Option<&str>,
    (to, terminal): (&Destination<'_>, Option<usize>),
    target: &mut Target<'_>,
) -> io::Result<Ending> {
    let AnswerTable { columns, rows: answered, .. } = sheet.table;
    let (count, limit) = (answered.len(), to.rows_max.unwrap_or(usize::MAX));
    let mut rows = Rows::begin(to.format, target, basis, &sheet.head, &columns)?.fit(terminal);
    for row in answered.take(limit) {
        rows.row(&row)?;
    }
    rows.end()?;
    let more = (to.is_cut_by_default && count > limit)
        .then(|| format!("{} more: see them with --top N, or all with --format csv", count - limit));
    Ok(Ending { words: more, damage: None })
}
