//! The program `gradlog-sql`: its library, so that the binary holds nothing but a call.
//!
//! Data goes to stdout and words to stderr, and exit codes are those of `gradlog`.

mod ask;
#[cfg(feature = "cluster")]
mod cluster;
mod print;

use crate::cluster::Cluster;
use crate::RunTables;
use ask::Answer;
use clap::Parser;
use gradlog_cli::shared::{check_place, open_run, printable, OutputArguments, Refusal, Target, EXIT_CODES};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Ask a recorded run in SQL
///
/// Tables are visits, sweeps, probes, steps, gaps, events, checkpoints, checks and cards. `describe visits` lists the
/// columns of a table. Functions are `scores('aum')` and `influence('SET', TOP)`, which give the rows of `gradlog
/// scores` and `gradlog influence`. `explain select ..` shows what a query reads.
///
/// `gradlog-sql worker --help` says how other machines answer, if this program was built with the feature `cluster`.
#[derive(Debug, Parser)]
#[command(name = "gradlog-sql", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// The query, such as "select epoch, avg(loss) from visits group by epoch"
    query: String,
    /// How many stretches of a table are read at the same time; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    partitions: Option<u32>,
    /// Cut scores and influence into N shares of the examples; by default one, which uses all cores, or one for each
    /// worker, and two at least. More suit a compacted run, of which each share reads its own buckets alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    shares: Option<u32>,
    /// Let these workers answer. They open the run by the same path or address
    #[arg(long, value_name = "URL,URL,..", value_delimiter = ',')]
    cluster: Vec<String>,
    /// The most gigabytes that sorting and grouping take; what is more lies on disk meanwhile. Scores and influence
    /// are not in it
    #[arg(long, value_name = "GB", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
    #[command(flatten)]
    output: OutputArguments,
}

/// Runs the command line of this process and returns its exit code.
pub fn run() -> ExitCode {
    let (mut out, mut words) = (io::stdout(), io::stderr());
    let draws = out.is_terminal();
    ExitCode::from(execute(std::env::args_os(), &mut out, &mut words, draws))
}

/// Runs one command line, the program's name included. Returns the exit code.
///
/// `is_terminal` says whether somebody looks at `out`.
pub fn execute(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    words: &mut dyn Write,
    is_terminal: bool,
) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    #[cfg(feature = "cluster")]
    if let Some(code) = cluster::execute(&arguments, out, words) {
        return code;
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return refuse_line(&error, out, words),
    };
    end(ask_and_write(&arguments, out, words, is_terminal), words)
}

/// What clap says of a command line.
fn refuse_line(error: &clap::Error, out: &mut dyn Write, words: &mut dyn Write) -> u8 {
    // Help and version are data; whatever else is said is words. If nobody listens, the code still tells.
    let to: &mut dyn Write = if error.use_stderr() { words } else { out };
    let _ = write!(to, "{}", error.render());
    u8::try_from(error.exit_code()).unwrap_or(2)
}

/// The exit code, and words for what failed.
fn end(ended: Result<u8, Refusal>, words: &mut dyn Write) -> u8 {
    match ended {
        Ok(code) => code,
        Err(Refusal { code, words: why }) => {
            say(words, &format!("error: {why}"));
            code
        }
    }
}

/// Says one line. Names and paths are in it that somebody else has chosen.
fn say(words: &mut dyn Write, line: &str) {
    // Words that nobody can read are no reason to fail.
    let _ = writeln!(words, "{}", printable(line));
}

fn ask_and_write(
    arguments: &Arguments,
    out: &mut dyn Write,
    words: &mut dyn Write,
    is_terminal: bool,
) -> Result<u8, Refusal> {
    let (format, file) = (arguments.output.format(), arguments.output.out());
    if format.is_binary() && file.is_none() && is_terminal {
        let why = "this format is not for a terminal: give --out FILE, or send it into a pipe";
        return Err(Refusal { code: 2, words: why.into() });
    }
    let run = open_run(&arguments.run)?;
    let cluster = match arguments.cluster.as_slice() {
        [] => None,
        workers => Some(Cluster::new(workers).map_err(|error| ask::refusal_of(&error))?),
    };
    let shares = arguments.shares.unwrap_or(cluster.as_ref().map_or(1, |cluster| cluster.shares() as u32));
    let tables = RunTables::new(run).map_err(|error| ask::refusal_of(&error))?.with_shares(shares);
    let workers = tables.run().worker_notes().map_err(|error| ask::refusal_of(&error.into()))?;
    let Answer { mut data, rows, words: said, damage } = ask::ask(tables.clone(), cluster, arguments)?;
    check_place(tables.run())?;
    said.iter().for_each(|line| say(words, line));
    workers.iter().for_each(|note| say(words, &format!("note: {note}")));
    if rows == 0 {
        say(words, "note: there are no rows");
    }
    let failed = |error: io::Error| match file {
        Some(path) => format!("cannot write {}: {error}; nothing was left there", path.display()),
        None => format!("cannot write to stdout: {error}"),
    };
    let written = Target::open(file, out).and_then(|mut target| {
        io::copy(&mut data, &mut target)?;
        target.finish()
    });
    match written {
        // The reader of our output closed it, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe && file.is_none() => return Ok(0),
        Err(error) => return Err(Refusal { code: 1, words: failed(error) }),
        Ok(()) => {}
    }
    damage.iter().for_each(|damage| say(words, &format!("warning: {damage}")));
    Ok(if damage.is_empty() { 0 } else { 3 })
}
