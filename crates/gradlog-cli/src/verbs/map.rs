//! `gradlog map`: which examples are easy, ambiguous, hard to learn?

use crate::arguments::{parse_share, ListArguments, EXIT_CODES};
use crate::error::CliError;
use crate::frame::{first_damage, Asked, Content, Sheet, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::{count, scatter, Value};
use clap::Args;
use gradlog_analysis::{Basis, DataMap, MapQuestion, Window};
use gradlog_arrow::AnswerTable;
use std::path::PathBuf;

/// Draw the map of the training set by confidence and variability (Swayamdipta et al. 2020)
///
/// The most confident share of the examples is easy to learn, the least confident hard to learn, the most variable
/// ambiguous. An example may be in two regions. Rows are
/// `example,runs,visits,confidence,variability,correctness,easy,ambiguous,hard` and, where it was recorded, `label`,
/// the least confident first. Over several runs the numbers are means.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    list: ListArguments,
    /// Share of the examples that each region takes
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = MapQuestion::SHARE, value_parser = parse_share)]
    share: f64,
}

impl Verb for Arguments {
    type Answer<'run> = DataMap;

    fn runs(&self) -> &[PathBuf] {
        self.list.runs()
    }

    fn window(&self) -> Window {
        self.list.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.list.destination()
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<DataMap, CliError> {
        asked.read("reading", 2, |progress| {
            let question = MapQuestion::new().share(self.share).window(asked.window.clone());
            question.share_progress(progress).compute_over(&asked.runs)
        })
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, map: DataMap) -> Result<Shown<'run>, CliError> {
        let ([easy, ambiguous, hard], examples) = (map.counts(), map.rows.len());
        let basis = Basis::describe_all(&map.bases);
        let mut words = vec![format!(
            "{examples} examples over {} visits in {}: {easy} easy, {ambiguous} ambiguous, {hard} hard to learn; \
             lowest confidence first",
            map.visits,
            count(map.runs as usize, "run")
        )];
        if map.bases.iter().any(Basis::is_sweeps) {
            words.push("\"visits\" are rows of sweeps".into());
        }
        let head = vec![
            ("map", Value::from("confidence, variability")),
            ("share", map.share.into()),
            ("runs", map.runs.into()),
            ("visits", map.visits.into()),
            ("examples", (examples as u64).into()),
            ("unscored", map.left_out.examples.into()),
            ("easy", easy.into()),
            ("ambiguous", ambiguous.into()),
            ("hard", hard.into()),
            ("damage", first_damage(&map.damage)),
        ];
        let after = match asked.draws(&self.destination()) {
            true => scatter(
                map.rows.iter().map(|row| (row.variability, row.confidence)),
                0.5,
                ("variability", "confidence"),
            ),
            false => Vec::new(),
        };
        Ok(Shown {
            after,
            words,
            basis: Some(basis),
            left_out: vec![(String::new(), Notes::from(&map))],
            content: Content::Sheet(Sheet { head, table: AnswerTable::of_data_map(map.rows) }),
            damage: map.damage.into_iter().collect(),
            ..Shown::default()
        })
    }
}
