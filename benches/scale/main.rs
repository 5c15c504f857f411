//! Long runs: what the command takes to compact them and to answer, in one process and in two.
//!
//!     cargo build --release && cargo bench --bench scale -- [--outputs N] [--gradients N] [--json FILE] [--dir DIR]
//!
//! Two runs are written, by the crate's own writer: one of outputs alone (default 100,000,000 visits of 1,000,000
//! examples, 2.5 GB) and one with gradients (default 10,000,000 visits of 100,000 examples, 5.5 GB, those of
//! `benches/scoring`). Each is compacted and asked by the command `gradlog`, in processes of their own, over the visits
//! of a tenth of the run and over all of it, to see whether the cost grows linearly.
//!
//! With `--sql`, the same is asked of `gradlog-sql` in turn with the command, both for all rows as CSV, five times
//! each; `over the command` is the median of the ratios, which is what the engine adds.
//!
//! Memory is the most that a process had resident. `efficiency` sets two processes of one thread, each with half of the
//! examples of the compacted run, beside one process of one thread with all of them, which writes a part as well: 1 is
//! twice as fast. Of three times in turn it is the median; what takes minutes is done once. What two threads of a loop
//! that shares nothing gain on the machine is printed first. Everything else runs once; the page cache is as the last
//! one left it. What came out: `benches/results`.

mod ceiling;
mod process;

#[path = "../scoring/mlp.rs"]
mod mlp;
#[path = "../scoring/outputs.rs"]
mod outputs;
#[path = "../scoring/store.rs"]
mod store;

use anyhow::{ensure, Context, Result};
use clap::Parser;
use process::{run_all, Spent};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};

/// What takes longer is not repeated.
const LONG_SECONDS: f64 = 30.0;

#[derive(Parser)]
#[command(about = "What long runs take")]
struct Arguments {
    /// Visits of the run of outputs; 0 for none
    #[arg(long, default_value_t = 100_000_000)]
    outputs: usize,
    /// Visits of the run with gradients; 0 for none
    #[arg(long, default_value_t = 10_000_000)]
    gradients: usize,
    /// Visits of each example
    #[arg(long, default_value_t = 100)]
    epochs: usize,
    /// Buckets of the compacted runs
    #[arg(long, default_value_t = 16)]
    buckets: u32,
    /// Only questions whose name begins so: loss, forgetting, "one probe", "1000 probes"
    #[arg(long)]
    only: Option<String>,
    /// The command; by default the one that was built beside this bench
    #[arg(long)]
    gradlog: Option<PathBuf>,
    /// `gradlog-sql`, to see what its engine adds: cargo build --release -p gradlog-datafusion
    #[arg(long)]
    sql: Option<PathBuf>,
    /// Folder for the runs, over twice their size; removed afterwards. Default: the system's temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the table as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.epochs > 0, "--epochs must be at least 1");
    let mut bench = Bench { command: command(&arguments)?, rows: Vec::new() };
    let folder = tempfile::tempdir_in(arguments.dir.clone().unwrap_or_else(std::env::temp_dir))?;
    let [multiplied, copied] = ceiling::efficiency();
    println!(
        "{} cores; two threads of arithmetic are {multiplied:.2} as efficient as one, of copying {copied:.2}",
        std::thread::available_parallelism()?
    );
    bench.rows.push(json!({ "what": "ceiling", "arithmetic": multiplied, "copying": copied }));
    println!(
        "{:<34} {:>12} {:>9} {:>18} {:>10} {:>10}",
        "", "visits", "s", "million visits/s", "memory MB", "efficiency"
    );
    let scores = ["loss", "forgetting"].map(|score| Question {
        name: score.to_string(),
        words: words(&["scores", "--score", score]),
        sql: format!("select * from scores('{score}')"),
    });
    let influence = |name: String, which: &[&str], sql: &str| Question {
        name,
        words: words(&[&["influence", "--probe", "test", "--top", "10"], which].concat()),
        sql: format!("select * from influence('test', 10{sql})"),
    };
    let influence = [
        influence("one probe".into(), &["--id", "0"], ", 'ids=0'"),
        influence(format!("{} probes", mlp::PROBES), &["--all"], ""),
    ];
    for visits in [arguments.outputs / 10, arguments.outputs] {
        let path = folder.path().join("outputs");
        let write = |path: &Path, examples| outputs::record(path, examples, arguments.epochs as u64);
        bench.measure(&arguments, &path, visits, write, &scores)?;
    }
    for visits in [arguments.gradients / 10, arguments.gradients] {
        let path = folder.path().join("gradients");
        let write = |path: &Path, examples| mlp::record(path, visits, examples as u64);
        bench.measure(&arguments, &path, visits, write, &influence)?;
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&bench.rows)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What is asked.
struct Question {
    name: String,
    /// The words of the command without the run.
    words: Vec<String>,
    /// The same as SQL.
    sql: String,
}

impl Question {
    /// The words of the command about a run, which stands behind the verb.
    fn of(&self, run: &Path, more: &[&str]) -> Vec<String> {
        [&self.words[..1], &[text(run)], &self.words[1..], &words(more)].concat()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// `target/release/gradlog`, where this bench is `target/release/deps/scale-*`.
fn command(arguments: &Arguments) -> Result<PathBuf> {
    if let Some(path) = &arguments.gradlog {
        return Ok(path.clone());
    }
    let own = std::env::current_exe()?;
    let built = own.parent().and_then(Path::parent).map(|folder| folder.join("gradlog"));
    built.filter(|path| path.exists()).context("there is no gradlog beside this bench: cargo build --release")
}

struct Bench {
    command: PathBuf,
    rows: Vec<Value>,
}

impl Bench {
    /// Writes a run, compacts it and asks both. What was written is removed.
    fn measure(
        &mut self,
        arguments: &Arguments,
        path: &Path,
        visits: usize,
        write: impl Fn(&Path, usize) -> Result<()>,
        questions: &[Question],
    ) -> Result<()> {
        if visits < arguments.epochs {
            return Ok(());
        }
        let compacted = path.with_extension("compacted");
        write(path, visits / arguments.epochs)?;
        let buckets = arguments.buckets.to_string();
        let compact = words(&["compact", &text(path), "--buckets", &buckets, "--out", &text(&compacted)]);
        let spent = run_all(&self.command, &[compact], None)?;
        self.row("compact", visits, spent, None);
        let asked = |name: &str| arguments.only.as_deref().is_none_or(|only| name.starts_with(only));
        for question in questions.iter().filter(|question| asked(&question.name)) {
            let name = &question.name;
            for (which, path) in [("as recorded", path), ("compacted", &compacted)] {
                let spent = run_all(&self.command, &[question.of(path, &[])], None)?;
                self.row(&format!("{name}, {which}"), visits, spent, None);
            }
            if let Some(sql) = &arguments.sql {
                self.measure_engine(sql, question, path, visits)?;
            }
            self.measure_parts(question, path, &compacted, visits)?;
        }
        std::fs::remove_dir_all(path)?;
        Ok(std::fs::remove_dir_all(compacted)?)
    }

    /// Asks one process and two in turn, of one thread each.
    fn measure_parts(&mut self, question: &Question, path: &Path, compacted: &Path, visits: usize) -> Result<()> {
        let out = |part: usize| text(&path.with_extension(format!("{part}.part")));
        let part =
            |part: usize, of: usize| question.of(compacted, &["--part", &format!("{part}/{of}"), "--out", &out(part)]);
        let (mut ones, mut twos, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        while ones.len() < 3 && ones.iter().all(|spent: &Spent| spent.seconds < LONG_SECONDS) {
            let one = run_all(&self.command, &[part(1, 1)], Some(1))?;
            let two = run_all(&self.command, &[part(1, 2), part(2, 2)], Some(1))?;
            ratios.push(one.seconds / (2.0 * two.seconds));
            ones.push(one);
            twos.push(two);
        }
        let name = &question.name;
        let (one, two) = (median(ones, |spent| spent.seconds), median(twos, |spent| spent.seconds));
        self.row(&format!("{name}, 1 process of 1 thread"), visits, one, None);
        self.row(&format!("{name}, 2 processes"), visits, two, Some(median(ratios, |ratio| *ratio)));
        (1..=2).try_for_each(|part| Ok(std::fs::remove_file(out(part))?))
    }

    /// Asks the command and the engine in turn.
    fn measure_engine(&mut self, sql: &Path, question: &Question, path: &Path, visits: usize) -> Result<()> {
        let csv = ["--format", "csv"];
        let asked = [&[text(path), question.sql.clone()], words(&csv).as_slice()].concat();
        let (mut engine, mut over) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let plain = run_all(&self.command, &[question.of(path, &csv)], None)?;
            let spent = run_all(sql, std::slice::from_ref(&asked), None)?;
            over.push(spent.seconds / plain.seconds);
            engine.push(spent);
        }
        let (over, engine) = (median(over, |over| *over), median(engine, |spent| spent.seconds));
        let name = format!("{}, SQL", question.name);
        self.row(&name, visits, engine, None);
        println!("{:<34} {:>12} {over:>9.2}", format!("{name} over the command"), "");
        self.rows.push(json!({ "what": name, "visits": visits, "over_the_command": over }));
        Ok(())
    }

    fn row(&mut self, name: &str, visits: usize, spent: Spent, efficiency: Option<f64>) {
        let Spent { seconds, megabytes } = spent;
        let rate = visits as f64 / seconds / 1e6;
        let shown = efficiency.map_or_else(String::new, |efficiency| format!("{efficiency:.2}"));
        println!("{name:<34} {visits:>12} {seconds:>9.2} {rate:>18.2} {megabytes:>10} {shown:>10}");
        self.rows.push(json!({
            "what": name, "visits": visits, "seconds": seconds, "million_visits_per_s": rate,
            "megabytes": megabytes, "efficiency": efficiency,
        }));
    }
}

fn median<T: Copy>(mut all: Vec<T>, by: impl Fn(&T) -> f64) -> T {
    all.sort_by(|a, b| by(a).total_cmp(&by(b)));
    all[all.len() / 2]
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
