//! What a tap has caught. Forward and backward fill it; the recorder empties it at `commit`.

use super::gradient::FoldedGradients;
use super::metric::NormMetric;
use super::on_device::DeviceSketch;
use super::shared_fold::LazyFold;
use candle_core::Tensor;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers all uses of all layers, so that layers can be put in the order of the forward pass.
static USES: AtomicU64 = AtomicU64::new(1);

/// What one use of a layer in a pass leaves.
pub(crate) enum Captured {
    /// The input, and the gradient of the output.
    Use { x: Tensor, delta: Tensor },
    /// The folded per-example gradients.
    Folded(FoldedGradients),
    /// Their sketches, on the device.
    Sketched(DeviceSketch),
}

/// What one tap has caught in the current pass.
#[derive(Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
    /// Whether the layer is frozen, so that nothing is caught.
    off: AtomicBool,
}

#[derive(Default)]
struct State {
    pass: u64,
    /// Number of uses by forward in this pass.
    uses: usize,
    /// Whether the examples of this pass have several positions.
    many: bool,
    /// The number of the last use.
    order: u64,
    /// Inputs without dimensions behind the first, which may be positions and no examples.
    flat: Vec<Tensor>,
    /// The second dimension of inputs that have one for positions.
    positions: Option<usize>,
    caught: Vec<Captured>,
    fold: Option<Arc<LazyFold>>,
    metric: Option<NormMetric>,
    /// The last pass whose backward reached a forward pass made outside it.
    strayed: u64,
}

/// What [`Slot::take`] returns.
#[derive(Default)]
pub(crate) struct Taken {
    pub uses: usize,
    /// Whether an example's gradient is a sum over positions or uses.
    pub sums: bool,
    /// The place of its last use in the order of the forward pass.
    pub order: u64,
    /// Inputs of one dimension that hold integers.
    pub flat: Vec<Tensor>,
    /// The second dimension of an input with positions.
    pub positions: Option<usize>,
    pub caught: Vec<Captured>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before the lock is released, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the projection for this layer's gradients. A recorder sets it when it starts.
    pub(crate) fn set_fold(&self, fold: Option<Arc<LazyFold>>) {
        self.state().fold = fold;
    }

    /// Sets the metric that norms of folded gradients are made in as well.
    pub(crate) fn set_metric(&self, metric: Option<NormMetric>) {
        self.state().metric = metric;
    }

    /// Sets another projection, for a check. Returns the one before.
    pub(crate) fn replace_fold(&self, fold: Option<Arc<LazyFold>>) -> Option<Arc<LazyFold>> {
        std::mem::replace(&mut self.state().fold, fold)
    }

    /// Says whether the layer is frozen. Nothing is caught of a frozen layer.
    pub(crate) fn set_off(&self, off: bool) {
        self.off.store(off, Ordering::Release);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    /// Notes a forward pass in `pass` with the input `x`, of one position per example or of many.
    pub(crate) fn note_forward(&self, pass: u64, many: bool, x: &Tensor) {
        let mut state = self.state();
        if state.pass != pass {
            state.pass = pass;
            state.uses = 0;
            state.many = false;
            state.flat.clear();
            state.positions = None;
            state.caught.clear();
        }
        state.uses += 1;
        state.many |= many;
        state.order = USES.fetch_add(1, Ordering::Relaxed);
        match *x.dims() {
            [_] if x.dtype().is_int() => state.flat.push(x.detach()),
            [_, positions] if x.dtype().is_int() => state.positions = Some(positions),
            [_, positions, _] => state.positions = Some(positions),
            _ => {}
        }
    }

    /// Number of uses in `pass`, and whether this layer's gradients are sums over positions or uses.
    pub(crate) fn count_uses(&self, pass: u64) -> (usize, bool) {
        let state = self.state();
        if state.pass == pass {
            (state.uses, state.many || state.uses > 1)
        } else {
            (0, false)
        }
    }

    /// The projection and the metric, if backward may fold the gradients: forward used the layer once in `pass`. A
    /// layer that was used twice is folded later, when all its uses are known. Otherwise its norm would be wrong.
    pub(crate) fn find_fold(&self, pass: u64) -> Option<(Arc<LazyFold>, Option<NormMetric>)> {
        let state = self.state();
        let fold = (state.pass == pass && state.uses == 1).then(|| state.fold.clone()).flatten()?;
        Some((fold, state.metric.clone()))
    }

    /// Stores what backward brought in `pass`. A backward pass of an older graph is ignored.
    pub(crate) fn store(&self, pass: u64, captured: Captured) {
        let mut state = self.state();
        if state.pass == pass {
            state.caught.push(captured);
        }
    }

    /// Notes that backward of `pass` reached a use of this layer that forward made outside the pass.
    pub(crate) fn note_stray(&self, pass: u64) {
        self.state().strayed = pass;
    }

    /// Whether backward of `pass` reached a use of this layer that forward made outside the pass.
    pub(crate) fn has_strayed(&self, pass: u64) -> bool {
        self.state().strayed == pass
    }

    /// Takes everything that `pass` has caught.
    pub(crate) fn take(&self, pass: u64) -> Taken {
        let mut state = self.state();
        if state.pass != pass {
            return Taken::default();
        }
        state.pass = 0;
        let uses = std::mem::take(&mut state.uses);
        Taken {
            uses,
            sums: state.many || uses > 1,
            order: state.order,
            flat: std::mem::take(&mut state.flat),
            positions: state.positions,
            caught: std::mem::take(&mut state.caught),
        }
    }
}
