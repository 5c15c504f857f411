//! `gradlog suspects`: which labels are probably wrong, and why?

use crate::arguments::{ListArguments, OptimizerArguments, EXIT_CODES};
use crate::error::CliError;
use crate::frame::{first_damage, Asked, Content, Sheet, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::{count, Format, Value};
use clap::Args;
use gradlog_analysis::{Basis, SuspectQuestion, Suspects, Window};
use gradlog_arrow::AnswerTable;
use std::path::PathBuf;

/// How often the runs are read: once for each signal and once for the labels.
const PASSES: usize = 6;

/// List the examples whose label is probably wrong, with the reasons for each
///
/// Combines AUM, mean loss, mean EL2N, self-influence and forgetting by the median of their ranks, as far as the runs
/// hold them. It also counts how often the model confuses the label with the one that it predicts instead. Rows are
/// `example,suspicion,runs,visits,label,proposed`, the value of each signal under its name (several runs: the mean),
/// and `reasons`; a table leaves the values out. `proposed` is the label that most visits predicted, if it is another.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    list: ListArguments,
    #[command(flatten)]
    optimizer: OptimizerArguments,
}

impl Verb for Arguments {
    type Answer<'run> = Suspects;

    fn runs(&self) -> &[PathBuf] {
        self.list.runs()
    }

    fn window(&self) -> Window {
        self.list.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.list.destination()
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Suspects, CliError> {
        asked.read("reading", PASSES, |progress| {
            let question = SuspectQuestion::new().window(asked.window.clone());
            let question = question.optimizer(self.optimizer.optimizer);
            question.share_progress(progress).compute_over(&asked.runs)
        })
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, list: Suspects) -> Result<Shown<'run>, CliError> {
        let names: Vec<&str> = list.signals.iter().map(|signal| signal.name()).collect();
        let signals = names.join(", ");
        let (examples, runs) = (list.rows.len(), list.runs);
        let (of_examples, of_runs) = (count(examples, "example"), count(runs as usize, "run"));
        let mut words = vec![format!("{of_examples} in {of_runs} by the median rank of {signals}")];
        words.extend(list.missing_signals.iter().map(|(signal, why)| format!("note: without {signal}: {why}")));
        if list.labels_differ > 0 {
            let differ = list.labels_differ;
            words.push(format!("warning: the runs recorded different labels for {differ} examples, or none"));
        }
        let head = vec![
            ("list", Value::from("suspects")),
            ("order", "highest first".into()),
            ("signals", signals.into()),
            ("runs", runs.into()),
            ("examples", (examples as u64).into()),
            ("labels_differ", list.labels_differ.into()),
            ("damage", first_damage(&list.damage)),
        ];
        let left_out = Notes::from(&list);
        let signals = (self.list.output.format() != Format::Table).then_some(&list.signals[..]);
        let table = AnswerTable::of_suspects(list.rows, signals);
        Ok(Shown {
            words,
            basis: Some(Basis::describe_all(&list.bases)),
            left_out: vec![(String::new(), left_out)],
            content: Content::Sheet(Sheet { head, table }),
            damage: list.damage.into_iter().collect(),
            ..Shown::default()
        })
    }
}
