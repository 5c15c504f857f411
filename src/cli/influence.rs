//! `gradlog influence`: which examples taught the model its answer to a probe?

use super::arguments::{OutputArguments, WindowArguments};
use super::error::CliError;
use super::method::{MethodArguments, Plan};
use super::output::{say_coverage, say_workers, workers_note, Console, Target};
use super::Outcome;
use crate::analysis::{
    Basis, Concentration, Estimate, Influence, Probe, ProbeTime, Probes, Question, Ranked, Strongest,
};
use crate::report::{Format, Rows, Value};
use crate::run::Run;
use clap::{Args, ValueEnum};
use std::io::{self, Write};
use std::path::PathBuf;

/// Proponents and opponents in a table without `--top`.
const TABLE_ROWS: usize = 10;
/// Up to so many proponents and opponents are kept while the visits stream by; for more, all scores are held and sorted.
const STREAMED_MAX: usize = 1000;

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
/// The error (± in a table) is one standard deviation of what projecting and rounding the gradients may have done to the
/// score, at most that where an example has several visits. It says nothing of layers that were not recorded, of probes taken
/// at other steps than the visits, or of what TracIn itself leaves out.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Name of the probe set
    #[arg(long, value_name = "SET")]
    probe: String,
    /// Id of the probe
    #[arg(long, value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    id: Option<u64>,
    /// Every probe of the set: the whole matrix
    #[arg(long)]
    all: bool,
    /// Only the N strongest proponents and the N strongest opponents of each probe; by default 10 in a table, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    /// Which probe stands for a step (tracin)
    #[arg(long, value_name = "RULE", default_value = "earlier")]
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

impl ValueEnum for ProbeTime {
    fn value_variants<'a>() -> &'a [Self] {
        &[ProbeTime::Earlier, ProbeTime::Nearest]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        let (name, help) = match self {
            ProbeTime::Earlier => {
                ("earlier", "the last one taken up to the step; visits before the first are left out")
            }
            ProbeTime::Nearest => ("nearest", "the one taken nearest to the step, before or after"),
        };
        Some(clap::builder::PossibleValue::new(name).help(help))
    }
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let question = Question {
        set: arguments.probe.clone(),
        probes: arguments.id.map_or(Probes::All, |id| Probes::Ids(vec![id])),
        window: arguments.window.window(),
        time: arguments.probe_time,
    };
    let question = if arguments.checkpoints { question.at_checkpoints() } else { question };
    let bar = console.bar(&run, 1, "finding probes");
    let plan = arguments.method.plan(&run, &question, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let plan = plan?.with_errors();

    let bar = console.bar(&run, plan.passes(), "multiplying");
    let progress = |bytes| bar.inc(bytes);
    let wanted = Wanted::of(arguments);
    let first = wanted.ask(&plan, 0, &progress)?;
    for line in words(&first, plan.probes()) {
        bar.suspend(|| console.say(line));
    }
    bar.suspend(|| {
        say_coverage(console, &run);
        say_workers(console, &run)
    })?;

    let mut damage = first.about.damage.clone();
    let mut writer = Writer::new(arguments, wanted, &first);
    let out = arguments.output.out.as_deref();
    let failed = |source| Target::failed(out, source);
    // Only now, when there is something to write: a question without an answer leaves no file.
    let mut rows = writer.begin(&first, workers_note(&run)?, Target::open(out, console.out)?).map_err(failed)?;
    writer.write(&first, &mut rows).map_err(failed)?;
    drop(first);
    for number in 1..plan.passes() {
        let part = wanted.ask(&plan, number, &progress)?;
        writer.write(&part, &mut rows).map_err(failed)?;
        damage = damage.or(part.about.damage);
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

/// How much of the answer is wanted.
#[derive(Clone, Copy)]
struct Wanted {
    top: Option<usize>,
    asked: bool,
}

impl Wanted {
    fn of(arguments: &Arguments) -> Self {
        let asked = arguments.top.map(|top| usize::try_from(top).unwrap_or(usize::MAX));
        let table = (arguments.output.format() == Format::Table).then_some(TABLE_ROWS);
        Self { top: asked.or(table), asked: asked.is_some() }
    }

    /// The answer for the probes of one pass. All scores are held only if all are wanted.
    fn ask(self, plan: &Plan<'_>, pass: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Answer, CliError> {
        // The scores of one probe are few, and all of them say how concentrated its influence is.
        let streamed = self.top.filter(|top| *top <= STREAMED_MAX && plan.probes() > 1);
        if let (Plan::TracIn(plan), Some(top)) = (plan, streamed) {
            let Strongest { about, examples, proponents, opponents, .. } = plan.strongest(pass, top, progress)?;
            let line = |ranked: &Ranked| Line { row: ranked.row, score: ranked.score, error: ranked.error };
            let lines = |list: Vec<Ranked>| list.iter().map(line).collect();
            let ends = proponents.into_iter().zip(opponents).map(|(helped, hurt)| (lines(helped), lines(hurt)));
            return Ok(Answer { about, examples, lists: Lists::Ends(ends.collect()) });
        }
        let about = plan.pass(pass, progress)?;
        let examples = about.rows.len() as u64;
        Ok(Answer { about, examples, lists: Lists::All(self.top) })
    }
}

/// What one pass says.
struct Answer {
    about: Influence,
    examples: u64,
    lists: Lists,
}

enum Lists {
    /// Of each probe the strongest proponents and opponents.
    Ends(Vec<(Vec<Line>, Vec<Line>)>),
    /// All scores are in `about`; so many of each end are wanted, or all.
    All(Option<usize>),
}

#[derive(Clone, Copy)]
struct Line {
    row: usize,
    score: f64,
    error: Option<f64>,
}

impl Answer {
    fn lines(&self, probe: usize, rows: Vec<usize>) -> Vec<Line> {
        let (score, error) = (|row| self.about.score(row, probe), |row| self.about.error(row, probe));
        rows.into_iter().map(|row| Line { row, score: score(row), error: error(row) }).collect()
    }

    /// Proponents and opponents of a probe, or all examples in one list.
    fn ends(&self, probe: usize) -> (Vec<Line>, Option<Vec<Line>>) {
        match &self.lists {
            Lists::Ends(ends) => (ends[probe].0.clone(), Some(ends[probe].1.clone())),
            Lists::All(None) => (self.lines(probe, self.about.ranking(probe)), None),
            Lists::All(Some(top)) => {
                let opponents = self.lines(probe, self.about.opponents(probe, *top));
                (self.lines(probe, self.about.proponents(probe, *top)), Some(opponents))
            }
        }
    }
}

fn words(answer: &Answer, probes: usize) -> Vec<String> {
    let influence = &answer.about;
    let set = &influence.set;
    let about = match influence.probes.as_slice() {
        [probe] if probes == 1 => format!("probe {} of `{set}`{}", probe.id, says(probe)),
        _ => format!("{probes} probes of `{set}`"),
    };
    let (visits, examples) = (influence.visits, answer.examples);
    let on_sweeps = matches!(influence.basis, Basis::Sweeps { .. });
    let rows = if on_sweeps { "rows" } else { "visits" };
    let mut lines = vec![format!("{about}: {}; {visits} {rows} of {examples} examples", influence.variant())];
    if let Some((score, _)) = influence.probes.iter().find_map(|probe| probe.scored) {
        lines.push(format!("the influence is on the {score} of a class, not on a loss: positive raised it"));
    }
    if let Basis::Sweeps { repeated, .. } = influence.basis {
        if repeated > 0 {
            lines.push(format!("note: {repeated} rows replaced by a later one of the same example and checkpoint"));
        }
    }
    let early = match on_sweeps {
        true => "rows left out: the probe has no record at their checkpoint",
        false => "visits left out: before the first probe time (--probe-time nearest takes them in)",
    };
    if let ([_], Some(found)) = (influence.probes.as_slice(), first_concentration(influence)) {
        let Concentration { top_hundredth, carriers, .. } = found;
        lines.push(format!(
            "the hundredth with the largest scores carries {:.1} %; as concentrated as {carriers:.0} examples of one size",
            100.0 * top_hundredth
        ));
    }
    let estimate = influence.estimate.as_ref();
    let told = |of: fn(&Estimate) -> u64| estimate.map_or(0, of);
    let notes = [
        (told(|e| e.after_probes), "visits left out: at or after the last time of the probes"),
        (told(|e| e.steps_without_record), "steps without a record of momentum and weight decay, taken for 0"),
        (told(|e| e.dropped), "visits were dropped while recording: what they did is not unrolled"),
        (influence.before_first_probe, early),
        (influence.not_finite, "visits left out: a number was NaN or infinite"),
        (influence.without_gradient, "visits left out: recorded without gradients"),
        (influence.other_layers, "visits left out: their layers were recorded in another form than the probes'"),
        (
            influence.probe_records_left_out,
            "probe records left out: not finite, without weight, in another form, or of another loss or class",
        ),
        (influence.probe_records_repeated, "probe records replaced by a later one of the same id and step"),
    ];
    lines.extend(notes.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("note: {count} {what}")));
    lines
}

fn first_concentration(influence: &Influence) -> Option<Concentration> {
    if influence.probes.is_empty() || influence.scores.is_empty() {
        return None;
    }
    influence.concentration(0)
}

fn says(probe: &Probe) -> String {
    if let Some((score, class)) = probe.scored {
        return format!(" ({score} of class {class})");
    }
    match (probe.label, probe.prediction) {
        (Some(label), Some(prediction)) => format!(" (label {label}, last predicted {prediction})"),
        (Some(label), None) => format!(" (label {label})"),
        _ => String::new(),
    }
}

type Sink<'a> = Rows<Target<'a>>;

/// Writes the answer, pass by pass.
struct Writer {
    format: Format,
    all: bool,
    asked: bool,
    labels: bool,
    predictions: bool,
    on_sweeps: bool,
    cut: bool,
}

impl Writer {
    fn new(arguments: &Arguments, wanted: Wanted, first: &Answer) -> Self {
        Self {
            format: arguments.output.format(),
            all: arguments.all,
            asked: wanted.asked,
            labels: first.about.rows.iter().any(|row| row.label.is_some()),
            predictions: first.about.rows.iter().any(|row| row.prediction.is_some()),
            on_sweeps: matches!(first.about.basis, Basis::Sweeps { .. }),
            cut: false,
        }
    }

    fn begin<'a>(&self, answer: &Answer, workers: Option<String>, target: Target<'a>) -> io::Result<Sink<'a>> {
        let part = &answer.about;
        let mut head = vec![("score", Value::from("influence")), ("order", "positive helps".into())];
        head.push(("error", "one standard deviation of the sketch's error".into()));
        head.push(("set", part.set.as_str().into()));
        if let ([probe], false) = (part.probes.as_slice(), self.all) {
            head.push(("probe", probe.id.into()));
            head.push(("probe_label", probe.label.into()));
            head.push(("probe_prediction", probe.prediction.into()));
            head.push(("probe_score", probe.scored.map(|(score, _)| score.to_string()).into()));
            head.push(("probe_class", probe.scored.map(|(_, class)| class).into()));
        }
        let estimate = part.estimate.as_ref();
        head.push(("method", estimate.map_or("tracin", |estimate| estimate.method.name()).into()));
        if let Some(estimate) = estimate {
            head.extend([
                ("curvature", Value::from(estimate.curvature.to_string())),
                ("curvature_rows", estimate.curvature_rows.into()),
                ("numbers", (estimate.length as u64).into()),
                ("exact", estimate.exact.into()),
                ("by_layer", estimate.by_layer.into()),
                ("damping", estimate.damping.map(|damping| damping.to_string()).into()),
                ("epochs", estimate.epochs.into()),
                ("steps", estimate.steps.into()),
                ("steps_without_record", estimate.steps_without_record.into()),
                ("after_probes", estimate.after_probes.into()),
                ("dropped", estimate.dropped.into()),
            ]);
        }
        if let ([_], false, Some(found)) = (part.probes.as_slice(), self.all, first_concentration(part)) {
            head.push(("top_hundredth", found.top_hundredth.into()));
            head.push(("carriers", found.carriers.into()));
        }
        head.extend([
            ("variant", Value::from(part.variant())),
            ("basis", part.basis.to_string().into()),
            ("examples", answer.examples.into()),
            ("visits", part.visits.into()),
            ("probe_times", part.probe_times.into()),
            ("before_first_probe", part.before_first_probe.into()),
            ("not_finite", part.not_finite.into()),
            ("without_gradient", part.without_gradient.into()),
            ("other_layers", part.other_layers.into()),
            ("probe_records_left_out", part.probe_records_left_out.into()),
            ("probe_records_repeated", part.probe_records_repeated.into()),
            ("workers", workers.into()),
            ("damage", part.damage.as_ref().map(ToString::to_string).into()),
        ]);
        Rows::begin(self.format, target, &head, &self.columns())
    }

    fn columns(&self) -> Vec<&'static str> {
        let error = if self.format == Format::Table { "±" } else { "error" };
        if self.all {
            return vec!["example", "probe", "score", error];
        }
        let mut columns = vec!["example", if self.on_sweeps { "checkpoints" } else { "visits" }, "score", error];
        if self.format == Format::Table {
            columns.insert(0, "role");
        }
        columns.extend(self.labels.then_some("label"));
        columns.extend(self.predictions.then_some("prediction"));
        columns
    }

    fn write(&mut self, answer: &Answer, rows: &mut Sink<'_>) -> io::Result<()> {
        for probe in 0..answer.about.probes.len() {
            let (proponents, opponents) = answer.ends(probe);
            let Some(mut opponents) = opponents else {
                for line in proponents {
                    self.row(answer, probe, line, "", rows)?;
                }
                continue;
            };
            self.cut |= ((proponents.len() + opponents.len()) as u64) < answer.examples;
            for line in proponents {
                self.row(answer, probe, line, "proponent", rows)?;
            }
            if self.format != Format::Table || self.all {
                // One order from the strongest proponent down; in a table the strongest of both stand first.
                opponents.reverse();
            }
            for line in opponents {
                self.row(answer, probe, line, "opponent", rows)?;
            }
        }
        Ok(())
    }

    fn row(&self, answer: &Answer, probe: usize, line: Line, role: &str, rows: &mut Sink<'_>) -> io::Result<()> {
        let (about, score, error) = (&answer.about.rows[line.row], line.score.into(), line.error.into());
        if self.all {
            return rows.row(&[about.example.into(), answer.about.probes[probe].id.into(), score, error]);
        }
        let mut values: Vec<Value> = vec![about.example.into(), about.visits.into(), score, error];
        if self.format == Format::Table {
            values.insert(0, role.into());
        }
        values.extend(self.labels.then(|| about.label.into()));
        values.extend(self.predictions.then(|| about.prediction.into()));
        rows.row(&values)
    }

    fn hint(&self) -> Option<&'static str> {
        (self.cut && !self.asked).then_some("more: see them with --top N, or all with --format csv")
    }
}
