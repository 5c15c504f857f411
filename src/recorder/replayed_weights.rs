//! Checks what a replay loads: the variables are those of the tapped model, all of them, and so are the tensors of the
//! checkpoint.

use crate::taps::Registry;
use candle_core::{Tensor, TensorId, Var};
use std::collections::{HashMap, HashSet};

/// Names that an error lists.
const NAMED: usize = 6;

/// What keeps the variables `named` from being those of the tapped model. `None` if nothing does.
///
/// A parameter is known by its tensor. A layer that hides its tensors (`GroupNorm`) is covered if the model was
/// declared.
pub(super) fn find_foreign_variables(registry: &Registry, named: &[(String, Var)]) -> Option<String> {
    let given: HashSet<TensorId> = named.iter().map(|(_, variable)| variable.id()).collect();
    let mut lacking = Vec::new();
    let mut seen = HashSet::new();
    let mut own = HashSet::new();
    for layer in &registry.layers {
        for parameter in &layer.spec.parameters {
            let Some(id) = parameter.id else { continue };
            own.insert(id);
            // The optimizer never changes a frozen layer, so its weights are those that the model has.
            if !given.contains(&id) && !layer.frozen && seen.insert(id) {
                lacking.push(match layer.is_variable() {
                    true => layer.name.clone(),
                    false => format!("{}.{}", layer.name, parameter.name),
                });
            }
        }
    }
    for (name, _, id) in registry.model.iter().flatten() {
        own.insert(*id);
        if !given.contains(id) && registry.declared.is_trained(*id) && seen.insert(*id) {
            lacking.push(name.clone());
        }
    }
    if lacking.is_empty() {
        return None;
    }
    let others = given.iter().filter(|id| !own.contains(id)).count();
    let held = match (named.len(), others) {
        (0, _) => "holds no variables".to_owned(),
        (all, others) if others == all => format!("holds {all} variables, and none is the tapped model's"),
        (all, _) => format!("holds {all} variables"),
    };
    Some(format!(
        "the map {held}; it lacks {} of the tapped model: give the `VarMap` that the tapped layers were built from",
        list_names(&lacking)
    ))
}

/// Tensors of a checkpoint that no variable takes and nobody called something else than a weight.
pub(super) fn find_unused_tensors(
    tensors: &HashMap<String, Tensor>,
    named: &[(String, Var)],
    ignored: &[String],
) -> Option<String> {
    let taken: HashSet<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    let is_ignored = |name: &str| ignored.iter().any(|prefix| name.starts_with(prefix.as_str()));
    let mut unused: Vec<String> =
        tensors.keys().filter(|name| !taken.contains(name.as_str()) && !is_ignored(name)).cloned().collect();
    unused.sort();
    (!unused.is_empty()).then(|| {
        format!(
            "it also holds {}, which no variable takes: give all variables of the model, or call `Replay::ignore_tensors` for \
             tensors that are no weights",
            list_names(&unused)
        )
    })
}

fn list_names(names: &[String]) -> String {
    let named: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
