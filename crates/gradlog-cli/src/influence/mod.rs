//! `gradlog influence`: which examples taught the model its answer to a probe?

mod answer;
mod rows;
mod sweep;
mod words;

use super::arguments::{OutputArguments, WindowArguments};
use super::choice::{choice, Choice};
use super::error::CliError;
use super::method::MethodArguments;
use super::output::{say_coverage, say_workers, workers_note, Console, Target};
use super::Outcome;
use answer::Wanted;
use clap::{ArgGroup, Args};
use gradlog_analysis::{Normalisation, ProbeTime, Probes, Question, SplitBy};
use gradlog_format::run::Run;
use rows::{Sink, Writer};
use std::io::{self, Write};
use std::path::PathBuf;
use sweep::Sweep;

/// Find the training examples that taught the model its answer to a probe: TracIn, influence functions, the adjoint, ...
///
/// Positive scores helped (proponents): their steps lowered the probe's loss. Negative ones hurt (opponents). A table
/// shows the strongest of both. CSV and JSON hold rows `example,visits,score,error` and, where they were recorded, `label` and
/// `prediction` of the example's last visit, sorted from the strongest proponent to the strongest opponent; examples
/// without a usable visit have score NaN and come last. With --checkpoints the gradients are those of a replay's sweep over
/// the training set at checkpoints (TracInCP), and the second column counts these: `example,checkpoints,score,error`.
/// With --all the rows are `example,probe,score,error`, probe after
/// probe, each sorted so.
///
/// With --by the strongest of both ends (10 of each without --top) are taken apart. A table gets a column for each layer or
/// epoch; CSV and JSON a row for each: `example,layer,score,error,whole` or `example,epoch,...`, with --all `probe` after
/// `example`. The scores of an example's rows add up to `whole`.
///
/// With several dampings, as in `--method if --damping 0.01,0.1,1`, there are rows for each, from the smallest to the largest, and
/// a first column `damping` says of which they are. How far neighbours agree is said in words, and in JSON
/// by the lists `spearman_to_next` and `kept_to_next`, the share of the strongest that stay.
///
/// The error (± in a table) is one standard deviation of what projecting and rounding the gradients may have done to the
/// score, at most that where an example has several visits. It says nothing of layers that were not recorded, of probes taken
/// at other steps than the visits, or of what TracIn itself leaves out.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
#[command(group(ArgGroup::new("asked").required(true).args(["id", "ids", "class", "mean", "all"])))]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Name of the probe set
    #[arg(long, value_name = "SET")]
    probe: String,
    /// Id of the probe
    #[arg(long, value_name = "ID")]
    id: Option<u64>,
    /// These probes together: the influence on the mean of their losses
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',')]
    ids: Vec<u64>,
    /// All probes with this label together
    #[arg(long, value_name = "LABEL")]
    class: Option<u32>,
    /// All probes of the set together
    #[arg(long)]
    mean: bool,
    /// Every probe of the set: the whole matrix
    #[arg(long)]
    all: bool,
    /// Only the N strongest proponents and the N strongest opponents of each probe; by default 10 in a table, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    /// What scores are divided by (tracin; relatif also if)
    #[arg(long, value_name = "BY", default_value = "none", value_parser = choice::<Normalisation>())]
    normalise: Normalisation,
    /// Count the gradients of these layers alone: the last one gives TracIn's last-layer form. Layers of several positions are
    /// folded into one vector and go by the name `folded` together (tracin)
    #[arg(long, value_name = "NAME,NAME,..", value_delimiter = ',')]
    layers: Vec<String>,
    /// Show what the strongest scores are made of: a column, or in CSV and JSON a row, for each layer or each epoch (tracin)
    #[arg(long, value_name = "WHAT", value_parser = choice::<SplitBy>())]
    by: Option<SplitBy>,
    /// Set the K nearest training examples in feature space beside the K strongest proponents and opponents; each row then says
    /// its `role` and its `distance`
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["ids", "class", "mean", "all", "top", "by"])]
    nearest: Option<u64>,
    /// The layer whose inputs are the features; by default the last one that keeps its factors
    #[arg(long, value_name = "LAYER", requires = "nearest")]
    nearest_in: Option<String>,
    /// Which probe stands for a step (tracin)
    #[arg(long, value_name = "RULE", default_value = "earlier", value_parser = choice::<ProbeTime>())]
    probe_time: ProbeTime,
    /// TracInCP: over the sweeps at checkpoints instead of the visits; short for `--at sweep`
    #[arg(long, conflicts_with = "at")]
    checkpoints: bool,
    #[command(flatten)]
    method: MethodArguments,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

impl Choice for ProbeTime {
    fn all() -> &'static [Self] {
        &[ProbeTime::Earlier, ProbeTime::Nearest]
    }

    fn word(&self) -> &'static str {
        match self {
            ProbeTime::Earlier => "earlier",
            ProbeTime::Nearest => "nearest",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            ProbeTime::Earlier => "the last one taken up to the step; visits before the first are left out",
            ProbeTime::Nearest => "the one taken nearest to the step, before or after",
        }
    }
}

impl Choice for Normalisation {
    fn all() -> &'static [Self] {
        &Normalisation::ALL
    }

    fn word(&self) -> &'static str {
        self.name()
    }

    fn help(&self) -> &'static str {
        self.about()
    }
}

impl Choice for SplitBy {
    fn all() -> &'static [Self] {
        &[SplitBy::Layer, SplitBy::Epoch]
    }

    fn word(&self) -> &'static str {
        match self {
            SplitBy::Layer => "layer",
            SplitBy::Epoch => "epoch",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            SplitBy::Layer => "where the gradients agree; all folded layers are one part",
            SplitBy::Epoch => "when the example helped",
        }
    }
}

impl Arguments {
    fn question(&self, run: &Run) -> Result<Question, CliError> {
        let probes = match (self.id, self.ids.as_slice(), self.class) {
            (Some(id), _, _) => Probes::Ids(vec![id]),
            (_, [_, ..], _) => Probes::Ids(self.ids.clone()),
            (_, _, Some(label)) => Probes::Label(label),
            _ => Probes::All,
        };
        let question = Question {
            probes,
            group: self.mean || self.class.is_some() || !self.ids.is_empty(),
            // At checkpoints it is on sweeps, whatever the visits are.
            window: if self.checkpoints { self.window.window() } else { self.window.on(&[run])? },
            time: self.probe_time,
            normalise: self.normalise,
            layers: self.layers.clone(),
            ..Question::all(&self.probe)
        };
        if self.checkpoints {
            return Ok(question.at_checkpoints());
        }
        Ok(question)
    }
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let question = arguments.question(&run)?;
    if let Some(by) = arguments.by {
        arguments.method.only_tracin("--by", by)?;
    }
    let bar = console.bar(&run, 1, "finding probes");
    let plan = arguments.method.plan(&run, &question, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let wanted = Wanted::of(arguments);
    let mut plan = plan?.with_errors();
    if wanted.streamed(&plan).is_some() {
        plan = plan.only_strongest();
    }

    let bar = console.bar(&run, plan.passes() * wanted.passes(), "multiplying");
    let progress = |bytes| bar.inc(bytes);
    let mut first = wanted.ask(&plan, 0, &progress)?;
    for answer in &mut first {
        wanted.compare(&run, arguments, answer, &|_| {})?;
    }
    let sweep = Sweep::of(&first, wanted.compared())?;
    for line in words::words(&first, sweep.as_ref(), plan.probes()) {
        bar.suspend(|| console.say(line));
    }
    bar.suspend(|| {
        say_coverage(console, &run);
        say_workers(console, &run)
    })?;

    let mut damage = first.iter().find_map(|answer| answer.about.damage.clone());
    let mut writer = Writer::new(arguments, wanted, &first);
    let out = arguments.output.out.as_deref();
    let failed = |source| Target::failed(out, source);
    // Only now, when there is something to write: a question without an answer leaves no file.
    let target = Target::open(out, console.out)?;
    let mut rows = writer.begin(&first, sweep.as_ref(), workers_note(&run)?, target).map_err(failed)?;
    writer.write(&first, &mut rows).map_err(failed)?;
    drop(first);
    for number in 1..plan.passes() {
        let part = wanted.ask(&plan, number, &progress)?;
        writer.write(&part, &mut rows).map_err(failed)?;
        damage = damage.or_else(|| part.into_iter().find_map(|answer| answer.about.damage));
    }
    bar.finish_and_clear();
    end(rows).map_err(failed)?;
    if let Some(more) = writer.hint() {
        console.say(more);
    }
    console.say_damage(damage.as_ref());
    Ok(if damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

fn end(rows: Sink<'_>) -> io::Result<()> {
    let mut target = rows.end()?;
    target.flush()?;
    target.finish()
}
