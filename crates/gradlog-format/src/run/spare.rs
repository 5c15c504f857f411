//! Buffers that a thread uses again.
//!
//! A column of vectors is megabytes long. A fresh buffer of that length comes from the system, page by page, and every
//! page costs a fault and is filled with zeros. That took a third of the time of a question about one probe.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// A thread keeps at most so many bytes.
const KEPT_MAX: usize = 16 << 20;
/// Shorter buffers are not worth keeping.
const KEPT_MIN: usize = 1 << 14;
/// A buffer is used again for at least this part of its length, so that what holds it holds little more than it needs.
const PART_MIN: usize = 4;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of bytes. The thread that drops it keeps its memory for the next.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    /// Longer than asked for, if it was longer before: to cut it and make it longer again would clear it.
    buffer: Vec<u8>,
    length: usize,
}

impl Spare {
    /// A buffer of `length` bytes, which may be anything.
    pub(crate) fn new(length: usize) -> Self {
        let may_hold = length..=length.saturating_mul(PART_MIN);
        let take = |kept: &mut Vec<Vec<u8>>| {
            let fitting = kept.iter().enumerate().filter(|(_, buffer)| may_hold.contains(&buffer.len()));
            let best = fitting.min_by_key(|(_, buffer)| buffer.len()).map(|(place, _)| place)?;
            Some(kept.swap_remove(best))
        };
        // A thread that ends may have lost its buffers already.
        let kept = KEPT.try_with(|kept| take(&mut kept.borrow_mut())).ok().flatten();
        Self { buffer: kept.unwrap_or_else(|| vec![0; length]), length }
    }

    /// Cuts it to its first `length` bytes.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl From<Vec<u8>> for Spare {
    fn from(buffer: Vec<u8>) -> Self {
        let length = buffer.len();
        Self { buffer, length }
    }
}

impl Clone for Spare {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl Deref for Spare {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl DerefMut for Spare {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.length]
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.len() < KEPT_MIN {
            return;
        }
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let held: usize = kept.iter().map(Vec::len).sum();
            if held + buffer.len() <= KEPT_MAX {
                kept.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> usize {
        KEPT.with(|kept| kept.borrow().iter().map(Vec::len).sum())
    }

    /// Runs `test` where no other test has kept buffers.
    fn on_a_thread(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(test).join().unwrap());
    }

    #[test]
    fn a_dropped_buffer_is_the_next_one_of_at_most_its_length() {
        on_a_thread(|| {
            let mut first = Spare::new(100_000);
            first.fill(7);
            let place = first.as_ptr();
            drop(first);
            let longer = Spare::new(200_000);
            assert_ne!(longer.as_ptr(), place);
            let again = Spare::new(50_000);
            assert_eq!((again.as_ptr(), again.len()), (place, 50_000));
            assert_eq!(held(), 0);
        });
    }

    #[test]
    fn a_thread_keeps_no_more_than_it_says() {
        on_a_thread(|| {
            let all: Vec<Spare> = (0..40).map(|_| Spare::new(1 << 20)).collect();
            drop(all);
            assert_eq!(held(), KEPT_MAX);
            drop(Spare::new(KEPT_MAX + 1));
            assert_eq!(held(), KEPT_MAX);
            let short = Spare::new(KEPT_MIN / 2);
            assert_eq!(held(), KEPT_MAX, "a short buffer does not take a long one");
            drop(short);
            assert_eq!(held(), KEPT_MAX);
        });
    }
}
