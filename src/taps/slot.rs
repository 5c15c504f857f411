//! What a tap has caught. Forward and backward fill it; the recorder empties it at `commit`.

use super::gradient::FoldedGradients;
use super::shared_fold::LazyFold;
use candle_core::Tensor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one use of a layer in a pass leaves.
pub(crate) enum Captured {
    /// The input, and the gradient of the output.
    Use { x: Tensor, delta: Tensor },
    /// The folded per-example gradients.
    Folded(FoldedGradients),
}

/// What one tap has caught in the current pass.
#[derive(Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pass: u64,
    /// Number of uses by forward in this pass.
    uses: usize,
    /// Whether the examples of this pass have several positions.
    many: bool,
    caught: Vec<Captured>,
    fold: Option<Arc<LazyFold>>,
    /// The last pass whose backward reached a forward pass made outside it.
    strayed: u64,
}

/// What [`Slot::take`] returns.
pub(crate) struct Taken {
    pub uses: usize,
    /// Whether an example's gradient is a sum over positions or uses.
    pub sums: bool,
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

    /// Sets another projection, for a check. Returns the one before.
    pub(crate) fn replace_fold(&self, fold: Option<Arc<LazyFold>>) -> Option<Arc<LazyFold>> {
        std::mem::replace(&mut self.state().fold, fold)
    }

    /// Notes a forward pass in `pass`, with one position per example or with many.
    pub(crate) fn note_forward(&self, pass: u64, many: bool) {
        let mut state = self.state();
        if state.pass != pass {
            state.pass = pass;
            state.uses = 0;
            state.many = false;
            state.caught.clear();
        }
        state.uses += 1;
        state.many |= many;
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

    /// The projection, if backward may fold the gradients: forward used the layer once in `pass`. A layer that was used
    /// twice is folded later, when all its uses are known. Otherwise its norm would be wrong.
    pub(crate) fn find_fold(&self, pass: u64) -> Option<Arc<LazyFold>> {
        let state = self.state();
        (state.pass == pass && state.uses == 1).then(|| state.fold.clone()).flatten()
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
            return Taken { uses: 0, sums: false, caught: Vec::new() };
        }
        state.pass = 0;
        let uses = std::mem::take(&mut state.uses);
        Taken { uses, sums: state.many || uses > 1, caught: std::mem::take(&mut state.caught) }
    }
}
