//! Tables of what gradients say: neighbors, near-duplicates, clusters, velocity.

use super::{AnswerTable, Value};
use gradlog_analysis::{Clusters, GroupVelocity, Neighbor, Pair, UnitVectors};

impl AnswerTable<'_> {
    /// Neighbors of an example: `example`, `cosine`, and `label` where it was recorded.
    pub fn of_neighbors(unit: &UnitVectors, neighbors: Vec<Neighbor>) -> Self {
        let labels = unit.labels.iter().any(Option::is_some);
        let mut columns = vec!["example", "cosine"];
        columns.extend(labels.then_some("label"));
        let values = |found: Neighbor| {
            let mut values = vec![Value::from(found.example), f64::from(found.cosine).into()];
            values.extend(labels.then(|| unit.labels[found.position].into()));
            values
        };
        Self::new(columns, neighbors.into_iter().map(values).collect::<Vec<_>>())
    }

    /// Near-duplicates: `first`, `second`, `cosine`.
    pub fn of_pairs(pairs: Vec<Pair>) -> Self {
        let values = |pair: Pair| vec![Value::from(pair.first), pair.second.into(), f64::from(pair.cosine).into()];
        Self::new(vec!["first", "second", "cosine"], pairs.into_iter().map(values))
    }

    /// Clusters: `cluster`, `size`, `cohesion`, `label` (the most frequent), `share` (of that label) and `example` (the
    /// most central).
    pub fn of_clusters(found: &Clusters) -> Self {
        let columns = vec!["cluster", "size", "cohesion", "label", "share", "example"];
        let values = |(number, cluster): (usize, &gradlog_analysis::Cluster)| {
            let share = cluster.label.map(|(_, count)| count as f64 / cluster.size as f64);
            vec![
                Value::from(number as u64),
                (cluster.size as u64).into(),
                cluster.cohesion.into(),
                cluster.label.map(|(label, _)| label).into(),
                share.into(),
                cluster.example.into(),
            ]
        };
        Self::new(columns, found.clusters.iter().enumerate().map(values).collect::<Vec<_>>())
    }

    /// Examples and their clusters: `example`, `cluster`, `cosine` to its direction, and `label` where it was recorded.
    pub fn of_cluster_members(unit: UnitVectors, found: Clusters) -> Self {
        let labels = unit.labels.iter().any(Option::is_some);
        let mut columns = vec!["example", "cluster", "cosine"];
        columns.extend(labels.then_some("label"));
        let count = found.assignments.len();
        let values = move |position: usize| {
            let (cluster, cosine) = (found.assignments[position] as u64, f64::from(found.cosines[position]));
            let mut values = vec![Value::from(unit.examples[position]), cluster.into(), cosine.into()];
            values.extend(labels.then(|| unit.labels[position].into()));
            values
        };
        Self::new(columns, (0..count).map(values))
    }

    /// Kernel velocity of groups: `group`, `from_step`, `to_step`, `examples`, `velocity`, and `mean_score` of groups
    /// by a score.
    pub fn of_velocity(groups: &[GroupVelocity]) -> Self {
        let scores = groups.iter().any(|group| group.mean_score.is_some());
        let mut columns = vec!["group", "from_step", "to_step", "examples", "velocity"];
        columns.extend(scores.then_some("mean_score"));
        let rows = groups.iter().flat_map(|group| {
            group.steps.iter().map(move |step| {
                let mut values: Vec<Value> = vec![group.name.as_str().into(), step.from.into(), step.to.into()];
                values.extend([Value::from(step.examples), step.velocity.into()]);
                values.extend(scores.then(|| group.mean_score.into()));
                values
            })
        });
        Self::new(columns, rows.collect::<Vec<_>>())
    }
}
