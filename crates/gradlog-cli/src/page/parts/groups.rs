//! Examples whose gradients point the same way: clusters, near-duplicates, neighbors.

use super::{is_about_the_run, reason};
use crate::error::CliError;
use crate::frame::Asked;
use crate::page::chosen::Chosen;
use crate::page::limits::{
    CLUSTERS, CLUSTER_MEMBERS, CLUSTER_ROUNDS, DUPLICATES_COSINE, DUPLICATES_EXAMPLES_MAX, DUPLICATES_MAX, NEIGHBORS,
    NEIGHBORS_OF_MAX, VECTORS_MAX, VECTOR_LENGTH,
};
use gradlog_analysis::{Clusters, Neighbor, UnitVectors, VectorQuestion};
use serde_json::{json, Map, Value};

/// The groups of the first run.
pub(crate) struct Groups {
    pub part: Value,
}

/// Where the draws of the clusters begin.
const SEED: u64 = 0;

/// Compares the gradients of up to [`VECTORS_MAX`] examples; names the examples of the groups.
pub(crate) fn groups_part(asked: &Asked<'_>, chosen: &mut Chosen, examples: u64) -> Result<Groups, CliError> {
    if let Some(words) = too_many_to_compare(examples) {
        return Ok(Groups { part: reason(&words) });
    }
    let compared = match Compared::read(asked) {
        Err(CliError::Analysis(error)) if is_about_the_run(&error) => {
            return Ok(Groups { part: reason(&error.to_string()) })
        }
        other => other?,
    };
    let neighbors = neighbors(&compared.unit, chosen);
    let mut part = compared.groups(chosen);
    part["neighbors"] = neighbors;
    Ok(Groups { part })
}

/// Why the gradients of so many examples are not compared, if they are not.
pub(crate) fn too_many_to_compare(examples: u64) -> Option<String> {
    (examples > VECTORS_MAX).then(|| {
        format!(
            "the run has {examples} examples, and a page compares the gradients of up to {VECTORS_MAX}: ask \
             `gradlog cluster` and `gradlog similar`"
        )
    })
}

/// The gradients of the examples, ready to be compared.
pub(crate) struct Compared {
    unit: UnitVectors,
    variant: String,
}

impl Compared {
    /// Reads the mean gradient of each example of the first run.
    ///
    /// # Errors
    /// What the run cannot give.
    pub(crate) fn read(asked: &Asked<'_>) -> Result<Self, CliError> {
        let question = VectorQuestion::new(VECTOR_LENGTH).share_progress(&asked.progress());
        let vectors = question.compute(asked.run())?;
        let variant = vectors.variant();
        Ok(Self { unit: UnitVectors::new(vectors), variant })
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        4 * self.unit.values.len() + 16 * self.unit.len()
    }

    /// The examples whose gradients are nearest to that of an example: pairs of id and cosine.
    pub(crate) fn neighbors(&self, id: u64) -> Option<Value> {
        let position = self.unit.position(id)?;
        Some(self.unit.neighbors(position, NEIGHBORS).iter().map(neighbor_row).collect())
    }

    /// Clusters and near-duplicates; names their examples.
    pub(crate) fn groups(&self, chosen: &mut Chosen) -> Value {
        groups_of(&self.unit, chosen, &self.variant)
    }
}

fn groups_of(unit: &UnitVectors, chosen: &mut Chosen, variant: &str) -> Value {
    let found = unit.clusters(CLUSTERS, CLUSTER_ROUNDS, SEED);
    let clusters: Vec<Value> = (0..found.clusters.len()).map(|number| cluster(unit, &found, number, chosen)).collect();
    let duplicates = if unit.len() > DUPLICATES_EXAMPLES_MAX {
        let words = format!(
            "near-duplicates are sought among up to {DUPLICATES_EXAMPLES_MAX} examples: ask `gradlog similar \
             --duplicates {DUPLICATES_COSINE}`"
        );
        reason(&words)
    } else {
        let pairs = unit.near_duplicates(DUPLICATES_COSINE, DUPLICATES_MAX);
        chosen.name(pairs.iter().flat_map(|pair| [pair.first, pair.second]));
        let rows: Vec<Value> =
            pairs.iter().map(|pair| json!([pair.first.to_string(), pair.second.to_string(), pair.cosine])).collect();
        json!({ "cosine": DUPLICATES_COSINE, "most": DUPLICATES_MAX, "pairs": rows })
    };
    json!({
        "variant": variant,
        "basis": unit.basis.to_string(),
        "examples": unit.len(),
        "without_direction": unit.without_direction.len(),
        "settled": found.settled,
        "clusters": clusters,
        "duplicates": duplicates,
    })
}

/// The examples whose gradients are nearest to those of the first ones named: the suspects.
fn neighbors(unit: &UnitVectors, chosen: &mut Chosen) -> Value {
    let asked: Vec<u64> = chosen.ids().iter().copied().take(NEIGHBORS_OF_MAX).collect();
    let mut lists = Map::new();
    for id in asked {
        let Some(position) = unit.position(id) else { continue };
        let found = unit.neighbors(position, NEIGHBORS);
        chosen.name(found.iter().map(|neighbor| neighbor.example));
        lists.insert(id.to_string(), found.iter().map(neighbor_row).collect());
    }
    lists.into()
}

fn neighbor_row(neighbor: &Neighbor) -> Value {
    json!([neighbor.example.to_string(), neighbor.cosine])
}

/// A cluster: its members nearest to the center, and those of another label than most.
fn cluster(unit: &UnitVectors, found: &Clusters, number: usize, chosen: &mut Chosen) -> Value {
    let cluster = &found.clusters[number];
    let mut members: Vec<usize> = (0..unit.len()).filter(|at| found.assignments[*at] == number).collect();
    members.sort_by(|a, b| found.cosines[*b].total_cmp(&found.cosines[*a]).then(a.cmp(b)));
    let ids = |positions: &[usize]| -> Vec<u64> {
        positions.iter().take(CLUSTER_MEMBERS).map(|position| unit.examples[*position]).collect()
    };
    let nearest = ids(&members);
    let label = cluster.label.map(|(label, _)| label);
    members.retain(|at| unit.labels[*at].is_some() && unit.labels[*at] != label);
    let odd = ids(&members);
    chosen.name(nearest.iter().chain(&odd).copied());
    let texts = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>();
    json!({
        "size": cluster.size,
        "cohesion": cluster.cohesion,
        "label": label,
        "of_label": cluster.label.map(|(_, count)| count),
        "nearest": texts(&nearest),
        "odd": texts(&odd),
        "odd_count": members.len(),
    })
}
