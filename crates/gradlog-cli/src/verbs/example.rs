//! `gradlog example`: how did one example go, visit by visit?

use crate::arguments::{OutputArguments, WindowArguments, EXIT_CODES};
use crate::error::CliError;
use crate::frame::{first_damage, missing_workers, Asked, Content, Sheet, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::Value;
use clap::Args;
use gradlog_analysis::{ExampleHistory, ExampleQuestion, ExampleVisit, Window};
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

/// The columns, one for each number of a visit.
const COLUMNS: [&str; 13] = [
    "step",
    "epoch",
    "loss",
    "margin",
    "el2n",
    "confidence",
    "correct",
    "label",
    "prediction",
    "squared_norm",
    "norm_estimated",
    "learning_rate",
    "coefficient",
];

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
            content: Content::Sheet(Sheet {
                head,
                columns: COLUMNS.to_vec(),
                rows: Box::new(history.visits.into_iter().map(visit_values)),
            }),
            damage: history.damage.into_iter().collect(),
            ..Shown::default()
        })
    }
}

fn visit_values(visit: ExampleVisit) -> Vec<Value> {
    vec![
        visit.step.into(),
        visit.epoch.into(),
        number_value(visit.loss),
        number_value(visit.margin),
        number_value(visit.el2n),
        number_value(visit.confidence),
        number_value(visit.correct),
        visit.label.into(),
        visit.prediction.into(),
        square_value(visit.squared_norm),
        visit.squared_norm.map(|_| visit.is_norm_estimated).into(),
        number_value(visit.learning_rate),
        number_value(visit.coefficient),
    ]
}

/// A square, which may be smaller than an f32 holds.
fn square_value(square: Option<f64>) -> Value {
    match square {
        Some(small) if small != 0.0 && small < f64::from(f32::MIN_POSITIVE) => Some(small).into(),
        other => number_value(other.map(|square| square as f32)),
    }
}

/// A recorded number with as many digits as an f32 needs: 0.1, and not 0.10000000149011612.
fn number_value(number: Option<f32>) -> Value {
    number.map(|number| number.to_string().parse().unwrap_or(f64::from(number))).into()
}
