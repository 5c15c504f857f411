//! Where questions are answered: a few at a time, equal ones once, and the answers kept.
//!
//! A question is computed in the thread of the connection that asks it first. Others that ask the same wait for it.
//! There are two lanes, so that a long question does not hold up a short one. In each lane some questions run, some
//! wait in the order in which they came, and the next is refused. A question that nobody awaits any more leaves the
//! queue, or stops if it runs.

use super::limits::{ANSWERS_MAX, LONG_RUNNING_MAX, LONG_WAITING_MAX, QUICK_RUNNING_MAX, QUICK_WAITING_MAX};
use crate::output::Stop;
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a question takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// One read of small columns, or of what is in memory.
    Quick,
    /// Anything else.
    Long,
}

impl Lane {
    fn running_max(self) -> usize {
        match self {
            Lane::Quick => QUICK_RUNNING_MAX,
            Lane::Long => LONG_RUNNING_MAX,
        }
    }

    fn waiting_max(self) -> usize {
        match self {
            Lane::Quick => QUICK_WAITING_MAX,
            Lane::Long => LONG_WAITING_MAX,
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered<E> {
    /// Too many are waiting.
    Busy,
    /// The asker is gone.
    Gone,
    /// It could not be computed: a fault of the program.
    Panicked,
    /// What the computation says.
    Error(E),
}

/// What was computed: it and its size in bytes.
pub(crate) struct Kept<T> {
    pub value: T,
    pub bytes: usize,
}

/// Whether the client that asked is still there.
pub(crate) type IsAwaited = Arc<dyn Fn() -> bool + Send + Sync>;

type AnyValue = Arc<dyn Any + Send + Sync>;

enum Place {
    /// It is computed now. How many await it, without the one whose thread computes it.
    Running(Arc<AtomicUsize>),
    Answered {
        value: AnyValue,
        bytes: usize,
        used: u64,
    },
}

#[derive(Default)]
struct Line {
    running: usize,
    /// Questions that wait, and how many await each.
    waiting: VecDeque<(String, usize)>,
}

#[derive(Default)]
struct State {
    places: HashMap<String, Place>,
    lines: [Line; 2],
    bytes: usize,
    clock: u64,
}

/// The one place that knows what is asked now and what was answered.
pub(crate) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    bytes_max: usize,
}

/// An asker who awaits a question that another one's thread computes.
struct Awaiting(Arc<AtomicUsize>);

impl Awaiting {
    fn new(others: &Arc<AtomicUsize>) -> Self {
        others.fetch_add(1, Ordering::SeqCst);
        Self(others.clone())
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How often somebody who waits looks whether its asker is still there.
const LOOK: Duration = Duration::from_millis(250);

impl Desk {
    /// One that keeps answers of this many bytes together.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to the question of this name, computed if nobody has it. `is_awaited` says whether the asker is still
    /// there. `compute` is given what says that nobody awaits the answer any more: it then may end with an error.
    ///
    /// # Errors
    /// See [`Unanswered`]. An error is not kept: the next who asks gets a new answer.
    pub(crate) fn answer<T: Send + Sync + 'static, E>(
        &self,
        lane: Lane,
        name: &str,
        is_awaited: &IsAwaited,
        compute: impl FnOnce(&Stop) -> Result<Kept<T>, E>,
    ) -> Result<Arc<T>, Unanswered<E>> {
        let mut state = self.lock();
        let mut is_waiting = false;
        let mut awaiting: Option<Awaiting> = None;
        loop {
            match state.places.get(name) {
                Some(Place::Answered { .. }) => {
                    state.leave(lane, name, &mut is_waiting);
                    return state.take(name).ok_or(Unanswered::Panicked);
                }
                Some(Place::Running(others)) => {
                    if awaiting.as_ref().is_none_or(|awaiting| !Arc::ptr_eq(&awaiting.0, others)) {
                        awaiting = Some(Awaiting::new(others));
                    }
                    // Who waits for a running question takes no place in the queue.
                    state.leave(lane, name, &mut is_waiting);
                }
                None if state.may_run(lane, name) => {
                    state.remove_waiting(lane, name);
                    break;
                }
                None if !is_waiting => {
                    if !state.join(lane, name) {
                        return Err(Unanswered::Busy);
                    }
                    is_waiting = true;
                }
                // Another asker of this question took it out of the queue, and its answer failed. It joins again.
                None if !state.is_waiting(lane, name) => {
                    is_waiting = false;
                    continue;
                }
                None => {}
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            if !is_awaited() {
                state.leave(lane, name, &mut is_waiting);
                self.changed.notify_all();
                return Err(Unanswered::Gone);
            }
        }
        state.lines[lane as usize].running += 1;
        let others = Arc::new(AtomicUsize::new(0));
        state.places.insert(name.to_owned(), Place::Running(others.clone()));
        drop(state);
        let is_awaited = is_awaited.clone();
        let stop: Stop = Arc::new(move || others.load(Ordering::SeqCst) == 0 && !is_awaited());
        let computed = catch_unwind(AssertUnwindSafe(|| compute(&stop)));
        let mut state = self.lock();
        state.lines[lane as usize].running -= 1;
        state.places.remove(name);
        let outcome = match computed {
            Ok(Ok(Kept { value, bytes })) => {
                let value = Arc::new(value);
                state.keep(name, value.clone(), bytes, self.bytes_max);
                Ok(value)
            }
            Ok(Err(error)) => Err(Unanswered::Error(error)),
            Err(_) => Err(Unanswered::Panicked),
        };
        drop(state);
        self.changed.notify_all();
        outcome
    }
}

impl State {
    /// Whether a question may begin: there is room, and none that came earlier waits.
    fn may_run(&self, lane: Lane, name: &str) -> bool {
        let line = &self.lines[lane as usize];
        line.running < lane.running_max() && line.waiting.front().is_none_or(|(first, _)| first == name)
    }

    fn is_waiting(&self, lane: Lane, name: &str) -> bool {
        self.lines[lane as usize].waiting.iter().any(|(waiting, _)| waiting == name)
    }

    /// Joins the queue; `false` if it is full.
    fn join(&mut self, lane: Lane, name: &str) -> bool {
        let line = &mut self.lines[lane as usize];
        if let Some((_, askers)) = line.waiting.iter_mut().find(|(waiting, _)| waiting == name) {
            *askers += 1;
        } else if line.waiting.len() < lane.waiting_max() {
            line.waiting.push_back((name.to_owned(), 1));
        } else {
            return false;
        }
        true
    }

    fn remove_waiting(&mut self, lane: Lane, name: &str) {
        self.lines[lane as usize].waiting.retain(|(waiting, _)| waiting != name);
    }

    /// One asker less awaits the question.
    fn leave(&mut self, lane: Lane, name: &str, is_waiting: &mut bool) {
        if !std::mem::take(is_waiting) {
            return;
        }
        let line = &mut self.lines[lane as usize];
        if let Some((_, askers)) = line.waiting.iter_mut().find(|(waiting, _)| waiting == name) {
            *askers -= 1;
        }
        line.waiting.retain(|(_, askers)| *askers > 0);
    }

    /// The answer that is kept, which is now the last one used.
    fn take<T: Send + Sync + 'static>(&mut self, name: &str) -> Option<Arc<T>> {
        self.clock += 1;
        let now = self.clock;
        match self.places.get_mut(name)? {
            Place::Answered { value, used, .. } => {
                *used = now;
                value.clone().downcast().ok()
            }
            Place::Running(_) => None,
        }
    }

    /// Keeps an answer; those that were not used for longest make room. One that is larger than all room is not kept.
    fn keep(&mut self, name: &str, value: AnyValue, bytes: usize, bytes_max: usize) {
        let bytes = bytes + name.len() + 128;
        if bytes > bytes_max {
            return;
        }
        while self.bytes + bytes > bytes_max || self.places.len() >= ANSWERS_MAX {
            let answered = self.places.iter().filter_map(|(name, place)| match place {
                Place::Answered { used, .. } => Some((*used, name)),
                Place::Running(_) => None,
            });
            let Some(oldest) = answered.min().map(|(_, name)| name.clone()) else { return };
            if let Some(Place::Answered { bytes, .. }) = self.places.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
        self.clock += 1;
        self.bytes += bytes;
        self.places.insert(name.to_owned(), Place::Answered { value, bytes, used: self.clock });
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
