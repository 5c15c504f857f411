//! A tapped layer.

use super::catch::{Catch, Passes};
use super::slot::Slot;
use super::tap::Tap;
use super::watch::Watch;
use candle_core::{Module, Result, Tensor};
use std::sync::Arc;

/// A tapped layer: a `Module` that computes what the plain layer computes. [`Taps::tap`](super::Taps::tap) makes it.
///
/// [`Tapped::inner`] has the layer itself. A forward pass through that is not recorded, so a tapped layer does not
/// dereference to it. A clone shares layer and tap.
pub struct Tapped<L> {
    layer: Arc<L>,
    passes: Arc<dyn Passes>,
    slot: Arc<Slot>,
}

impl<L> Tapped<L> {
    pub(super) fn new(layer: Arc<L>, passes: Arc<dyn Passes>, slot: Arc<Slot>) -> Self {
        Self { layer, passes, slot }
    }

    /// Whether a check wants candle's own ops.
    pub(super) fn runs_plain(&self) -> bool {
        self.passes.watch().is_some_and(Watch::is_plain)
    }

    /// The layer without the tap, for its weights and settings.
    pub fn inner(&self) -> &L {
        &self.layer
    }
}

impl<L> AsRef<L> for Tapped<L> {
    fn as_ref(&self) -> &L {
        self.inner()
    }
}

impl<L> Clone for Tapped<L> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), passes: self.passes.clone(), slot: self.slot.clone() }
    }
}

/// Prints the layer's type, so that a model of tapped layers can derive `Debug`.
impl<L> std::fmt::Debug for Tapped<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tapped").field(&format_args!("{}", std::any::type_name::<L>())).finish()
    }
}

/// Whether candle's own ops give the layer's gradient. Those of a convolution do not: some are wrong, some are an error
/// (docs/candle-faults.md, 4 to 6). Transposed convolutions are composed of sound ops where candle's own are not.
pub(crate) fn has_sound_backward(layer: &dyn Tap) -> bool {
    !layer.spec().is_ok_and(|spec| matches!(spec.kind, "conv1d" | "conv2d"))
}

impl<L: Tap> Tapped<L> {
    /// Catches one use of the layer, for an op that does more than the layer.
    pub(super) fn catch(&self) -> Catch {
        Catch::new(self.passes.clone(), self.slot.clone()).of_layer(self.layer.clone())
    }
}

impl<L: Tap> Module for Tapped<L> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let catch = self.catch();
        if self.runs_plain() && has_sound_backward(&*self.layer) {
            return catch.output(x, self.layer.plain_forward(x)?);
        }
        self.layer.tapped_forward(x, &catch)
    }
}
