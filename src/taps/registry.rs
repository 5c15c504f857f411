//! The layers that the recorder knows of, and what is refused about them.

use super::slot::Slot;
use super::spec::{LayerSpec, Parameter};
use super::tap::Tap;
use candle_core::{Shape, TensorId, Var};
use std::sync::Arc;

/// What was tapped and declared so far.
#[derive(Default)]
pub(crate) struct Registry {
    pub layers: Vec<Registered>,
    pub model: Option<Vec<(String, Shape, TensorId)>>,
    pub variables: Vec<(String, Var)>,
    pub problems: Vec<String>,
}

/// A layer that the recorder knows of.
#[derive(Clone)]
pub(crate) struct Registered {
    pub name: String,
    pub spec: LayerSpec,
    pub slot: Arc<Slot>,
    /// `None` for the last layer of a model that is not tapped: its factors come from the caller.
    pub layer: Option<Arc<dyn Tap>>,
    /// Whether a pass may leave the layer out.
    pub presence: Presence,
    /// The first layer with the same weight, if two or more have it: this one's own number for the first.
    pub tied: Option<usize>,
}

/// Whether a pass may leave a layer out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    /// Its gradient is then zero.
    Optional,
}

impl Registry {
    pub(super) fn add(
        &mut self,
        name: String,
        spec: LayerSpec,
        slot: Arc<Slot>,
        layer: Option<Arc<dyn Tap>>,
        presence: Presence,
    ) {
        if self.layers.iter().any(|other| other.name == name) {
            self.problems.push(format!(
                "two layers are tapped as `{name}`: give each its own name (a layer that is used twice is tapped once)"
            ));
            return;
        }
        if self.layers.len() >= usize::from(u16::MAX) {
            self.problems.push(format!("layer `{name}`: a run holds at most 65,535 layers"));
            return;
        }
        if let Some(frozen) = spec.parameters.iter().find(|parameter| !parameter.trained) {
            self.problems.push(format!(
                "layer `{name}`: its {} is not a variable, so nothing trains it and it has no gradient: leave the layer untapped, or \
                 tap a layer of your own that declares only what is trained",
                frozen.name
            ));
            return;
        }
        if let Some((other, what)) = self.half_shared(&spec) {
            self.problems.push(format!(
                "layers `{other}` and `{name}` share {what}: gradients of such layers cannot be told from each other; share all \
                 parameters or the weight alone, with at most one bias, or leave one of the layers untapped"
            ));
            return;
        }
        self.tie(&spec);
        let number = self.layers.len();
        let tied = self.first_with(&spec).filter(|first| *first < number);
        self.layers.push(Registered { name, spec, slot, layer, presence, tied });
    }

    /// The number of the first layer whose first parameter is that of `spec`.
    fn first_with(&self, spec: &LayerSpec) -> Option<usize> {
        let id = spec.parameters.first()?.id?;
        self.layers.iter().position(|layer| layer.spec.parameters.first().and_then(|p| p.id) == Some(id))
    }

    /// An earlier layer that shares a parameter with `spec` in a way that a sum of whole layers' gradients does not describe, and
    /// what it shares.
    fn half_shared(&self, spec: &LayerSpec) -> Option<(&str, String)> {
        self.layers.iter().find_map(|layer| {
            let (ours, theirs) = (&spec.parameters, &layer.spec.parameters);
            let same = |a: &Parameter, b: &Parameter| a.id.is_some() && a.id == b.id;
            if ours.first().zip(theirs.first()).is_some_and(|(a, b)| same(a, b)) {
                let apart = ours.iter().zip(theirs).find(|(a, b)| !same(a, b))?;
                return Some((&*layer.name, format!("`{}` and not `{}`", ours[0].name, apart.0.name)));
            }
            let shared = ours.iter().find(|a| theirs.iter().any(|b| same(a, b)))?;
            Some((&*layer.name, format!("`{}` and not all before it", shared.name)))
        })
    }

    /// Marks an earlier layer with the same first parameter as tied. The two gradients are gradients of one tensor and have to
    /// be added: they share a seed, and coordinates, since the shapes are one shape.
    fn tie(&mut self, spec: &LayerSpec) {
        if let Some(first) = self.first_with(spec) {
            self.layers[first].tied = Some(first);
        }
    }
}
