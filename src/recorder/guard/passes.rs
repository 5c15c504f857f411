//! The guard in the training thread: looks at losses that are in main memory, and at norms if a step may be left out.

use super::ahead::{known_norms, KnownNorms};
use super::found::{push_bounded, Found};
use super::norms::RecentNorms;
use super::seen_losses::SeenLosses;
use super::settings::{Guard, OnEvent};
use super::watch::find_large;
use crate::recorder::message::Batch;
use crate::taps::Registered;
use gradlog_format::log::EventAction;

/// Events that wait for a message to the background thread.
const WAITING_MAX: usize = 64;

/// The guard's state in the training thread.
#[derive(Debug)]
pub(in crate::recorder) struct TrainingGuard {
    guard: Guard,
    losses: SeenLosses,
    norms: RecentNorms,
    /// Events that the background thread has not got yet, for the log.
    pub waiting: Vec<Found>,
}

/// What the guard says of a pass.
#[derive(Debug, Default)]
pub(in crate::recorder) struct Opinion {
    /// What was noticed. The step is taken all the same.
    pub noticed: Vec<Found>,
    /// Why the step is left out.
    pub refused: Option<Found>,
}

impl TrainingGuard {
    pub(in crate::recorder) fn new(guard: Guard) -> Self {
        let losses = SeenLosses::new(&guard);
        Self { guard, losses, norms: RecentNorms::default(), waiting: Vec::new() }
    }

    /// Whether a step may be left out because of what the guard sees.
    pub(in crate::recorder) fn leaves_out_steps(&self) -> bool {
        self.guard.on_event != OnEvent::GoOn
    }

    pub(in crate::recorder) fn tells_non_finite(&self) -> bool {
        self.guard.non_finite
    }

    /// Looks at a training pass before it is handed over. Marks a batch whose norms need no second look.
    pub(in crate::recorder) fn look(&mut self, batch: &mut Batch, layers: &[Registered], ends_step: bool) -> Opinion {
        let place = (batch.step, batch.epoch);
        let mut opinion = Opinion::default();
        // Losses on a device are looked at where the background thread reads them.
        let (wrong, diverging) = match batch.unread {
            None => self.losses.look(batch, ends_step),
            Some(_) => (None, None),
        };
        opinion.noticed.extend(wrong);
        let leaves_out = match self.guard.on_event {
            OnEvent::GoOn => None,
            OnEvent::Skip => Some(EventAction::Skipped),
            OnEvent::Stop => Some(EventAction::Stopped),
        };
        let large = if leaves_out.is_some() { self.look_at_norms(batch, layers, place) } else { None };
        match leaves_out {
            None => opinion.noticed.extend(diverging),
            Some(action) => {
                let mut found = large.into_iter().chain(diverging).map(|found| Found { action, ..found });
                opinion.refused = found.next();
                opinion.noticed.extend(found);
            }
        }
        opinion
    }

    /// The examples with a large gradient, if the norms are known before the step.
    fn look_at_norms(&mut self, batch: &mut Batch, layers: &[Registered], place: (u64, u32)) -> Option<Found> {
        let times = self.guard.large_gradient?;
        // An error here comes again where the background thread makes the rows.
        let KnownNorms { norms, parts, are_whole, any } = known_norms(batch, layers).ok()?;
        batch.judged = are_whole && any;
        if !any {
            return None;
        }
        let found = find_large(&self.norms, times, place, norms.iter().copied().enumerate(), &batch.ids, &parts);
        norms.into_iter().for_each(|norm| self.norms.push(norm));
        found
    }

    /// Forgets the losses of a step that nobody takes.
    pub(in crate::recorder) fn forget_step(&mut self) {
        self.losses.forget_step();
    }

    /// Keeps an event for the log until a message takes it along.
    pub(in crate::recorder) fn keep(&mut self, found: Found) {
        push_bounded(&mut self.waiting, WAITING_MAX, found);
    }
}
