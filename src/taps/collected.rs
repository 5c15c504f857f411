//! Layers that tap themselves: those of `gradlog::nn` that are built inside [`Taps::collect`].
//!
//! Only constructors look at the list of the building thread. A forward pass uses the handle that its layer holds, so
//! it may run on any thread.

use super::catch::Passes;
use super::model::Taps;
use super::registry::{Presence, Registered};
use super::slot::Slot;
use super::tap::Tap;
use super::tapped::Tapped;
use super::watch::Watch;
use candle_core::Device;
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

thread_local! {
    /// The taps that collect on this thread, the innermost last.
    static COLLECTING: RefCell<Vec<Taps>> = const { RefCell::new(Vec::new()) };
}

/// Ends a collection, also after a panic in the model's constructor.
struct Collecting;

impl Drop for Collecting {
    fn drop(&mut self) {
        COLLECTING.with_borrow_mut(Vec::pop);
    }
}

impl Taps {
    /// Builds a model of [`gradlog::nn`](crate::nn) layers, and taps every layer that `build` makes.
    ///
    /// A layer's name is the path of its `VarBuilder`. A layer made from tensors (`Linear::new`) is named after its
    /// variable if the model is declared ([`Taps::declare_model`]), and otherwise after its kind. A name that is taken
    /// gets a number. Layers without a trained variable are not tapped.
    ///
    /// Layers must be built on the calling thread. Those that `build` makes on other threads are not tapped.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use gradlog::nn::{linear, Linear, VarBuilder, VarMap};
    /// use gradlog::Taps;
    ///
    /// struct Model {
    ///     fc1: Linear,
    ///     fc2: Linear,
    /// }
    ///
    /// impl Model {
    ///     fn new(vb: VarBuilder) -> candle_core::Result<Self> {
    ///         Ok(Self { fc1: linear(4, 8, vb.pp("fc1"))?, fc2: linear(8, 3, vb.pp("fc2"))? })
    ///     }
    /// }
    ///
    /// let variables = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    /// let (model, taps) = Taps::collect(|| Model::new(vb))?;
    /// assert_eq!(format!("{taps:?}"), r#"Taps { layers: ["fc1", "fc2"], .. }"#);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The error of `build`.
    pub fn collect<M, E>(build: impl FnOnce() -> Result<M, E>) -> Result<(M, Self), E> {
        let taps = Self::new();
        taps.registry().collected = true;
        let model = taps.collect_more(build)?;
        Ok((model, taps))
    }

    /// As [`Taps::collect`], for a part of a model. The layers are added to these taps.
    ///
    /// # Errors
    /// The error of `build`. Layers made before it stay tapped.
    pub fn collect_more<M, E>(&self, build: impl FnOnce() -> Result<M, E>) -> Result<M, E> {
        COLLECTING.with_borrow_mut(|collecting| collecting.push(self.clone()));
        let _collecting = Collecting;
        build()
    }

    /// Lets a pass leave out the layer `path` and all layers below it, as [`Taps::tap_optional`] does for one layer.
    ///
    /// `path` is that of a `VarBuilder`: `decoder` means `decoder` itself and `decoder.fc`, not `decoder2`. An empty
    /// path means all layers. [`Recorder::create`](crate::Recorder::create) refuses a path without layers.
    pub fn make_optional(&self, path: &str) {
        self.change_below(path, |layer| layer.presence = Presence::Optional);
    }

    /// Records the layer `path` and all layers below it as sums over positions, as [`Taps::tap_folded`] does for one
    /// layer. Only linear layers can be recorded otherwise.
    pub fn make_folded(&self, path: &str) {
        self.change_below(path, |layer| layer.folded = true);
    }

    fn change_below(&self, path: &str, change: impl Fn(&mut Registered)) {
        let mut registry = self.registry();
        let below = |name: &str| match name.strip_prefix(path) {
            Some(rest) => path.is_empty() || rest.is_empty() || rest.starts_with('.'),
            None => false,
        };
        let mut changed = 0;
        for layer in registry.layers.iter_mut().filter(|layer| below(&layer.name)) {
            change(layer);
            changed += 1;
        }
        if changed == 0 {
            let names: Vec<String> = registry.layers.iter().map(|layer| format!("`{}`", layer.name)).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            registry.problems.push(format!("no layer is at the path `{path}`; the tapped layers are: {names}"));
        }
    }
}

/// The taps that collect the layers built on this thread now.
pub(crate) fn collecting() -> Option<Taps> {
    COLLECTING.with_borrow(|collecting| collecting.last().cloned())
}

/// Taps `layer` under `name` if taps are collecting. Otherwise the layer runs as fast and is never recorded. An empty
/// name stands for that of the layer's variable.
pub(crate) fn tap_built<L: Tap>(name: &str, layer: L) -> Tapped<L> {
    match collecting() {
        Some(taps) => taps.register_built(name, layer),
        None => untapped(Arc::new(layer)),
    }
}

/// A layer that no taps know.
pub(super) fn untapped<L>(layer: Arc<L>) -> Tapped<L> {
    Tapped::new(layer, never_armed(), Arc::new(Slot::default()))
}

/// What a layer without taps asks in their place.
pub(super) fn never_armed() -> Arc<dyn Passes> {
    static NEVER: LazyLock<Arc<dyn Passes>> = LazyLock::new(|| Arc::new(Never));
    NEVER.clone()
}

/// No pass is ever armed.
struct Never;

impl Passes for Never {
    fn armed_pass(&self) -> u64 {
        0
    }

    fn is_paused(&self) -> bool {
        false
    }

    fn is_fused(&self) -> bool {
        true
    }

    fn sketches_on(&self, _: &Device) -> bool {
        false
    }

    fn folded_parameters(&self, _pass: u64) -> u64 {
        0
    }

    fn watch(&self) -> Option<&Watch> {
        None
    }
}
