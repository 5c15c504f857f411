//! What a check sees of a forward pass: the inputs of the tapped layers, in order.

use super::slot::Slot;
use candle_core::Tensor;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const OFF: u8 = 0;
const ON: u8 = 1;
/// Tapped layers run candle's own ops, so that these can be compared with the fused ones.
const PLAIN: u8 = 2;

/// The input of one use of a tapped layer.
pub(crate) struct Seen {
    pub slot: Arc<Slot>,
    pub input: Tensor,
}

/// Watches forward passes while a check runs.
#[derive(Default)]
pub(super) struct Watch {
    mode: AtomicU8,
    seen: Mutex<Vec<Seen>>,
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        // The list only grows, so it is whole even if a thread panicked while it held the lock.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, plain: bool) {
        self.seen().clear();
        self.mode.store(if plain { PLAIN } else { ON }, Ordering::Release);
    }

    pub(super) fn end(&self) -> Vec<Seen> {
        self.mode.store(OFF, Ordering::Release);
        std::mem::take(&mut *self.seen())
    }

    pub(super) fn is_on(&self) -> bool {
        self.mode.load(Ordering::Acquire) != OFF
    }

    pub(super) fn is_plain(&self) -> bool {
        self.mode.load(Ordering::Acquire) == PLAIN
    }

    pub(super) fn note_input(&self, slot: &Arc<Slot>, x: &Tensor) {
        self.seen().push(Seen { slot: slot.clone(), input: x.detach() });
    }
}
