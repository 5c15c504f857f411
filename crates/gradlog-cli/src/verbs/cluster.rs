//! `gradlog cluster`: which kinds of example are there, as the gradients see them?

use super::export::vector_words;
use super::mean_vectors::MeanVectorArguments;
use crate::arguments::EXIT_CODES;
use crate::error::CliError;
use crate::frame::{first_damage, Asked, Content, Sheet, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::{count, Format, Value};
use clap::Args;
use gradlog_analysis::{FlatVectors, UnitVectors, Window};
use gradlog_arrow::AnswerTable;
use std::path::PathBuf;

/// Rounds of k-means that are allowed.
const ROUNDS: usize = 100;

/// Gather examples into clusters of gradients that point the same way
///
/// A table has one row for each cluster: its number, size, cohesion (mean cosine with its center), commonest label,
/// the share that has it, and the example nearest to the center. CSV and JSON have one row for each example:
/// `example,cluster,cosine` and, where they were recorded, `label`. The gradient of an example is the mean over its
/// visits. Two clusters of one label are two kinds within a class. A cluster of mixed labels may hold wrong ones.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: MeanVectorArguments,
    /// How many clusters
    #[arg(long, value_name = "K", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    clusters: u64,
    /// Where the draws begin; the same seed gives the same clusters
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
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
        let found = unit.clusters(self.clusters as usize, ROUNDS, self.seed); // at most 2^16
        words.push(format!(
            "{} of {} examples after {} rounds{}",
            count(found.clusters.len(), "cluster"),
            unit.len(),
            found.rounds,
            if found.settled { "" } else { ", when some examples still moved" }
        ));
        let left_out = left_out.add_directionless(&unit.without_direction);
        let head = vec![
            ("variant", Value::from(variant)),
            ("examples", (unit.len() as u64).into()),
            ("clusters", (found.clusters.len() as u64).into()),
            ("rounds", (found.rounds as u64).into()),
            ("settled", found.settled.into()),
            ("without_direction", (unit.without_direction.len() as u64).into()),
            ("damage", first_damage(&damage)),
        ];
        let table = match self.of.output.format() {
            Format::Table => AnswerTable::of_clusters(&found),
            _ => AnswerTable::of_cluster_members(unit, found),
        };
        Ok(Shown {
            words,
            basis: Some(basis),
            left_out: vec![(String::new(), left_out)],
            content: Content::Sheet(Sheet { head, table }),
            damage: damage.into_iter().collect(),
            ..Shown::default()
        })
    }
}
