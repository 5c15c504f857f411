//! Taps: layers that let one see, in one ordinary backward pass, the gradient of each example of the batch.
//!
//! A tapped layer computes what the plain one computes. While a pass is armed it also keeps its input and, when
//! `backward` comes by, the gradient of its output; from the two follows each example's own gradient (see [`PerExample`]).
//! Owns one file per layer kind. Knows nothing of files and threads.
//!
//! Everything hangs on explicit handles, with no globals and no thread-locals: candle may run a closure on its own
//! thread pool, where a thread-local would record nothing without a word.

mod batch_norm;
mod between;
mod catch;
mod conv;
mod embedding;
mod fused;
mod gradient;
mod group_norm;
mod linear;
mod norm;
pub(crate) mod parallel;
mod shared_fold;
mod slot;

pub use between::{max_pool2d, max_pool2d_as_candle, relu};
pub use catch::Catch;
pub use gradient::PerExample;

pub(crate) use catch::{watch_scalar, Upstream};
pub(crate) use fused::{cpu_f32, slice, with_slice};
pub(crate) use gradient::{add, fold_uses, host, on_host, FoldedGradients};
pub(crate) use shared_fold::{LazyFold, SharedFold};
pub(crate) use slot::{Captured, Slot};

use candle_core::{Module, Result, Shape, Tensor, TensorId};
use candle_nn::VarMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A layer whose per-example gradients can be recorded.
///
/// Implemented for candle_nn's `Linear`, `Conv1d`, `Conv2d`, `Embedding`, `LayerNorm`, `RmsNorm` and `GroupNorm`.
/// Implement it for a layer of your own to record that too: `examples/custom_layer.rs` does.
///
/// The batch is the first dimension of the layer's input and output.
///
/// To check a tap, record a step and compare `Score::Grand` over that step, the norm of each example's gradient, with candle's own
/// backward on batches of one.
pub trait Tap: Send + Sync + 'static {
    /// What the layer is: its kind and its parameters.
    ///
    /// # Errors
    /// A sentence for the user, where the layer has no per-example gradient; it says what to use instead.
    fn spec(&self) -> std::result::Result<LayerSpec, String>;

    /// The layer's output for the input `x`, as the layer computes it when it is not tapped.
    ///
    /// # Errors
    /// Whatever candle says.
    fn plain_forward(&self, x: &Tensor) -> Result<Tensor>;

    /// The gradient of each example's loss by the layer's parameters.
    ///
    /// `x` is the input of one use of the layer, `[batch, ...]`, and `delta` the gradient of the loss by that use's
    /// output, of the output's shape. The two are detached; nothing computed here reaches the training's own graph.
    ///
    /// # Errors
    /// Whatever candle says.
    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample>;

    /// Whether [`Tap::per_example`] reads the layer's parameters, and not only `x` and `delta`. If so it is called before the optimizer's
    /// step, in the training thread; if not, on the background thread, when the parameters may have changed. Default `true`.
    fn per_example_reads_parameters(&self) -> bool {
        true
    }

    /// The layer's output while it is tapped. The default computes [`Tap::plain_forward`] and catches the gradient of its result;
    /// a layer with a faster way overrides this.
    ///
    /// # Errors
    /// Whatever candle says.
    fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
        catch.output(x, self.plain_forward(x)?)
    }
}

/// What a layer is.
#[derive(Debug, Clone)]
pub struct LayerSpec {
    /// The kind in one word: `linear`, `conv2d`, ...
    pub kind: &'static str,
    /// The layer's parameters, in the order in which [`Tap::per_example`] lays out their gradients.
    pub parameters: Vec<Parameter>,
    /// Widths of the two factors of the gradient, `(inputs, outputs)`, where one position makes it a rank-one matrix.
    pub factors: Option<(usize, usize)>,
    /// Whether the input factor has a 1 appended, for a bias.
    pub bias: bool,
}

/// A parameter of a layer.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name inside the layer: `weight`, `bias`, ...
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// The tensor's identity, by which a variable of the model is recognized; `None` where the layer hides it.
    pub id: Option<TensorId>,
    /// Whether it is trained: a tensor that is no variable has no gradient that anyone takes.
    pub trained: bool,
}

impl Parameter {
    /// The parameter that `tensor` holds.
    pub fn new(name: &str, tensor: &Tensor) -> Self {
        Self { name: name.into(), shape: tensor.shape().clone(), id: Some(tensor.id()), trained: tensor.is_variable() }
    }

    /// A parameter whose tensor cannot be reached.
    pub fn hidden(name: &str, shape: impl Into<Shape>) -> Self {
        Self { name: name.into(), shape: shape.into(), id: None, trained: true }
    }
}

impl LayerSpec {
    /// How many numbers the layer's whole gradient has.
    pub fn elements(&self) -> usize {
        self.parameters.iter().map(|p| p.shape.elem_count()).sum()
    }
}

/// The taps of one model: hand each layer to [`Taps::tap`] where it is built, and the whole to the recorder.
///
/// Cheap to clone; clones are the same taps.
#[derive(Clone, Default)]
pub struct Taps {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Number of the pass that is armed, 0 for none. Passes are counted from 1 and never reused.
    armed: AtomicU64,
    /// How many passes there have been, over all recorders.
    passes: AtomicU64,
    /// Whether a recorder holds these taps: two at a time would catch each other's gradients.
    held: AtomicBool,
    registry: Mutex<Registry>,
}

#[derive(Default)]
pub(crate) struct Registry {
    pub layers: Vec<Registered>,
    pub model: Option<Vec<(String, Shape, TensorId)>>,
    pub variables: Vec<(String, candle_core::Var)>,
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
    pub optional: bool,
    /// The first layer with the same weight, if two or more have it: this one's own number for the first.
    pub tied: Option<usize>,
}

impl Taps {
    /// No taps yet. A recorder made with none records losses and predictions only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Taps `layer` under `name` and gives it back, wrapped.
    ///
    /// A layer that cannot be recorded (`BatchNorm`) and a name that is taken are refused when the recorder is created,
    /// so that this stays one expression in a model's constructor.
    pub fn tap<L: Tap>(&self, name: impl Into<String>, layer: L) -> Tapped<L> {
        self.register(name.into(), layer, false)
    }

    /// As [`Taps::tap`], for a layer that a pass may leave out: its gradient is then zero.
    /// Without this, a layer that a pass did not reach is an error.
    ///
    /// A linear layer of which the first pass makes no use is taken for one that sees one position an example. If it turns out to see
    /// several, visits before its first use are in another form than those after it, and analyses leave them out and say so.
    pub fn tap_optional<L: Tap>(&self, name: impl Into<String>, layer: L) -> Tapped<L> {
        self.register(name.into(), layer, true)
    }

    /// Declares the classifier of a model that is not tapped: a linear layer of `inputs` features and `outputs` classes.
    ///
    /// Hand the features that enter it to `Pass::features` in each pass; the gradient of its output is known in closed
    /// form from the loss, so this records the last layer's gradients of any model at all.
    pub fn last_layer(&self, name: impl Into<String>, inputs: usize, outputs: usize, bias: bool) {
        let mut parameters = vec![Parameter::hidden("weight", (outputs, inputs))];
        if bias {
            parameters.push(Parameter::hidden("bias", outputs));
        }
        let spec = LayerSpec { kind: "last layer", parameters, factors: Some((inputs, outputs)), bias };
        let mut registry = self.registry();
        if registry.layers.iter().any(|other| other.layer.is_none()) {
            registry.problems.push("a model has one last layer: `last_layer` was called twice".into());
        }
        registry.add(name.into(), spec, Arc::new(Slot::default()), None, false);
    }

    /// Declares all variables of the model, so that the run can say which of them it does not cover and how large they are.
    pub fn model(&self, variables: &VarMap) {
        let named = named_variables(variables);
        self.registry().model = Some(named.iter().map(|(n, v)| (n.clone(), v.shape().clone(), v.id())).collect());
    }

    /// Declares the variables of a model that cannot be tapped: every one becomes a layer, which `Pass::per_example` fills.
    pub fn variables(&self, variables: &VarMap) {
        let named = named_variables(variables);
        let mut registry = self.registry();
        registry.model = Some(named.iter().map(|(n, v)| (n.clone(), v.shape().clone(), v.id())).collect());
        for (name, var) in named {
            let parameters = vec![Parameter::new("value", var.as_tensor())];
            let spec = LayerSpec { kind: "variable", parameters, factors: None, bias: false };
            registry.add(name.clone(), spec, Arc::new(Slot::default()), None, true);
            registry.variables.push((name, var));
        }
    }

    fn register<L: Tap>(&self, name: String, layer: L, optional: bool) -> Tapped<L> {
        let layer = Arc::new(layer);
        let slot = Arc::new(Slot::default());
        let mut registry = self.registry();
        match layer.spec() {
            Ok(spec) => registry.add(name, spec, slot.clone(), Some(layer.clone()), optional),
            Err(reason) => registry.problems.push(format!("layer `{name}`: {reason}")),
        }
        drop(registry);
        Tapped { layer, taps: self.clone(), slot }
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        // The registry is only ever appended to, so it is whole even if a thread died holding it.
        self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many parameters those layers have together whose gradients `pass` will fold, as far as its forward pass tells.
    pub(crate) fn folded_parameters(&self, pass: u64) -> u64 {
        let registry = self.registry();
        let folds = |layer: &&Registered| {
            let (reached, sums) = layer.slot.reached(pass);
            reached > 0 && (sums || layer.tied.is_some() || layer.spec.factors.is_none())
        };
        registry.layers.iter().filter(folds).map(|layer| layer.spec.elements() as u64).sum()
    }

    /// Takes the taps for one recorder; `false` if another has them.
    pub(crate) fn hold(&self) -> bool {
        !self.shared.held.swap(true, Ordering::AcqRel)
    }

    /// Lets another recorder have the taps.
    pub(crate) fn release(&self) {
        self.disarm();
        self.shared.held.store(false, Ordering::Release);
    }

    pub(crate) fn armed(&self) -> u64 {
        self.shared.armed.load(Ordering::Acquire)
    }

    /// Arms the taps for a pass with a number that no pass had before.
    pub(crate) fn arm_next(&self) -> u64 {
        let pass = self.shared.passes.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.armed.store(pass, Ordering::Release);
        pass
    }

    pub(crate) fn disarm(&self) {
        self.shared.armed.store(0, Ordering::Release);
    }
}

impl Registry {
    fn add(&mut self, name: String, spec: LayerSpec, slot: Arc<Slot>, layer: Option<Arc<dyn Tap>>, optional: bool) {
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
                "layer `{name}`: its {} is not a variable, so nothing trains it and its gradient is nobody's: leave the layer untapped, or \
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
        self.layers.push(Registered { name, spec, slot, layer, optional, tied });
    }
}

impl Registry {
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

/// The map's variables by name, in the order of the names: a `VarMap` itself has none.
pub(crate) fn named_variables(variables: &VarMap) -> Vec<(String, candle_core::Var)> {
    let data = variables.data().lock().unwrap_or_else(PoisonError::into_inner);
    let mut named: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

/// A tapped layer: a `Module` that computes what the plain one does. Its own methods are reached by dereferencing.
pub struct Tapped<L> {
    layer: Arc<L>,
    taps: Taps,
    slot: Arc<Slot>,
}

impl<L> Clone for Tapped<L> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), taps: self.taps.clone(), slot: self.slot.clone() }
    }
}

impl<L> Deref for Tapped<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.layer
    }
}

impl<L: Tap> Module for Tapped<L> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let catch = Catch::new(self.taps.clone(), self.slot.clone());
        self.layer.tapped_forward(x, &catch)
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Taps>();
    shareable::<Tapped<candle_nn::Linear>>();
};
