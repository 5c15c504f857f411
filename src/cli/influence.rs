//! `gradlog influence`: which examples taught the model its answer to a probe?

use super::arguments::{OutputArguments, WindowArguments};
use super::error::CliError;
use super::output::{say_coverage, Console, Target};
use super::Outcome;
use crate::analysis::{Basis, Influence, InfluencePlan, Probe, ProbeTime, Probes, Question};
use crate::report::{printable, Format, Rows, Value};
use crate::run::Run;
use clap::{Args, ValueEnum};
use std::io::{self, Write};
use std::path::PathBuf;

/// Proponents and opponents in a table without `--top`.
const TABLE_ROWS: usize = 10;

/// Find the training examples that taught the model its answer to a probe (TracIn)
///
/// Positive scores helped (proponents): their steps lowered the probe's loss. Negative ones hurt (opponents). A table
/// shows the strongest of both. CSV and JSON hold rows `example,visits,score` and, where they were recorded, `label` and
/// `prediction` of the example's last visit, sorted from the strongest proponent to the strongest opponent; examples
/// without a usable visit have score NaN and come last. With --checkpoints the gradients are those of a replay's sweep over the
/// training set at checkpoints (TracInCP), and the second column counts these: `example,checkpoints,score`. With --all the rows are `example,probe,score`, probe after
/// probe, each sorted so.
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
    /// Which probe stands for a step
    #[arg(long, value_name = "RULE", default_value = "earlier")]
    probe_time: ProbeTime,
    /// TracInCP: over the sweeps at checkpoints instead of the visits; short for `--at sweep`
    #[arg(long, conflicts_with = "at")]
    checkpoints: bool,
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
    let plan = InfluencePlan::new(&run, &question, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let plan = plan?;

    let bar = console.bar(&run, plan.passes(), "multiplying");
    let progress = |bytes| bar.inc(bytes);
    let first = plan.pass(0, &progress)?;
    for line in words(&first, plan.probes()) {
        bar.suspend(|| console.say(line));
    }
    bar.suspend(|| say_coverage(console, &run));

    let mut damage = first.damage.clone();
    let mut writer = Writer::new(arguments, &first);
    let out = arguments.output.out.as_deref();
    let failed = |source| Target::failed(out, source);
    // Only now, when there is something to write: a question without an answer leaves no file.
    let mut rows = writer.begin(&first, Target::open(out, console.out)?).map_err(failed)?;
    writer.write(&first, &mut rows).map_err(failed)?;
    drop(first);
    for number in 1..plan.passes() {
        let part = plan.pass(number, &progress)?;
        writer.write(&part, &mut rows).map_err(failed)?;
        damage = damage.or(part.damage);
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

fn words(influence: &Influence, probes: usize) -> Vec<String> {
    let set = printable(&influence.set);
    let about = match influence.probes.as_slice() {
        [probe] if probes == 1 => format!("probe {} of `{set}`{}", probe.id, says(probe)),
        _ => format!("{probes} probes of `{set}`"),
    };
    let (visits, examples) = (influence.visits, influence.rows.len());
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
    let notes = [
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
    top: Option<usize>,
    asked: bool,
    labels: bool,
    predictions: bool,
    on_sweeps: bool,
    cut: bool,
}

impl Writer {
    fn new(arguments: &Arguments, first: &Influence) -> Self {
        let format = arguments.output.format();
        let asked = arguments.top.map(|top| usize::try_from(top).unwrap_or(usize::MAX));
        Self {
            format,
            all: arguments.all,
            top: asked.or((format == Format::Table).then_some(TABLE_ROWS)),
            asked: asked.is_some(),
            labels: first.rows.iter().any(|row| row.label.is_some()),
            predictions: first.rows.iter().any(|row| row.prediction.is_some()),
            on_sweeps: matches!(first.basis, Basis::Sweeps { .. }),
            cut: false,
        }
    }

    fn begin<'a>(&self, part: &Influence, target: Target<'a>) -> io::Result<Sink<'a>> {
        let mut head = vec![("score", Value::from("influence")), ("order", "positive helps".into())];
        head.push(("set", part.set.as_str().into()));
        if let ([probe], false) = (part.probes.as_slice(), self.all) {
            head.push(("probe", probe.id.into()));
            head.push(("probe_label", probe.label.into()));
            head.push(("probe_prediction", probe.prediction.into()));
            head.push(("probe_score", probe.scored.map(|(score, _)| score.to_string()).into()));
            head.push(("probe_class", probe.scored.map(|(_, class)| class).into()));
        }
        head.extend([
            ("variant", Value::from(part.variant())),
            ("basis", part.basis.to_string().into()),
            ("examples", (part.rows.len() as u64).into()),
            ("visits", part.visits.into()),
            ("probe_times", part.probe_times.into()),
            ("before_first_probe", part.before_first_probe.into()),
            ("not_finite", part.not_finite.into()),
            ("without_gradient", part.without_gradient.into()),
            ("other_layers", part.other_layers.into()),
            ("probe_records_left_out", part.probe_records_left_out.into()),
            ("probe_records_repeated", part.probe_records_repeated.into()),
            ("damage", part.damage.as_ref().map(ToString::to_string).into()),
        ]);
        Rows::begin(self.format, target, &head, &self.columns())
    }

    fn columns(&self) -> Vec<&'static str> {
        if self.all {
            return vec!["example", "probe", "score"];
        }
        let mut columns = vec!["example", if self.on_sweeps { "checkpoints" } else { "visits" }, "score"];
        if self.format == Format::Table {
            columns.insert(0, "role");
        }
        columns.extend(self.labels.then_some("label"));
        columns.extend(self.predictions.then_some("prediction"));
        columns
    }

    fn write(&mut self, part: &Influence, rows: &mut Sink<'_>) -> io::Result<()> {
        for probe in 0..part.probes.len() {
            let Some(top) = self.top else {
                for row in part.ranking(probe) {
                    self.row(part, probe, row, "", rows)?;
                }
                continue;
            };
            let proponents = part.proponents(probe, top);
            let mut opponents = part.opponents(probe, top);
            self.cut |= proponents.len() + opponents.len() < part.rows.len();
            for row in proponents {
                self.row(part, probe, row, "proponent", rows)?;
            }
            if self.format != Format::Table || self.all {
                // One order from the strongest proponent down; in a table the strongest of both stand first.
                opponents.reverse();
            }
            for row in opponents {
                self.row(part, probe, row, "opponent", rows)?;
            }
        }
        Ok(())
    }

    fn row(&self, part: &Influence, probe: usize, row: usize, role: &str, rows: &mut Sink<'_>) -> io::Result<()> {
        let (about, score) = (&part.rows[row], part.score(row, probe));
        if self.all {
            return rows.row(&[about.example.into(), part.probes[probe].id.into(), score.into()]);
        }
        let mut values: Vec<Value> = vec![about.example.into(), about.visits.into(), score.into()];
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
