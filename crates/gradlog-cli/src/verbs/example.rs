//! `gradlog example`: how did one example go, visit by visit?

use crate::arguments::{OutputArguments, WindowArguments, EXIT_CODES};
use crate::error::CliError;
use crate::frame::{first_damage, missing_workers, Asked, Content, Sheet, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::Value;
use clap::Args;
use gradlog_analysis::{ExampleHistory, ExampleQuestion, Window};
use gradlog_arrow::AnswerTable;
use std::path::PathBuf;
use std::slice;

/// Print the curve of one example: loss, margin, EL2N, prediction and more at each visit
///
/// Rows are `step,epoch,loss,margin,el2n,confidence,correct,label,prediction,squared_norm,norm_estimated,learning_rate,
/// coefficient`, in the order of the steps. The numbers belong to the weights just before the step. What was not
/// recorded is empty in CSV, null in JSON and `-` in a table. `squared_norm` is that of the example's own gradient, and
/// `norm_estimated` says whether it comes from a sketch. `coefficient` is the example's weight in the loss: 1/B under a
/// mean over a batch of B. With `--at sweep` the rows are those of a replay, one for each checkpoint.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Id of the example
    #[arg(long, value_name = "N")]
    id: u64,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

impl Verb for Arguments {
    type Answer<'run> = ExampleHistory;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination()
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<ExampleHistory, CliError> {
        let question = ExampleQuestion::new(self.id).window(asked.window.clone());
        asked.read("reading", 1, |progress| question.share_progress(progress).compute(asked.run()))
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, history: ExampleHistory) -> Result<Shown<'run>, CliError> {
        let visits = history.visits.len();
        let one = if visits == 1 { "" } else { "s" };
        let rows = history.basis.rows.to_string();
        let words = match history.basis.is_sweeps() {
            true => format!("example {}: {visits} row{one}, {rows}", history.example),
            false => {
                format!("example {}: {}", history.example, rows.replacen("visits", &format!("{visits} visit{one}"), 1))
            }
        };
        let head = vec![
            ("example", Value::from(history.example)),
            ("visits", (visits as u64).into()),
            ("replaced", history.left_out.replaced.into()),
            ("workers", missing_workers(asked.run())?.into()),
            ("damage", first_damage(&history.damage)),
        ];
        Ok(Shown {
            words: vec![words],
            basis: Some(history.basis.to_string()),
            left_out: vec![(String::new(), Notes::from(&history))],
            content: Content::Sheet(Sheet { head, table: AnswerTable::of_example(history.visits) }),
            damage: history.damage.into_iter().collect(),
            ..Shown::default()
        })
    }
}
