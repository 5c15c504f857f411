//! What the user says of the model's variables: which there are, which the optimizer has, and which may stay without a
//! gradient.

use super::names::{is_statistic, matching_variables};
use super::registry::{Recording, Registered, Registry};
use super::slot::Slot;
use super::spec::{LayerSpec, Parameter};
use candle_core::{Shape, TensorId, Var};
use candle_nn::VarMap;
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

/// What was declared.
#[derive(Default)]
pub(crate) struct Declared {
    /// The model's variables. A map is a handle, so that variables made after the declaration are seen at `create`.
    maps: Vec<VarMap>,
    /// Whether each variable is a layer.
    as_layers: bool,
    /// The variables that the optimizer has. `None` if that was not said.
    trained: Option<HashSet<TensorId>>,
    /// Beginnings of names of variables that may stay without a gradient.
    allowed: Vec<String>,
}

impl Declared {
    pub(super) fn add_map(&mut self, variables: &VarMap, as_layers: bool) {
        // Clones of a map share its data.
        if !self.maps.iter().any(|map| std::ptr::eq(map.data(), variables.data())) {
            self.maps.push(variables.clone());
        }
        self.as_layers |= as_layers;
    }

    pub(super) fn add_trained(&mut self, variables: &[Var]) {
        self.trained.get_or_insert_default().extend(variables.iter().map(|variable| variable.id()));
    }

    pub(super) fn allow(&mut self, name: String) {
        self.allowed.push(name);
    }

    /// Whether the variable may stay without a gradient.
    pub(crate) fn is_allowed(&self, name: &str) -> bool {
        let begins = |allowed: &String| {
            name.strip_prefix(allowed.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.allowed.iter().any(begins)
    }

    /// Whether the optimizer has the variable, as far as it was said.
    pub(crate) fn is_trained(&self, id: TensorId) -> bool {
        self.trained.as_ref().is_none_or(|trained| trained.contains(&id))
    }

    /// All variables by name, without those that occur twice.
    fn named(&self) -> Vec<(String, Var)> {
        let mut seen = HashSet::new();
        let all = self.maps.iter().flat_map(named_variables);
        all.filter(|(_, variable)| seen.insert(variable.id())).collect()
    }
}

impl Registry {
    /// Reads the declared variables as they are now.
    pub(super) fn read_maps(&mut self) {
        if self.declared.maps.is_empty() {
            return;
        }
        let named = self.declared.named();
        self.declare(&named);
        let batch_norms = self.batch_norms();
        let (statistics, variables): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|(name, _)| is_statistic(name, &batch_norms));
        self.statistics = statistics;
        let ids = |variables: &[(String, Var)]| variables.iter().map(|(_, v)| v.id()).collect::<Vec<_>>();
        if !self.declared.as_layers || ids(&variables) == ids(&self.variables) {
            return;
        }
        // Nobody holds the slot of a variable, so its layer can be made anew.
        self.layers.retain(|layer| !layer.is_variable());
        self.variables.clear();
        // Statistics are not trained, so they are no parameters.
        for (name, variable) in variables {
            let spec = LayerSpec::new("variable", vec![Parameter::new("value", variable.as_tensor())]);
            self.add(name.clone(), spec, Arc::new(Slot::default()), None, Recording::OPTIONAL);
            self.variables.push((name, variable));
        }
    }

    /// Name, weight and bias of the declared last layer, if the declared model has them by name and shape. A bias that
    /// the layer was declared with and the model has not is a problem of [`Self::prepare`].
    pub(crate) fn head(&self) -> Option<(String, Var, Option<Var>)> {
        let layer = self.layers.iter().find(|layer| layer.is_last_layer())?;
        let named = self.declared.named();
        let weight = find_variable(layer, layer.spec.parameters.first()?, &named)?;
        let bias = match layer.spec.parameters.get(1) {
            Some(bias) => Some(find_variable(layer, bias, &named)?),
            None => None,
        };
        Some((layer.name.clone(), weight, bias))
    }

    /// What is wrong if the last layer was declared with a bias and the model shows that it has none.
    fn find_missing_bias(&self) -> Option<String> {
        let layer = self.layers.iter().find(|layer| layer.is_last_layer())?;
        let (weight, bias) = (layer.spec.parameters.first()?, layer.spec.parameters.get(1)?);
        let named = self.declared.named();
        find_variable(layer, weight, &named)?;
        let variables = named.iter().map(|(name, variable)| (name.as_str(), variable.shape(), variable.id()));
        matching_variables(&layer.name, bias, variables).is_empty().then(|| {
            format!(
                "the last layer `{0}` was declared with a bias, and the declared model has `{0}.weight` and no `{0}.bias` of {1} \
                 numbers: declare it with `LastLayer::without_bias`",
                layer.name,
                bias.shape.elem_count()
            )
        })
    }

    /// Makes the registry ready for a recorder: reads what was declared, and finds layers that are not trained. Returns
    /// what is wrong.
    pub(crate) fn prepare(&mut self) -> Vec<String> {
        self.read_maps();
        self.name_by_variables();
        let mut problems = self.problems.clone();
        problems.extend(self.find_empty_collection());
        problems.extend(self.find_wrong_map());
        problems.extend(self.find_missing_bias());
        problems.extend(self.mark_frozen());
        problems
    }

    /// What is wrong if `Taps::collect` found no layer and nothing else is recorded.
    fn find_empty_collection(&self) -> Option<String> {
        let is_empty = self.layers.is_empty() && self.built_batch_norms.is_empty() && self.problems.is_empty();
        (self.collected && is_empty).then(|| {
            "no layer was built inside `Taps::collect`, so no gradient would be recorded: build the model there, by the \
             types of `gradlog::nn`. For a model of bare tensors use `nn::learned_tensor`, `taps.tap` with a `Tap` of your \
             own, or `taps.declare_variables` with `pass.per_example`. `Taps::new()` records outputs alone"
                .into()
        })
    }

    /// What is wrong with the declared map, if it cannot be the model's.
    fn find_wrong_map(&self) -> Option<String> {
        let model = self.model.as_ref()?;
        if model.is_empty() {
            return Some(
                "the declared `VarMap` has no variables: give `declare_model` or `declare_variables` the map that the \
                 model's `VarBuilder` was made from (`VarBuilder::from_varmap`)"
                    .into(),
            );
        }
        let tapped = self.layers.iter().filter(|layer| !layer.is_variable());
        let mut ids = tapped.flat_map(|layer| &layer.spec.parameters).filter_map(|parameter| parameter.id).peekable();
        (ids.peek().is_some() && !ids.any(|id| model.iter().any(|(.., other)| *other == id))).then(|| {
            "the declared `VarMap` holds no parameter of a tapped layer: give `declare_model` the map that this model's \
             `VarBuilder` was made from"
                .into()
        })
    }

    /// Marks the layers of which the optimizer has no parameter. Returns those of which it has some.
    fn mark_frozen(&mut self) -> Vec<String> {
        if self.declared.trained.is_none() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        let frozen = self.layers.iter().map(|layer| {
            let parameters = layer.spec.parameters.iter();
            let (trained, others): (Vec<_>, Vec<_>) =
                parameters.partition(|parameter| self.parameter_is_trained(layer, parameter));
            if !trained.is_empty() && !others.is_empty() {
                problems.push(describe_partly_trained(layer, &trained, &others));
            }
            trained.is_empty()
        });
        let frozen: Vec<bool> = frozen.collect();
        for (layer, frozen) in self.layers.iter_mut().zip(frozen) {
            layer.frozen = frozen;
            layer.slot.set_off(frozen);
        }
        problems
    }

    /// A parameter whose variable is not known counts as trained.
    fn parameter_is_trained(&self, layer: &Registered, parameter: &Parameter) -> bool {
        self.variable_of(layer, parameter).is_none_or(|id| self.declared.is_trained(id))
    }

    /// The variable that a parameter is.
    pub(crate) fn variable_of(&self, layer: &Registered, parameter: &Parameter) -> Option<TensorId> {
        parameter.id.or_else(|| {
            let model = self.model.as_deref().unwrap_or_default();
            let variables = model.iter().map(|(name, shape, id)| (name.as_str(), shape, *id));
            match matching_variables(&layer.name, parameter, variables)[..] {
                [one] => Some(model[one].2),
                _ => None,
            }
        })
    }

    /// The declared variables that can be trained: no statistics, and none that the optimizer lacks.
    pub(crate) fn trained_variables(&self) -> Vec<&(String, Shape, TensorId)> {
        let batch_norms = self.batch_norms();
        let model = self.model.iter().flatten();
        let trained = model.filter(|(.., id)| self.declared.is_trained(*id));
        trained.filter(|(name, ..)| !is_statistic(name, &batch_norms)).collect()
    }

    /// The names of what is frozen: the layers, and the variables of no layer.
    pub(crate) fn frozen_names(&self) -> Vec<&str> {
        if self.declared.trained.is_none() {
            return Vec::new();
        }
        let layers = self.layers.iter().filter(|layer| layer.frozen);
        let ids: HashSet<TensorId> =
            self.layers.iter().flat_map(|layer| &layer.spec.parameters).filter_map(|p| p.id).collect();
        let batch_norms = self.batch_norms();
        let variables = self.model.iter().flatten().filter(|(name, _, id)| {
            !self.declared.is_trained(*id) && !ids.contains(id) && !is_statistic(name, &batch_norms)
        });
        layers.map(|layer| layer.name.as_str()).chain(variables.map(|(name, ..)| name.as_str())).collect()
    }

    /// The layers that are recorded: all but the frozen ones.
    pub(crate) fn recorded_layers(&self) -> Vec<Registered> {
        let kept: Vec<usize> = (0..self.layers.len()).filter(|number| !self.layers[*number].frozen).collect();
        let place = |number: usize| kept.iter().position(|kept| *kept == number);
        let layer = |number: &usize| {
            let layer = self.layers[*number].clone();
            Registered { tied: layer.tied.and_then(place), ..layer }
        };
        kept.iter().map(layer).collect()
    }

    /// The declared variables that are layers of their own, each with its layer's number among `recorded`.
    pub(crate) fn recorded_variables(&self, recorded: &[Registered]) -> Vec<(usize, Var)> {
        let number = |name: &String| recorded.iter().position(|layer| layer.is_variable() && layer.name == *name);
        self.variables.iter().filter_map(|(name, variable)| Some((number(name)?, variable.clone()))).collect()
    }
}

/// The one variable that the parameter can be.
fn find_variable(layer: &Registered, parameter: &Parameter, named: &[(String, Var)]) -> Option<Var> {
    let variables = named.iter().map(|(name, variable)| (name.as_str(), variable.shape(), variable.id()));
    match matching_variables(&layer.name, parameter, variables)[..] {
        [one] => Some(named[one].1.clone()),
        _ => None,
    }
}

/// Why a layer is refused of which the optimizer has a part, and what to do.
fn describe_partly_trained(layer: &Registered, trained: &[&Parameter], others: &[&Parameter]) -> String {
    let names = |parameters: &[&Parameter]| {
        parameters.iter().map(|parameter| parameter.name.as_str()).collect::<Vec<_>>().join(" and ")
    };
    let (has, lacks) = (names(trained), names(others));
    format!(
        "layer `{}`: its {has} is among the trained variables and its {lacks} is not, so its whole gradient is not what is \
         trained: build the layer with the {lacks} detached (`Linear::new(weight, Some(bias.detach()))`), which records the \
         {has} alone, or give `taps.trained` both",
        layer.name
    )
}

/// The variables of the map, sorted by name: a `VarMap` has no order.
pub(crate) fn named_variables(variables: &VarMap) -> Vec<(String, Var)> {
    let data = variables.data().lock().unwrap_or_else(PoisonError::into_inner);
    let mut named: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}
