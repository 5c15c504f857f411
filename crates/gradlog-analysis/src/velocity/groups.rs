//! Which probes make a group.

use super::kernel::Kernel;
use super::VelocityGroups;
use crate::{AnalysisError, RunsTable};
use std::collections::HashMap;

/// The largest Gram matrix: two of it take 256 MB.
const ROWS_MAX: usize = 4096;

/// How many probes have another label than the training example of the same id. Some may: a probe can be recorded with
/// the true label of an example whose training label is wrong.
///
/// # Errors
/// [`AnalysisError::OtherExamples`] if more than half of them do. A set of other examples that happens to use the ids
/// of the training would be grouped by scores that are not its own.
pub(super) fn count_other_labels(kernel: &Kernel, set: &str, table: &RunsTable) -> Result<u64, AnalysisError> {
    let labels: HashMap<u64, u32> = table.rows.iter().filter_map(|row| Some((row.example, row.label?))).collect();
    let both =
        kernel.first().probes.values().filter_map(|probe| Some((probe.id, probe.label?, *labels.get(&probe.id)?)));
    let both: Vec<(u64, bool)> = both.map(|(id, own, other)| (id, own != other)).collect();
    let differ = both.iter().filter(|(_, differ)| *differ).count() as u64;
    match both.iter().find(|(_, differ)| *differ) {
        Some(&(id, _)) if 2 * differ > both.len() as u64 => {
            Err(AnalysisError::OtherExamples { set: set.into(), differ, compared: both.len() as u64, id })
        }
        _ => Ok(differ),
    }
}

/// A group whose examples are all in the set.
pub(super) struct Chosen {
    pub name: String,
    pub ids: Vec<u64>,
    pub mean_score: Option<f64>,
}

pub(super) fn choose_groups(
    kernel: &Kernel,
    set: &str,
    groups: VelocityGroups<'_>,
) -> Result<(Vec<Chosen>, u64), AnalysisError> {
    let refuse = |given: String, range| Err(AnalysisError::OutOfRange { what: "the size of a group", given, range });
    let mut left_out = 0;
    let chosen: Vec<Chosen> = match groups {
        VelocityGroups::Whole => {
            vec![Chosen { name: "all".into(), ids: kernel.ids().collect(), mean_score: None }]
        }
        VelocityGroups::Given(groups) => groups
            .iter()
            .map(|group| {
                let mut ids = group.ids.clone();
                ids.sort_unstable();
                ids.dedup();
                let asked = ids.len();
                ids.retain(|id| kernel.has(*id));
                left_out += (asked - ids.len()) as u64;
                Chosen { name: group.name.clone(), ids, mean_score: None }
            })
            .collect(),
        VelocityGroups::Ranked { size: 0, .. } => return refuse("0".into(), "at least 1".into()),
        VelocityGroups::Ranked { table, size } => {
            let mut scored: Vec<(u64, f64)> = table.hardest_first().map(|row| (row.example, row.score)).collect();
            scored.retain(|(id, _)| kernel.has(*id));
            let groups = scored.len() / size;
            left_out = (kernel.ids().count() - groups * size) as u64;
            if groups == 0 {
                let count = scored.len();
                let range = format!(
                    "at most {count}, as many as examples of `{set}` have a score by {}: record training examples as \
                     probes under their own ids, or give smaller groups",
                    table.score
                );
                return refuse(size.to_string(), range);
            }
            let group = |(number, part): (usize, &[(u64, f64)])| {
                let mut ids: Vec<u64> = part.iter().map(|(id, _)| *id).collect();
                ids.sort_unstable();
                let mean = part.iter().map(|(_, score)| score).sum::<f64>() / size as f64;
                Chosen {
                    name: format!("{} {} to {}", table.score, number * size, (number + 1) * size - 1),
                    ids,
                    mean_score: Some(mean).filter(|mean| mean.is_finite()),
                }
            };
            scored.chunks_exact(size).enumerate().map(group).collect()
        }
    };
    for group in &chosen {
        let (name, count) = (&group.name, group.ids.len());
        if count == 0 {
            let range = format!("at least 1: none of its examples has a usable record in probe set `{set}`");
            return refuse(format!("0 (group `{name}`)"), range);
        }
        let most = ROWS_MAX / kernel.rows_an_example().max(1);
        if count > most {
            let each = match kernel.rows_an_example() {
                1 => String::new(),
                logits => {
                    format!(", of {logits} logits each: choose fewer classes when you record them, or smaller groups")
                }
            };
            return refuse(format!("{count} (group `{name}`)"), format!("at most {most}{each}"));
        }
    }
    Ok((chosen, left_out))
}
