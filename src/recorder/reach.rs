//! Which declared variables no gradient reaches, and why, in words.
//!
//! A variable that the optimizer has and the loss does not reach stays as it is. Nothing else says so: candle drops
//! the gradient without an error.

use super::error::RecordError;
use super::pass_core::PassCore;
use crate::taps::{Presence, Registered, Registry, BATCH_NORM};
use candle_core::backprop::GradStore;
use candle_core::{TensorId, Var};
use std::collections::HashSet;

/// Names that an error lists.
const NAMED: usize = 6;

/// What to do where an operation cuts the gradient off.
pub(super) const CUT: &str = "An operation without a backward, so that what lies before it does not train: in candle-nn 0.11 \
     `LayerNorm`, `RmsNorm`, `ops::softmax_last_dim` and the fused rotary embeddings (candle issues 2168, 3011, 3752). Use \
     those of `gradlog::nn`, which have a backward; or tap the norms, which gives them one, and use `ops::softmax` and the \
     `rope_slow` functions";

/// The declared variables that must get a gradient and have not had one yet.
#[derive(Debug, Default)]
pub(super) struct Reach {
    awaited: Vec<(String, TensorId, usize)>,
    /// Numbers of all variables that must get one.
    numbers: usize,
}

impl Reach {
    pub(super) fn new(registry: &Registry) -> Self {
        let is_optional = |layer: &&Registered| layer.presence == Presence::Optional && !layer.is_variable();
        let optional: HashSet<TensorId> = (registry.layers.iter().filter(is_optional))
            .flat_map(|layer| {
                layer.spec.parameters.iter().filter_map(|parameter| registry.variable_of(layer, parameter))
            })
            .collect();
        let variables = registry.trained_variables();
        let awaited: Vec<_> = (variables.into_iter())
            .filter(|(name, _, id)| !optional.contains(id) && !registry.declared.is_allowed(name))
            .map(|(name, shape, id)| (name.clone(), *id, shape.elem_count()))
            .collect();
        let numbers = awaited.iter().map(|(.., numbers)| numbers).sum();
        Self { awaited, numbers }
    }

    /// Takes out the variables that the optimizer lacks: they need no gradient.
    fn keep_trained(&mut self, trained: &HashSet<TensorId>) {
        self.awaited.retain(|(_, id, _)| trained.contains(id));
        self.numbers = self.awaited.iter().map(|(.., numbers)| numbers).sum();
    }

    /// Notes which variables a backward pass reached. Says what is wrong if there are some that none has reached yet.
    ///
    /// # Cost
    /// Nothing once every variable had a gradient, which is usually the first pass.
    pub(super) fn look(&mut self, is_reached: impl Fn(TensorId) -> bool) -> Option<String> {
        self.awaited.retain(|(_, id, _)| !is_reached(*id));
        let missing: usize = self.awaited.iter().map(|(.., numbers)| numbers).sum();
        if self.awaited.is_empty() {
            return None;
        }
        let names: Vec<&str> = self.awaited.iter().map(|(name, ..)| name.as_str()).collect();
        let percent = 100.0 * missing as f64 / self.numbers.max(1) as f64;
        let share = if missing == self.numbers { "all".to_owned() } else { format!("{percent:.1} %") };
        let begin = format!(
            "no gradient came back to {}, which the model declares: {share} of the parameters that train. ",
            list_names(&names)
        );
        let unused = format!(
            "A part that the loss does not use, or whose output is detached (a pooler, a second head, a frozen body): if \
             that is meant, call `taps.allow_no_gradient(\"{}\")`, or `taps.trained(&variables)` with the variables that the \
             optimizer has",
            path_of(names[0])
        );
        let foreign = "The declared `VarMap` is that of another model: declare the one that this model was built from";
        let causes: [&str; 3] = if missing == self.numbers {
            [foreign, CUT, &unused]
        } else if 2 * missing >= self.numbers {
            [CUT, &unused, foreign]
        } else {
            [&unused, CUT, foreign]
        };
        Some(begin + &list_causes(&causes))
    }
}

/// The causes, the likeliest first.
pub(super) fn list_causes(causes: &[&str]) -> String {
    let all = causes.iter().enumerate().map(|(number, cause)| format!("({}) {cause}", number + 1));
    format!("Causes, the likeliest first. {}", all.collect::<Vec<_>>().join(". "))
}

/// The part of the model that a variable belongs to.
fn path_of(variable: &str) -> &str {
    variable.rsplit_once('.').map_or(variable, |(path, _)| path)
}

pub(super) fn list_names(names: &[&str]) -> String {
    let named: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

impl PassCore<'_> {
    /// Learns in the first step from an optimizer that shows its variables which of them are trained.
    pub(super) fn look_at_optimizer(&mut self, variables: impl FnOnce() -> Option<Vec<Var>>) {
        let Some(state) = &mut self.recorder.state else { return };
        if std::mem::replace(&mut state.optimizer_asked, true) {
            return;
        }
        let Some(variables) = variables() else { return };
        let trained: HashSet<TensorId> = variables.iter().map(|variable| variable.id()).collect();
        state.reach.keep_trained(&trained);
        let part = state.layers.iter().find_map(|layer| {
            let parameters = layer.spec.parameters.iter().filter(|parameter| parameter.id.is_some());
            let (has, lacks): (Vec<_>, Vec<_>) =
                parameters.partition(|parameter| parameter.id.is_some_and(|id| trained.contains(&id)));
            Some((&layer.name, &has.first()?.name, &lacks.first()?.name))
        });
        self.partly_trained = part.map(|(layer, has, lacks)| {
            format!(
                "the optimizer has the {has} of layer `{layer}` and not its {lacks}, so its whole gradient is not what is trained: \
                 build the layer with the {lacks} detached (`Linear::new(weight, Some(bias.detach()))`), which records the {has} \
                 alone, or give the optimizer both"
            )
        });
        // It is looked at again in the next step, until it is right.
        state.optimizer_asked = self.partly_trained.is_none();
    }

    /// Looks at the gradients of a whole backward pass: which variables and layers they reached.
    pub(super) fn look_at_reach(&mut self, grads: &GradStore) {
        if !self.is_recorded() {
            return;
        }
        let layers = self.recorder.layers();
        let is_used = |layer: &Registered| layer.slot.count_uses(self.number).0 > 0;
        let ids = |layer: &Registered| layer.spec.parameters.iter().filter_map(|p| p.id).collect::<Vec<_>>();
        let mut around = Vec::new();
        for layer in layers.iter().filter(|layer| layer.layer.is_some() && layer.spec.kind != BATCH_NORM) {
            if is_used(layer) || !ids(layer).into_iter().any(|id| grads.get_id(id).is_some()) {
                continue;
            }
            // Another tapped layer may have brought the gradient to a shared weight.
            let own = ids(layer);
            let shared = |other: &Registered| is_used(other) && ids(other).iter().any(|id| own.contains(id));
            if !layers.iter().any(shared) {
                around.push(layer.name.clone());
            }
        }
        self.around_tap = around;
        self.unreached_variables = self.recorder.look_at_reach(|id| grads.get_id(id).is_some());
    }

    /// Refuses layers that ran without their taps, that are trained in part, or that do not make the logits.
    pub(super) fn check_taps_ran(&mut self) -> Result<(), RecordError> {
        if let Some(what) = self.partly_trained.take().or_else(|| self.unlike_head.take()) {
            return Err(self.error(what));
        }
        if !self.around_tap.is_empty() {
            let names: Vec<&str> = self.around_tap.iter().map(String::as_str).collect();
            return Err(self.error(format!(
                "{} trained in this pass although no recorded forward pass went through: the layer ran without its tap. Call the \
                 tapped layer itself, not `tapped.inner()` or another copy of the layer; and a forward whose result is part of the \
                 loss must not run under `taps.pause()`",
                list_names(&names)
            )));
        }
        Ok(())
    }

    /// Refuses declared variables that got no gradient.
    pub(super) fn check_variables_reached(&mut self) -> Result<(), RecordError> {
        match self.unreached_variables.take() {
            Some(what) => Err(self.error(what)),
            None => Ok(()),
        }
    }
}
