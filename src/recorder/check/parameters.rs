//! The parameters of the recorded layers, and the variables that they are.

use crate::taps::{matching_variables, Registered};
use candle_core::{TensorId, Var};
use std::collections::BTreeMap;
use std::ops::Range;

/// A parameter of a layer: its place in the layer's whole gradient, and its tensor.
pub(super) struct Parameter {
    pub layer: usize,
    /// `fc1.weight`.
    pub name: String,
    pub range: Range<usize>,
    /// `None` if the layer hides its tensor, and no variable has its name.
    pub id: Option<TensorId>,
}

/// All parameters of all layers. The subject of a difference is a place in `all`.
pub(super) struct Parameters {
    pub all: Vec<Parameter>,
    /// The parameters of each tensor, by the place of the first. Several layers may share a tensor.
    pub tensors: BTreeMap<usize, (TensorId, Vec<usize>)>,
}

impl Parameters {
    pub(super) fn new(layers: &[Registered], named: &[(String, Var)]) -> Self {
        let mut all = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let mut start = 0;
            for parameter in &layer.spec.parameters {
                let end = start + parameter.shape.elem_count();
                let name = format!("{}.{}", layer.name, parameter.name);
                let variables = named.iter().map(|(name, var)| (name.as_str(), var.shape(), var.id()));
                let by_name = || matching_variables(&layer.name, parameter, variables);
                let id = parameter.id.or_else(|| match by_name()[..] {
                    [one] => Some(named[one].1.id()),
                    _ => None,
                });
                all.push(Parameter { layer: number, name, range: start..end, id });
                start = end;
            }
        }
        let mut tensors: BTreeMap<usize, (TensorId, Vec<usize>)> = BTreeMap::new();
        for (place, id) in all.iter().enumerate().filter_map(|(place, one)| Some((place, one.id?))) {
            match tensors.values_mut().find(|(known, _)| *known == id) {
                Some((_, places)) => places.push(place),
                None => drop(tensors.insert(place, (id, vec![place]))),
            }
        }
        Self { all, tensors }
    }

    pub(super) fn of_layer(&self, layer: usize) -> impl Iterator<Item = (usize, &Parameter)> {
        self.all.iter().enumerate().filter(move |(_, parameter)| parameter.layer == layer)
    }

    pub(super) fn covers(&self, id: TensorId) -> bool {
        self.all.iter().any(|parameter| parameter.id == Some(id))
    }
}
