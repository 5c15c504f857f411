//! The layers that the recorder knows, and the reasons to refuse some.

use super::batch_norm::KIND as BATCH_NORM;
use super::declared::Declared;
use super::names::{find_batch_norms, mean_of, weight_of};
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
    /// Statistics of the declared model's BatchNorm layers.
    pub statistics: Vec<(String, Var)>,
    pub declared: Declared,
    /// BatchNorm layers of `gradlog::nn`, by name. They are tapped, and run in both modes.
    pub built_batch_norms: Vec<String>,
    /// Running means of the declared model's BatchNorm layers, by the layer's name.
    pub running_means: Vec<(String, Var)>,
    /// Whether [`Taps::collect`](super::Taps::collect) made these taps, so that layers are expected.
    pub collected: bool,
    pub problems: Vec<String>,
}

/// A layer that the recorder knows.
#[derive(Clone)]
pub(crate) struct Registered {
    pub name: String,
    pub spec: LayerSpec,
    pub slot: Arc<Slot>,
    /// `None` for the last layer of a model that is not tapped, and for a declared variable. The caller gives the
    /// factors or the gradients.
    pub layer: Option<Arc<dyn Tap>>,
    /// Whether a pass may leave the layer out.
    pub presence: Presence,
    /// Whether the layer is folded even if its first pass has one position per example.
    pub folded: bool,
    /// The first layer with the same weight, if several have it. For the first one this is its own number.
    pub tied: Option<usize>,
    /// The other parameters of layers with the same weight, which this layer has not. They lie between its weight and
    /// its own other parameters in the tensors' one gradient.
    pub skipped: Vec<(String, Shape)>,
    /// Whether the optimizer has none of its parameters, so that it is not recorded.
    pub frozen: bool,
    /// Whether the name is only the layer's kind, because the layer was built without a path.
    pub unnamed: bool,
}

/// Whether a pass may leave a layer out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    /// Its gradient is then zero.
    Optional,
}

/// How a layer is recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recording {
    pub presence: Presence,
    pub folded: bool,
}

impl Recording {
    pub(super) const REQUIRED: Self = Self { presence: Presence::Required, folded: false };
    pub(super) const OPTIONAL: Self = Self { presence: Presence::Optional, folded: false };

    pub(super) fn folded(self, folded: bool) -> Self {
        Self { folded, ..self }
    }
}

impl Registered {
    /// Whether this is a declared variable. A tapped layer has a [`Tap`], whatever its kind is called.
    pub(crate) fn is_variable(&self) -> bool {
        self.layer.is_none() && self.spec.factors.is_none()
    }
}

impl Registered {
    /// Whether this is the declared last layer of a model that is not tapped.
    pub(crate) fn is_last_layer(&self) -> bool {
        self.layer.is_none() && self.spec.factors.is_some()
    }

    /// How many numbers of the tied layers' gradient this layer has no part in, between its weight and its bias.
    pub(crate) fn skipped_elements(&self) -> usize {
        self.skipped.iter().map(|(_, shape)| shape.elem_count()).sum()
    }

    /// The parameters after the first.
    fn others(&self) -> &[Parameter] {
        self.spec.parameters.get(1..).unwrap_or_default()
    }
}

/// What results call the layers that share one vector (FORMAT.md, "Folded").
const FOLDED: &str = "folded";

impl Registry {
    /// Declares all variables of the model.
    pub(super) fn declare(&mut self, named: &[(String, Var)]) {
        self.model = Some(named.iter().map(|(n, v)| (n.clone(), v.shape().clone(), v.id())).collect());
        let batch_norms = self.batch_norms();
        let mean = |layer: &String| {
            let name = mean_of(layer);
            let (_, var) = named.iter().find(|(other, _)| *other == name)?;
            Some((layer.clone(), var.clone()))
        };
        let is_built = |layer: &String| self.built_batch_norms.contains(layer) && !batch_norms.contains(layer);
        let built = self.running_means.iter().filter(|(layer, _)| is_built(layer)).cloned();
        self.running_means = batch_norms.iter().filter_map(mean).chain(built.collect::<Vec<_>>()).collect();
    }

    /// The names of the declared model's BatchNorm layers.
    pub(crate) fn batch_norms(&self) -> Vec<String> {
        let model = self.model.as_deref().unwrap_or_default();
        find_batch_norms(model.iter().map(|(name, shape, _)| (name.as_str(), shape)))
    }

    /// Notes a BatchNorm of `gradlog::nn`, which may run in training mode.
    pub(crate) fn note_batch_norm(&mut self, name: &str, running_mean: Var) {
        self.built_batch_norms.push(name.to_owned());
        self.running_means.push((name.to_owned(), running_mean));
    }

    /// The BatchNorm layers that may run in training mode: those that are not tapped with frozen statistics.
    pub(crate) fn untapped_batch_norms(&self) -> Vec<String> {
        let model = self.model.as_deref().unwrap_or_default();
        let tapped = self.layers.iter().filter(|layer| layer.spec.kind == BATCH_NORM);
        let tapped: Vec<TensorId> = tapped.flat_map(|layer| &layer.spec.parameters).filter_map(|p| p.id).collect();
        let is_tapped = |layer: &String| {
            let weight = weight_of(layer);
            model.iter().any(|(name, _, id)| *name == weight && tapped.contains(id))
        };
        let mut found: Vec<String> = self.batch_norms().into_iter().filter(|layer| !is_tapped(layer)).collect();
        found.extend(self.built_batch_norms.iter().filter(|name| !found.contains(name)).cloned().collect::<Vec<_>>());
        found
    }

    pub(super) fn add(
        &mut self,
        name: String,
        spec: LayerSpec,
        slot: Arc<Slot>,
        layer: Option<Arc<dyn Tap>>,
        Recording { presence, folded }: Recording,
    ) {
        if self.layers.iter().any(|other| other.name == name) {
            self.problems.push(format!(
                "two layers are tapped as `{name}`: give each its own name, and tap a layer that is used twice only once"
            ));
            return;
        }
        if name == FOLDED {
            self.problems.push(format!(
                "a layer is tapped as `{name}`, which is the name of all folded layers together: give it another name"
            ));
            return;
        }
        if self.layers.len() >= usize::from(u16::MAX) {
            self.problems.push(format!("layer `{name}` is one too many: a run holds at most 65,535 layers"));
            return;
        }
        if let Some(untrained) = spec.parameters.iter().find(|parameter| !parameter.trained) {
            self.problems.push(describe_untrained(&name, &spec, untrained));
            return;
        }
        if let Some((other, what)) = self.find_partial_sharing(&spec) {
            self.problems.push(format!(
                "layers `{other}` and `{name}` share {what}, so their gradients cannot be separated: share all \
                 parameters, or only the first, or leave one of the layers untapped"
            ));
            return;
        }
        self.mark_tied(&spec);
        let skipped = self.find_skipped(&spec);
        let number = self.layers.len();
        let tied = self.find_first(&spec).filter(|first| *first < number);
        self.layers.push(Registered {
            name,
            spec,
            slot,
            layer,
            presence,
            folded,
            tied,
            skipped,
            frozen: false,
            unnamed: false,
        });
    }

    /// Adds a layer that was built under the path `name`, or without one.
    pub(super) fn add_built(&mut self, name: &str, spec: LayerSpec, slot: Arc<Slot>, layer: Arc<dyn Tap>) {
        let unnamed = name.is_empty();
        let name = self.free_name(if unnamed { spec.kind } else { name });
        let layers = self.layers.len();
        // A BatchNorm is tapped for evaluation mode, and a training may run it in the other one.
        let presence = if spec.kind == BATCH_NORM { Presence::Optional } else { Presence::Required };
        self.add(name, spec, slot, Some(layer), Recording { presence, folded: false });
        if let Some(added) = self.layers.get_mut(layers) {
            added.unnamed = unnamed;
        }
    }

    /// `name`, with a number if it is taken.
    fn free_name(&self, name: &str) -> String {
        let is_taken = |name: &str| name == FOLDED || self.layers.iter().any(|layer| layer.name == name);
        let mut free = name.to_owned();
        let mut number = 1;
        while is_taken(&free) {
            free = format!("{name}.{number}");
            number += 1;
        }
        free
    }

    /// Names layers that were built without a path after their first variable: `head.weight` gives `head`.
    pub(crate) fn name_by_variables(&mut self) {
        for number in 0..self.layers.len() {
            let layer = &self.layers[number];
            let Some(first) = layer.spec.parameters.first().filter(|_| layer.unnamed) else { continue };
            let model = self.model.as_deref().unwrap_or_default();
            let Some((variable, ..)) = model.iter().find(|(_, _, id)| Some(*id) == first.id) else { continue };
            // A variable without a path has the name that the parameter has in every layer.
            if *variable == first.name {
                continue;
            }
            let path = variable.strip_suffix(&format!(".{}", first.name)).unwrap_or(variable);
            let name = self.free_name(path);
            self.layers[number].name = name;
            self.layers[number].unnamed = false;
        }
    }

    /// The number of the first layer with the same first parameter as `spec`.
    fn find_first(&self, spec: &LayerSpec) -> Option<usize> {
        let id = spec.parameters.first()?.id?;
        self.layers.iter().position(|layer| layer.spec.parameters.first().and_then(|p| p.id) == Some(id))
    }

    /// Finds an earlier layer that shares a parameter with `spec` such that a sum of whole layers' gradients is not the
    /// gradient. Returns its name and the shared parameter.
    ///
    /// Layers may share their first parameter. The others are then the same, or none is shared.
    fn find_partial_sharing(&self, spec: &LayerSpec) -> Option<(&str, String)> {
        let ours = &spec.parameters;
        let has_apart = self
            .layers
            .iter()
            .any(|layer| is_tied(layer, spec) && !agree(layer.others(), ours.get(1..).unwrap_or_default()));
        self.layers.iter().find_map(|layer| {
            let theirs = &layer.spec.parameters;
            if is_tied(layer, spec) {
                let (ours, theirs) = (&ours[1..], layer.others());
                let apart = ours.iter().zip(theirs).find(|(a, b)| !same(a, b)).map(|(a, _)| a);
                let is_shared = |a: &Parameter| a.id.is_none() || theirs.iter().any(|b| same(a, b) || b.id.is_none());
                let refused = match apart {
                    Some(_) => apart.filter(|_| ours.iter().any(is_shared)),
                    // A longer layer would reach into the places of another.
                    None => ours.get(theirs.len()).filter(|_| has_apart && !theirs.is_empty()),
                };
                return refused.map(|a| (&*layer.name, format!("`{}` and not `{}`", spec.parameters[0].name, a.name)));
            }
            let shared = ours.iter().find(|a| theirs.iter().any(|b| same(a, b)))?;
            Some((&*layer.name, format!("`{}` and not all before it", shared.name)))
        })
    }

    /// The parameters of layers with the same first parameter that lie before the others of `spec` in their one
    /// gradient.
    fn find_skipped(&self, spec: &LayerSpec) -> Vec<(String, Shape)> {
        let ours = spec.parameters.get(1..).unwrap_or_default();
        let with_others = || self.layers.iter().filter(|layer| is_tied(layer, spec) && !layer.others().is_empty());
        if ours.is_empty() {
            return Vec::new();
        }
        if let Some(equal) = with_others().find(|layer| agree(layer.others(), ours)) {
            return equal.skipped.clone();
        }
        let length = |layer: &&Registered| layer.spec.elements() + layer.skipped_elements();
        let Some(last) = with_others().max_by_key(length) else { return Vec::new() };
        let theirs = last.others().iter().map(|p| (format!("{}.{}", last.name, p.name), p.shape.clone()));
        last.skipped.iter().cloned().chain(theirs).collect()
    }

    /// Marks an earlier layer with the same first parameter as tied. The two gradients belong to one tensor and are
    /// added. They share a seed, and coordinates, because their shapes are equal.
    fn mark_tied(&mut self, spec: &LayerSpec) {
        if let Some(first) = self.find_first(spec) {
            self.layers[first].tied = Some(first);
        }
    }
}

/// Whether both are one tensor.
fn same(a: &Parameter, b: &Parameter) -> bool {
    a.id.is_some() && a.id == b.id
}

/// Whether the first parameter of both is one tensor.
fn is_tied(layer: &Registered, spec: &LayerSpec) -> bool {
    spec.parameters.first().zip(layer.spec.parameters.first()).is_some_and(|(a, b)| same(a, b))
}

/// Whether each parameter is the other's at its place, as far as both go.
fn agree(a: &[Parameter], b: &[Parameter]) -> bool {
    a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// Why a layer is refused whose parameter `untrained` is not a variable, and what to do.
fn describe_untrained(name: &str, spec: &LayerSpec, untrained: &Parameter) -> String {
    let what = &untrained.name;
    if untrained.derived {
        return format!(
            "layer `{name}`: its {what} is computed from variables (by a weight norm, a transpose, a sum), so its own gradient is \
             not theirs: leave the layer untapped, or implement `Tap` for a layer that holds these variables and declares them \
             (`examples/custom_layer.rs`), or record all variables with `taps.declare_variables`"
        );
    }
    let others: Vec<&str> = spec.parameters.iter().filter(|p| p.trained).map(|p| p.name.as_str()).collect();
    if others.is_empty() {
        return format!(
            "layer `{name}`: its {what} is not a variable, and nothing else in it is trained, so it has no gradient: leave it untapped"
        );
    }
    format!(
        "layer `{name}`: its {what} is not a variable, so it is not trained and has no gradient, but its {} is trained: make \
         both variables, or implement `Tap` for a layer that declares only what is trained (`examples/custom_layer.rs`)",
        others.join(" and ")
    )
}
