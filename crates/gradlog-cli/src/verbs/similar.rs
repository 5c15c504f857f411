//! `gradlog similar`: which examples teach the model the same thing as this one, and which are almost the same?

use super::export::vector_words;
use super::mean_vectors::MeanVectorArguments;
use crate::arguments::{parse_cosine, EXIT_CODES};
use crate::error::CliError;
use crate::frame::{first_damage, Asked, Content, Sheet, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::Value;
use clap::Args;
use gradlog_analysis::{AnalysisError, FlatVectors, UnitVectors, Window};
use gradlog_arrow::AnswerTable;
use std::path::PathBuf;

/// Find examples whose gradients point the same way
///
/// With --example the nearest to that one: rows `example,cosine` and, where they were recorded, `label`. With
/// --duplicates all pairs with at least this cosine, the most alike first: rows `first,second,cosine`. The gradient of
/// an example is the mean over its visits. The cosine is 1 for gradients of one direction; where gradients are folded
/// to N numbers it is off by about one in the square root of N.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: MeanVectorArguments,
    /// Id of the example
    #[arg(long, value_name = "ID", required_unless_present = "duplicates", conflicts_with = "duplicates")]
    example: Option<u64>,
    /// Pairs of examples with at least this cosine
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true, value_parser = parse_cosine)]
    duplicates: Option<f32>,
    /// How many neighbors or pairs, at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    top: u64,
}

impl Verb for Arguments {
    type Answer<'run> = FlatVectors;

    fn runs(&self) -> &[PathBuf] {
        self.of.runs()
    }

    fn window(&self) -> Window {
        self.of.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.of.output.destination()
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<FlatVectors, CliError> {
        self.of.ask(asked)
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, found: FlatVectors) -> Result<Shown<'run>, CliError> {
        let (mut words, left_out) = (vec![vector_words(&found)], Notes::from(&found));
        let (variant, damage, basis) = (found.variant(), found.damage.clone(), found.basis.to_string());
        let unit = UnitVectors::new(found);
        let left_out = left_out.add_directionless(&unit.without_direction);
        let head = vec![
            ("variant", Value::from(variant)),
            ("examples", (unit.len() as u64).into()),
            ("without_direction", (unit.without_direction.len() as u64).into()),
            ("damage", first_damage(&damage)),
        ];
        let if_empty = Some(match self.duplicates {
            _ if unit.len() < 2 => "there are no two examples with a gradient; record more of them".to_owned(),
            Some(cosine) => format!("no two examples have a cosine of at least {cosine}; ask for a lower one"),
            None => "no other example has a gradient; record more of them".to_owned(),
        });
        let sheet = match self.example {
            Some(example) => self.neighbors_sheet(&unit, example, head)?,
            None => self.pairs_sheet(&unit, head, &mut words),
        };
        Ok(Shown {
            words,
            basis: Some(basis),
            if_empty,
            left_out: vec![(String::new(), left_out)],
            content: Content::Sheet(sheet),
            damage: damage.into_iter().collect(),
            ..Shown::default()
        })
    }
}

type Head = Vec<(&'static str, Value)>;

impl Arguments {
    fn count(&self) -> usize {
        self.top as usize // at most 2^24
    }

    fn neighbors_sheet<'a>(&self, unit: &UnitVectors, example: u64, mut head: Head) -> Result<Sheet<'a>, CliError> {
        let position = unit.position(example).ok_or(AnalysisError::NoSuchExample { id: example })?;
        head.insert(0, ("example", example.into()));
        let neighbors = unit.neighbors(position, self.count());
        Ok(Sheet { head, table: AnswerTable::of_neighbors(unit, neighbors) })
    }

    fn pairs_sheet<'a>(&self, unit: &UnitVectors, mut head: Head, words: &mut Vec<String>) -> Sheet<'a> {
        let threshold = self.duplicates.unwrap_or(1.0);
        head.insert(0, ("threshold", f64::from(threshold).into()));
        let pairs = unit.near_duplicates(threshold, self.count());
        if pairs.len() == self.count() {
            words.push(format!("these are the {} most alike: there may be more, see them with --top N", self.top));
        }
        Sheet { head, table: AnswerTable::of_pairs(pairs) }
    }
}
