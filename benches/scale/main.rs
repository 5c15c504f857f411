//! Long runs: what the command takes to compact them and to answer, in one process and in two.
//!
//!     cargo build --release && cargo bench --bench scale -- [--outputs N] [--gradients N] [--json FILE] [--dir DIR]
//!
//! Two runs are written, by the crate's own writer: one of outputs alone (default 100,000,000 visits of 1,000,000
//! examples, 2.5 GB) and one with gradients (default 10,000,000 visits of 100,000 examples, 5.5 GB, those of
//! `benches/scoring`). Each is compacted and asked by the command `gradlog`, in processes of their own, over the visits
//! of a tenth of the run and over all of it, to see whether the cost grows linearly.
//!
//! With `--sql`, the same is asked of `gradlog-sql` in turn with the command, three times each; `over the command` is
//! the ratio of the medians, which is what the engine adds.
//!
//! Memory is the most that a process had resident. `efficiency` sets two processes of one thread, each with half of the
//! examples of the compacted run, beside one process of one thread with all of them: 1 is twice as fast. Everything
//! else runs once; the page cache is as the last one left it. What came out: `benches/results`.

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
    println!("{} cores", std::thread::available_parallelism()?);
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
            let one = run_all(&self.command, &[question.of(&compacted, &[])], Some(1))?;
            let part = |part: usize| {
                let out = text(&path.with_extension(format!("{part}.part")));
                question.of(&compacted, &["--part", &format!("{part}/2"), "--out", &out])
            };
            let two = run_all(&self.command, &[part(1), part(2)], Some(1))?;
            self.row(&format!("{name}, 1 process of 1 thread"), visits, one, None);
            self.row(&format!("{name}, 2 processes"), visits, two, Some(one.seconds / (2.0 * two.seconds)));
            for number in 1..=2 {
                std::fs::remove_file(path.with_extension(format!("{number}.part")))?;
            }
        }
        std::fs::remove_dir_all(path)?;
        Ok(std::fs::remove_dir_all(compacted)?)
    }

    /// Asks the command and the engine in turn.
    fn measure_engine(&mut self, sql: &Path, question: &Question, path: &Path, visits: usize) -> Result<()> {
        let (mut plain, mut engine) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            plain.push(run_all(&self.command, &[question.of(path, &[])], None)?);
            engine.push(run_all(sql, &[vec![text(path), question.sql.clone()]], None)?);
        }
        let median = |mut all: Vec<Spent>| {
            all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
            all[all.len() / 2]
        };
        let (plain, engine) = (median(plain), median(engine));
        let name = format!("{}, SQL", question.name);
        let over = engine.seconds / plain.seconds;
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

fn text(path: &Path) -> String {
    path.display().to_string()
}
