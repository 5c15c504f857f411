//! What a tap has caught: filled by forward and backward, emptied by the recorder at `commit`.

use super::gradient::FoldedGradients;
use super::shared_fold::LazyFold;
use candle_core::Tensor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one use of a layer in a pass left behind.
pub(crate) enum Captured {
    /// The input and the gradient of the output, as they are.
    Use { x: Tensor, delta: Tensor },
    /// The per-example gradients, already folded.
    Folded(FoldedGradients),
}

/// One tap's mailbox.
#[derive(Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pass: u64,
    /// How often forward came by in this pass.
    reached: usize,
    /// Whether an example of this pass had several positions.
    many: bool,
    caught: Vec<Captured>,
    fold: Option<Arc<LazyFold>>,
}

/// What [`Slot::take`] found.
pub(crate) struct Taken {
    pub reached: usize,
    pub caught: Vec<Captured>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change below is complete before the lock is let go, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The projection for gradients of this layer; set when a recorder is created.
    pub(crate) fn set_fold(&self, fold: Option<Arc<LazyFold>>) {
        self.state().fold = fold;
    }

    /// Forward came by in `pass`, with one position per example or with many.
    pub(crate) fn reach(&self, pass: u64, many: bool) {
        let mut state = self.state();
        if state.pass != pass {
            state.pass = pass;
            state.reached = 0;
            state.many = false;
            state.caught.clear();
        }
        state.reached += 1;
        state.many |= many;
    }

    /// How often forward came by in `pass`, and whether the gradients of this layer are sums.
    pub(crate) fn reached(&self, pass: u64) -> (usize, bool) {
        let state = self.state();
        if state.pass == pass {
            (state.reached, state.many || state.reached > 1)
        } else {
            (0, false)
        }
    }

    /// The projection, if the gradients may be folded during backward: the layer was used once in `pass`.
    /// A layer used twice must be folded later, when all its uses are known, or its norm would be wrong.
    pub(crate) fn fold_for(&self, pass: u64) -> Option<Arc<LazyFold>> {
        let state = self.state();
        (state.pass == pass && state.reached == 1).then(|| state.fold.clone()).flatten()
    }

    /// Backward came by in `pass`. A backward pass of a graph from before is not ours to record.
    pub(crate) fn catch(&self, pass: u64, captured: Captured) {
        let mut state = self.state();
        if state.pass == pass {
            state.caught.push(captured);
        }
    }

    /// Empties the mailbox.
    pub(crate) fn take(&self, pass: u64) -> Taken {
        let mut state = self.state();
        if state.pass != pass {
            return Taken { reached: 0, caught: Vec::new() };
        }
        state.pass = 0;
        Taken { reached: std::mem::take(&mut state.reached), caught: std::mem::take(&mut state.caught) }
    }
}
