//! Examples whose gradients point the same way: clusters, near-duplicates, neighbors.

use super::{is_about_the_run, reason};
use crate::error::CliError;
use crate::frame::Asked;
use crate::page::chosen::Chosen;
use crate::page::limits::{
    CLUSTERS, CLUSTER_MEMBERS, CLUSTER_ROUNDS, DUPLICATES_COSINE, DUPLICATES_EXAMPLES_MAX, DUPLICATES_MAX, NEIGHBORS,
    NEIGHBORS_OF_MAX, VECTORS_MAX, VECTOR_LENGTH,
};
use gradlog_analysis::{Clusters, UnitVectors, VectorQuestion};
use serde_json::{json, Map, Value};

/// The groups of the first run.
pub(crate) struct Groups {
    pub part: Value,
}

/// Where the draws of the clusters begin.
const SEED: u64 = 0;

/// Compares the gradients of up to [`VECTORS_MAX`] examples; names the examples of the groups.
pub(crate) fn groups_part(asked: &Asked<'_>, chosen: &mut Chosen, examples: u64) -> Result<Groups, CliError> {
    if examples > VECTORS_MAX {
        let words = format!(
            "the run has {examples} examples, and a page compares the gradients of up to {VECTORS_MAX}: ask \
             `gradlog cluster` and `gradlog similar`"
        );
        return Ok(Groups { part: reason(&words) });
    }
    let question = VectorQuestion::new(VECTOR_LENGTH).share_progress(&asked.progress());
    let vectors = match question.compute(asked.run()) {
        Err(error) if is_about_the_run(&error) => return Ok(Groups { part: reason(&error.to_string()) }),
        other => other?,
    };
    let (variant, basis) = (vectors.variant(), vectors.basis.to_string());
    let unit = UnitVectors::new(vectors);
    let neighbors = neighbors(&unit, chosen);
    let found = unit.clusters(CLUSTERS, CLUSTER_ROUNDS, SEED);
    let clusters: Vec<Value> = (0..found.clusters.len()).map(|number| cluster(&unit, &found, number, chosen)).collect();
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
    let part = json!({
        "variant": variant,
        "basis": basis,
        "examples": unit.len(),
        "without_direction": unit.without_direction.len(),
        "settled": found.settled,
        "clusters": clusters,
        "duplicates": duplicates,
        "neighbors": neighbors,
    });
    Ok(Groups { part })
}

/// The examples whose gradients are nearest to those of the first ones named: the suspects.
fn neighbors(unit: &UnitVectors, chosen: &mut Chosen) -> Value {
    let asked: Vec<u64> = chosen.ids().iter().copied().take(NEIGHBORS_OF_MAX).collect();
    let mut lists = Map::new();
    for id in asked {
        let Some(position) = unit.position(id) else { continue };
        let found = unit.neighbors(position, NEIGHBORS);
        chosen.name(found.iter().map(|neighbor| neighbor.example));
        let list: Vec<Value> =
            found.iter().map(|neighbor| json!([neighbor.example.to_string(), neighbor.cosine])).collect();
        lists.insert(id.to_string(), list.into());
    }
    lists.into()
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
