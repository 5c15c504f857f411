//! The taps of one model: registers layers and arms passes.

use super::catch::{Catch, Passes};
use super::collected::untapped;
use super::registry::{Recording, Registered, Registry};
use super::slot::Slot;
use super::spec::{LayerSpec, Parameter};
use super::tap::Tap;
use super::tapped::Tapped;
use super::watch::{Seen, Watch};
use crate::recorder::Sketching;
use candle_core::{Device, Var};
use candle_nn::VarMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The taps of one model. Give each layer to [`Taps::tap`] where it is built, and the taps to the recorder.
///
/// Cloning is cheap. Clones are handles to the same taps. One recorder at a time can hold them.
#[derive(Clone, Default)]
pub struct Taps {
    shared: Arc<Shared>,
}

/// The linear classifier of a model that is not tapped, for [`Taps::declare_last_layer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastLayer {
    /// Width of the input features.
    pub inputs: usize,
    /// Width of the output: the number of classes.
    pub outputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// Whether its gradients are sums over positions, whatever the first pass has.
    pub folded: bool,
}

impl LastLayer {
    /// A linear layer with a bias.
    #[must_use]
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, bias: true, folded: false }
    }

    /// Removes the bias.
    #[must_use]
    pub fn without_bias(self) -> Self {
        Self { bias: false, ..self }
    }

    /// Records sums over positions, even if the first pass has one position per example. As [`Taps::tap_folded`].
    #[must_use]
    pub fn folded(self) -> Self {
        Self { folded: true, ..self }
    }
}

/// Stops recording while it lives. [`Taps::pause`] makes it.
#[must_use = "recording goes on when the guard is dropped"]
pub struct Paused {
    shared: Arc<Shared>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.shared.paused.fetch_sub(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Paused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paused")
    }
}

#[derive(Default)]
struct Shared {
    /// Number of the armed pass, 0 for none. Numbers start at 1 and are never used again.
    armed: AtomicU64,
    /// Number of passes so far, over all recorders.
    passes: AtomicU64,
    /// Whether a recorder holds these taps. Two at a time would catch each other's gradients.
    held: AtomicBool,
    /// Where gradients are sketched.
    sketching: Mutex<Sketching>,
    /// Number of guards that stop recording.
    paused: AtomicUsize,
    /// What a check watches.
    watch: Watch,
    registry: Mutex<Registry>,
}

impl Shared {
    fn sketching(&self) -> Sketching {
        *self.sketching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // The registry only grows, so it is whole even if a thread panicked while it held the lock.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passes for Shared {
    fn armed_pass(&self) -> u64 {
        self.armed.load(Ordering::Acquire)
    }

    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire) > 0
    }

    fn is_fused(&self) -> bool {
        self.sketching() != Sketching::OnDevice
    }

    fn sketches_on(&self, device: &Device) -> bool {
        self.sketching().is_on_device(device)
    }

    fn folded_parameters(&self, pass: u64) -> u64 {
        let registry = self.registry();
        let folds = |layer: &&Registered| {
            let (uses, sums) = layer.slot.count_uses(pass);
            uses > 0 && (sums || layer.folded || layer.tied.is_some() || layer.spec.factors.is_none())
        };
        registry.layers.iter().filter(folds).map(|layer| layer.spec.elements() as u64).sum()
    }

    fn watch(&self) -> Option<&Watch> {
        Some(&self.watch).filter(|watch| watch.is_on())
    }
}

impl std::fmt::Debug for Taps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let registry = self.registry();
        let names: Vec<&str> = registry.layers.iter().map(|layer| layer.name.as_str()).collect();
        f.debug_struct("Taps").field("layers", &names).finish_non_exhaustive()
    }
}

impl Taps {
    /// Makes an empty set of taps. A recorder with no taps records only losses and predictions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Taps `layer` under `name` and returns it, wrapped.
    ///
    /// [`Recorder::create`](crate::Recorder::create) reports a layer that cannot be recorded (`BatchNorm` in training
    /// mode) and a name that is used twice. So this call cannot fail, and stays one expression in a model's
    /// constructor.
    #[must_use = "a forward pass through the returned layer is what is recorded"]
    pub fn tap<L: Tap>(&self, name: impl Into<String>, layer: L) -> Tapped<L> {
        self.register(name.into(), layer, Recording::REQUIRED)
    }

    /// As [`Taps::tap`], for a layer that a pass may leave out: an expert, a head, a part that is frozen for a while.
    /// A layer tapped with [`Taps::tap`] is an error then.
    ///
    /// The gradient is zero in a pass that does not use the layer. It is also zero if the layer runs but backward
    /// brings it no gradient, because its output is detached or does not reach the loss. The visits of such a pass have
    /// the flag [`FLAG_NO_GRADIENT`](gradlog_format::log::Column::FLAG_NO_GRADIENT).
    ///
    /// A linear layer that the first pass does not use is assumed to have one position per example. If it later has
    /// several, its earlier rows have another form than its later ones. The analysis leaves them out and says so.
    /// [`Taps::tap_optional_folded`] avoids that.
    #[must_use = "a forward pass through the returned layer is what is recorded"]
    pub fn tap_optional<L: Tap>(&self, name: impl Into<String>, layer: L) -> Tapped<L> {
        self.register(name.into(), layer, Recording::OPTIONAL)
    }

    /// As [`Taps::tap`], for a linear layer whose examples may have several positions, though those of the first pass
    /// may have one.
    ///
    /// The first pass decides how a layer is recorded, and a run keeps that form: two factors for one position per
    /// example, or a sum over positions. A layer that is recorded by factors cannot take several positions later. A
    /// language model whose first batch has sequences of one token is such a case. This call decides for the sum.
    /// Layers other than linear ones are always recorded as sums.
    #[must_use = "a forward pass through the returned layer is what is recorded"]
    pub fn tap_folded<L: Tap>(&self, name: impl Into<String>, layer: L) -> Tapped<L> {
        self.register(name.into(), layer, Recording::REQUIRED.folded(true))
    }

    /// As [`Taps::tap_folded`], for a layer that a pass may leave out as with [`Taps::tap_optional`].
    #[must_use = "a forward pass through the returned layer is what is recorded"]
    pub fn tap_optional_folded<L: Tap>(&self, name: impl Into<String>, layer: L) -> Tapped<L> {
        self.register(name.into(), layer, Recording::OPTIONAL.folded(true))
    }

    /// Declares the classifier of a model that is not tapped: a linear layer with `layer.inputs` features and
    /// `layer.outputs` classes.
    ///
    /// Give its input features to [`Pass::features`](crate::Pass::features) in each pass. The gradient of its output
    /// follows in closed form from the loss. So this records the last layer's gradients of any model.
    ///
    /// The layer's output must be what the loss gets, with nothing between. Declare the model, too
    /// ([`Taps::declare_model`]): then it is compared, and a bias that the model has not is refused when the recorder
    /// is made. The variables are found by `name`.
    ///
    /// ```
    /// use gradlog::taps::{LastLayer, Taps};
    ///
    /// let taps = Taps::new();
    /// taps.declare_last_layer("head", LastLayer::new(128, 10));
    /// ```
    pub fn declare_last_layer(&self, name: impl Into<String>, layer: LastLayer) {
        let LastLayer { inputs, outputs, bias, folded } = layer;
        let mut parameters = vec![Parameter::hidden("weight", (outputs, inputs))];
        if bias {
            parameters.push(Parameter::hidden("bias", outputs));
        }
        let spec = LayerSpec::factored("last layer", parameters, inputs, outputs);
        let mut registry = self.registry();
        if registry.layers.iter().any(|other| other.layer.is_none() && !other.is_variable()) {
            registry.problems.push("`declare_last_layer` was called twice: declare one last layer".into());
        }
        registry.add(name.into(), spec, Arc::new(Slot::default()), None, Recording::REQUIRED.folded(folded));
    }

    /// Declares all variables of the model. The run then states which of them it does not cover, and how large they
    /// are. It also knows the model's BatchNorm layers by their statistics; see
    /// [`OnBatchNorm`](crate::OnBatchNorm).
    ///
    /// The map is read when the recorder is created, so it may still be empty here. A second map is added to the first.
    ///
    /// [`Pass::backward_step`](crate::Pass::backward_step) then sees every variable: one that gets no gradient in the
    /// first pass is an error that names it. [`Taps::trained`] and [`Taps::allow_no_gradient`] say which need none.
    pub fn declare_model(&self, variables: &VarMap) {
        let mut registry = self.registry();
        registry.declared.add_map(variables, false);
        registry.read_maps();
    }

    /// Declares the variables of a model that cannot be tapped. Each variable becomes a layer, and
    /// [`Pass::per_example`](crate::Pass::per_example) records its gradients. As in [`Taps::declare_model`], the map is
    /// read when the recorder is created, and a variable without a gradient is an error.
    pub fn declare_variables(&self, variables: &VarMap) {
        let mut registry = self.registry();
        registry.declared.add_map(variables, true);
        registry.read_maps();
    }

    /// Says which variables are trained: those that the optimizer has. Without this call all of them are.
    ///
    /// A layer without a trained parameter is frozen. It is not recorded, takes no part in influence, self-influence
    /// and coverage, and needs no gradient. The run names the frozen layers in its notes. A layer that is trained in
    /// part is refused by [`Recorder::create`](crate::Recorder::create), which says what to do.
    ///
    /// Call it before the recorder is created. A second call adds variables.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_nn::{linear, VarBuilder, VarMap};
    /// use gradlog::Taps;
    ///
    /// let variables = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    /// let taps = Taps::new();
    /// let base = taps.tap("base", linear(4, 8, vb.pp("base"))?);
    /// let head = taps.tap("head", linear(8, 3, vb.pp("head"))?);
    /// // Only the head is trained.
    /// let named = variables.data().lock().unwrap();
    /// let trained = named.iter().filter(|(name, _)| name.starts_with("head")).map(|(_, v)| v.clone());
    /// let trained: Vec<_> = trained.collect();
    /// taps.trained(&trained);
    /// // let optimizer = AdamW::new(trained, params)?;
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn trained(&self, variables: &[Var]) {
        self.registry().declared.add_trained(variables);
    }

    /// Says that variables may stay without a gradient, although the optimizer has them: a head or an expert that few
    /// passes use, a pooler that no loss uses. `name` is the name of a variable, or the path of a part: `"pooler"`
    /// stands for `pooler.dense.weight` as well.
    ///
    /// Parameters of a layer that is tapped with [`Taps::tap_optional`] need no such call.
    pub fn allow_no_gradient(&self, name: impl Into<String>) {
        self.registry().declared.allow(name.into());
    }

    /// Stops recording until the guard is dropped: forward passes meanwhile are not recorded. Use it inside a pass for
    /// a forward that takes no part in its loss: a metric, a target, a teacher.
    ///
    /// Without it, a second forward inside a pass is an error at `commit`, because it gets no gradient. Detach what
    /// such a forward gives to the loss: a gradient that goes into it is an error too.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Module, Tensor};
    /// # use candle_nn::{linear, VarBuilder, VarMap};
    /// # use gradlog::{Config, Recorder, Taps};
    /// # let dir = std::env::temp_dir().join(format!("gradlog-doc-pause-{}", std::process::id()));
    /// # let variables = VarMap::new();
    /// # let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    /// # let taps = Taps::new();
    /// # let model = taps.tap("fc", linear(4, 3, vb.pp("fc"))?);
    /// # let (x, y) = (Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?, Tensor::new(&[0u32, 2], &Device::Cpu)?);
    /// # let mut recorder = Recorder::create(&dir, &taps, Config::default())?;
    /// let mut pass = recorder.pass(&[7, 8])?;
    /// let target = {
    ///     let _paused = taps.pause();
    ///     model.forward(&x)?.detach()
    /// };
    /// let losses = (model.forward(&x)? - target)?.sqr()?.sum(1)?;
    /// pass.losses(&losses)?.backward()?;
    /// pass.commit(0.1)?;
    /// # drop(recorder);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "recording goes on when the guard is dropped"]
    pub fn pause(&self) -> Paused {
        self.shared.paused.fetch_add(1, Ordering::AcqRel);
        Paused { shared: self.shared.clone() }
    }

    /// Taps a layer of `gradlog::nn`. One without a trained variable is left alone.
    pub(super) fn register_built<L: Tap>(&self, name: &str, layer: L) -> Tapped<L> {
        let spec = match layer.spec() {
            Ok(spec) => spec,
            Err(reason) => {
                self.registry().problems.push(format!("layer `{name}`: {reason}"));
                return untapped(Arc::new(layer));
            }
        };
        if spec.parameters.iter().all(|parameter| !parameter.trained && !parameter.derived) {
            return untapped(Arc::new(layer));
        }
        let (layer, slot) = (Arc::new(layer), Arc::new(Slot::default()));
        self.registry().add_built(name, spec, slot.clone(), layer.clone());
        Tapped::new(layer, self.shared.clone(), slot)
    }

    fn register<L: Tap>(&self, name: String, layer: L, recording: Recording) -> Tapped<L> {
        let layer = Arc::new(layer);
        let slot = Arc::new(Slot::default());
        let mut registry = self.registry();
        match layer.spec() {
            Ok(spec) => registry.add(name, spec, slot.clone(), Some(layer.clone()), recording),
            Err(reason) => registry.problems.push(format!("layer `{name}`: {reason}")),
        }
        drop(registry);
        Tapped::new(layer, self.shared.clone(), slot)
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.shared.registry()
    }

    /// Takes the taps for one recorder, which sketches as `sketching` says. Returns `false` if another recorder holds
    /// them.
    pub(crate) fn acquire(&self, sketching: Sketching) -> bool {
        let free = !self.shared.held.swap(true, Ordering::AcqRel);
        if free {
            *self.shared.sketching.lock().unwrap_or_else(PoisonError::into_inner) = sketching;
        }
        free
    }

    /// Releases the taps for another recorder.
    pub(crate) fn release(&self) {
        self.disarm();
        self.shared.held.store(false, Ordering::Release);
    }

    /// Arms the taps for a pass with a new number.
    pub(crate) fn arm_next(&self) -> u64 {
        let pass = self.shared.passes.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.armed.store(pass, Ordering::Release);
        pass
    }

    /// Begins to watch the forward passes of a check. With `plain`, tapped layers run candle's own ops.
    pub(crate) fn begin_watch(&self, plain: bool) {
        self.shared.watch.begin(plain);
    }

    /// A catch for a forward pass outside of any pass. It catches nothing.
    pub(crate) fn unarmed_catch(&self) -> Catch {
        self.disarm();
        Catch::new(self.shared.clone(), Arc::new(Slot::default()))
    }

    /// Ends the watch. Returns the inputs of all tapped layers in the order of the forward pass.
    pub(crate) fn end_watch(&self) -> Vec<Seen> {
        self.shared.watch.end()
    }

    pub(crate) fn disarm(&self) {
        self.shared.armed.store(0, Ordering::Release);
    }
}
