//! `gradlog-sql worker` and `gradlog-sql parts`: the program on other machines, and on behalf of the command.

use super::{ask, end, refuse_line, say};
use crate::cluster::{ask_parts, serve, Cluster, PartsQuestion};
use clap::Parser;
use datafusion::error::DataFusionError;
use gradlog_cli::shared::{Refusal, EXIT_CODES};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Answer queries of `gradlog-sql --cluster` and `gradlog scores|influence --cluster`, until the process is ended
///
/// A worker opens runs by the paths or addresses that a query names, and reads them alone: it writes nothing but
/// temporary files. It asks nobody for a password and encrypts nothing, so it listens to this machine alone unless
/// --listen says otherwise. Then anyone who can connect to the port can read every run that the process can read.
#[derive(Debug, Parser)]
#[command(name = "gradlog-sql worker", version, after_help = EXIT_CODES)]
struct WorkerArguments {
    /// Address and port; with port 0 a free one, which is said on stderr
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7723")]
    listen: SocketAddr,
    /// The most gigabytes that sorting and grouping take, of all queries together; what is more lies on disk meanwhile.
    /// Scores and influence are not in it
    #[arg(long, value_name = "GB", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
}

/// Make the parts of an answer: what `gradlog scores|influence --cluster` runs
#[derive(Debug, Parser)]
#[command(name = "gradlog-sql parts", version, after_help = EXIT_CODES)]
struct PartsArguments {
    /// Addresses of the workers
    #[arg(long, value_name = "URL,URL,..", value_delimiter = ',', required = true)]
    cluster: Vec<String>,
    /// The folder that the parts go to
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// `scores` or `influence`
    #[arg(long)]
    verb: String,
    /// Folder or address of a run
    #[arg(long, value_name = "RUN", required = true)]
    run: Vec<PathBuf>,
    /// How many parts; by default one for each worker
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    parts: Option<u32>,
    /// Options of the verb
    #[arg(last = true)]
    options: Vec<String>,
}

/// Runs a command line that begins with one of these words, if it does. A run of such a name is `./worker`.
pub(super) fn execute(line: &[OsString], out: &mut dyn Write, words: &mut dyn Write) -> Option<u8> {
    let [_, word, ..] = line else { return None };
    // The word belongs to the name.
    let rest = line.iter().enumerate().filter(|(place, _)| *place != 1).map(|(_, word)| word);
    let ended = if word == OsStr::new("worker") {
        WorkerArguments::try_parse_from(rest).map(|arguments| {
            let memory = (arguments.memory as usize).saturating_mul(1_000_000_000);
            serve(arguments.listen, memory, io::stderr()).map(|()| 0)
        })
    } else if word == OsStr::new("parts") {
        PartsArguments::try_parse_from(rest).map(|arguments| make_parts(arguments, words).map(|()| 0))
    } else {
        return None;
    };
    Some(match ended {
        Ok(ended) => end(ended, words),
        Err(error) => refuse_line(&error, out, words),
    })
}

fn make_parts(arguments: PartsArguments, words: &mut dyn Write) -> Result<(), Refusal> {
    let refusal = |error| ask::refusal_of(&error);
    let mut cluster = Cluster::new(&arguments.cluster).map_err(refusal)?;
    let threads = ask::threads()?;
    threads.block_on(cluster.check()).map_err(refusal)?;
    let question = PartsQuestion::new(arguments.verb, &arguments.run, arguments.options).map_err(refusal)?;
    let parts = arguments.parts.unwrap_or(cluster.shares() as u32);
    loop {
        let error = match threads.block_on(ask_parts(&question, &cluster, parts, &arguments.into)) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match threads.block_on(cluster.ask_again(&error)).map_err(refusal)? {
            Some(again) => say(words, &format!("warning: {again}")),
            None => return Err(explain(&error)),
        }
    }
}

/// What a worker said of its part is the error of the command.
fn explain(error: &DataFusionError) -> Refusal {
    match error.find_root() {
        DataFusionError::Plan(words) => Refusal { code: 2, words: words.clone() },
        DataFusionError::Execution(words) => Refusal { code: 1, words: words.clone() },
        other => Refusal { code: 1, words: other.strip_backtrace() },
    }
}
