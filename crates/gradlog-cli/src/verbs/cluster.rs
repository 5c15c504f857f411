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
use gradlog_analysis::{Clusters, FlatVectors, UnitVectors, Window};
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
        let sheet = match self.of.output.format() {
            Format::Table => cluster_sheet(head, &found),
            _ => example_sheet(head, unit, found),
        };
        Ok(Shown {
            words,
            basis: Some(basis),
            left_out: vec![(String::new(), left_out)],
            content: Content::Sheet(sheet),
            damage: damage.into_iter().collect(),
            ..Shown::default()
        })
    }
}

type Head = Vec<(&'static str, Value)>;

/// A row for each cluster.
fn cluster_sheet<'a>(head: Head, found: &Clusters) -> Sheet<'a> {
    let columns = vec!["cluster", "size", "cohesion", "label", "share", "example"];
    let mut rows = Vec::new();
    for (number, cluster) in found.clusters.iter().enumerate() {
        let share = cluster.label.map(|(_, count)| count as f64 / cluster.size as f64);
        rows.push(vec![
            Value::from(number as u64),
            (cluster.size as u64).into(),
            cluster.cohesion.into(),
            cluster.label.map(|(label, _)| label).into(),
            share.into(),
            cluster.example.into(),
        ]);
    }
    Sheet { head, columns, rows: Box::new(rows.into_iter()) }
}

/// A row for each example.
fn example_sheet<'a>(head: Head, unit: UnitVectors, found: Clusters) -> Sheet<'a> {
    let count = unit.len();
    let labels = unit.labels.iter().any(Option::is_some);
    let mut columns = vec!["example", "cluster", "cosine"];
    columns.extend(labels.then_some("label"));
    let values = move |position: usize| {
        let (cluster, cosine) = (found.assignments[position] as u64, f64::from(found.cosines[position]));
        let mut values = vec![Value::from(unit.examples[position]), cluster.into(), cosine.into()];
        values.extend(labels.then(|| unit.labels[position].into()));
        values
    };
    Sheet { head, columns, rows: Box::new((0..count).map(values)) }
}
