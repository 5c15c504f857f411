//! `gradlog threshold`: which labels does AUM find wrong, by threshold samples?

use super::ids::read_ids;
use crate::arguments::{parse_percentile, OutputArguments, WindowArguments, EXIT_CODES};
use crate::error::CliError;
use crate::frame::{first_damage, Asked, Content, Sheet, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::{printable, Value};
use clap::Args;
use gradlog_analysis::{significant, Basis, Flagged, ThresholdIds, ThresholdQuestion, Window};
use gradlog_arrow::AnswerTable;
use std::path::PathBuf;

/// Flag mislabeled examples by AUM and threshold samples (Pleiss et al. 2020)
///
/// The runs were trained with an extra class. Some examples, others in each run, were given this class on purpose: the
/// threshold samples (`ThresholdSamples::draw` of the library draws them). The 99th percentile of their AUM is the
/// run's cut. An example below it in every run that judges it is flagged. Rows are
/// `example,flagged,judged,below,visits,aum,above_cut` (means over the runs that judge it, `above_cut` is AUM minus
/// cut) and, where they were recorded, `label` and `prediction`, the most suspicious first.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folders of the runs: one, or better two with disjoint threshold samples
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The extra class: threshold samples are the examples that were recorded with this label
    #[arg(long, value_name = "LABEL", required_unless_present = "samples", conflicts_with = "samples")]
    class: Option<u32>,
    /// A file of ids, one a line, of a run's threshold samples; once for each run, in their order
    #[arg(long, value_name = "FILE")]
    samples: Vec<PathBuf>,
    /// Which percentile of the threshold samples' AUM is the cut
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = ThresholdQuestion::PERCENTILE, value_parser = parse_percentile)]
    percentile: f64,
    /// Only the flagged ones
    #[arg(long)]
    flagged: bool,
    /// Only the N most suspicious; by default 20 in a table on stdout, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

impl Arguments {
    fn samples(&self) -> Result<ThresholdIds, CliError> {
        if let Some(class) = self.class {
            return Ok(ThresholdIds::Class(class));
        }
        let set = |path: &PathBuf| Ok(read_ids(path)?.into_iter().map(|(id, _)| id).collect());
        Ok(ThresholdIds::Sets(self.samples.iter().map(set).collect::<Result<_, CliError>>()?))
    }
}

impl Verb for Arguments {
    type Answer<'run> = Flagged;

    fn runs(&self) -> &[PathBuf] {
        &self.runs
    }

    fn check(&self) -> Result<(), CliError> {
        let (sets, runs) = (self.samples.len(), self.runs.len());
        if self.class.is_none() && sets != runs {
            let why = format!("{sets} files of --samples for {runs} runs: give one for each run, in their order");
            return Err(CliError::Arguments(why));
        }
        Ok(())
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination_of_first(self.top)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Flagged, CliError> {
        let question = ThresholdQuestion::new(self.samples()?).percentile(self.percentile).window(asked.window.clone());
        asked.read("reading", 1, |progress| question.share_progress(progress).compute_over(&asked.runs))
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, mut verdict: Flagged) -> Result<Shown<'run>, CliError> {
        let basis = Basis::describe_all(verdict.runs.iter().map(|part| &part.basis));
        let flagged = verdict.count_flagged();
        let mut words = Vec::new();
        for (run, part) in asked.runs.iter().zip(&verdict.runs) {
            words.push(format!(
                "{}: {} threshold samples, cut at AUM {}, {} examples judged",
                printable(&run.dir().display().to_string()),
                part.samples,
                significant(part.cut),
                part.judged
            ));
        }
        if verdict.runs.iter().any(|part| part.basis.is_sweeps()) {
            words.push("\"visits\" are rows of sweeps".into());
        }
        words.push(format!("{flagged} of {} examples are flagged", verdict.rows.len()));
        let unjudged = verdict.unjudged.len() as u64;
        let damage: Vec<_> = verdict.runs.iter().filter_map(|part| part.damage.clone()).collect();
        let cuts: Vec<String> = verdict.runs.iter().map(|part| part.cut.to_string()).collect();
        let samples: Vec<String> = verdict.runs.iter().map(|part| part.samples.to_string()).collect();
        let head = vec![
            ("score", Value::from("aum")),
            ("percentile", verdict.percentile.into()),
            ("runs", (verdict.runs.len() as u64).into()),
            ("cuts", cuts.join(", ").into()),
            ("threshold_samples", samples.join(", ").into()),
            ("examples", (verdict.rows.len() as u64).into()),
            ("flagged", flagged.into()),
            ("unjudged", unjudged.into()),
            ("damage", first_damage(&damage)),
        ];
        let if_empty = (self.flagged && !verdict.rows.is_empty()).then(|| {
            "no example lies below the cut in every run that judges it; leave out --flagged to see them all".to_owned()
        });
        verdict.rows.retain(|row| row.flagged || !self.flagged);
        Ok(Shown {
            words,
            basis: Some(basis),
            if_empty,
            left_out: vec![(String::new(), Notes::from(&verdict))],
            content: Content::Sheet(Sheet { head, table: AnswerTable::of_flagged(verdict.rows) }),
            damage,
            ..Shown::default()
        })
    }
}
