//! The guard in the training thread: looks at the losses of each pass, and at its norms if a step may be left out.

use super::ahead::{known_norms, KnownNorms};
use super::found::{push_bounded, Found, FoundExample};
use super::losses::{Diverging, LossTrend};
use super::norms::RecentNorms;
use super::settings::{Guard, OnEvent};
use super::watch::find_large;
use crate::recorder::message::Batch;
use crate::taps::Registered;
use gradlog_format::log::{EventAction, EventKind};

/// Events that wait for a message to the background thread.
const WAITING_MAX: usize = 64;

/// The guard's state in the training thread.
#[derive(Debug)]
pub(in crate::recorder) struct TrainingGuard {
    guard: Guard,
    trend: Option<LossTrend>,
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
        let trend = guard.divergence.map(LossTrend::new);
        Self { guard, trend, norms: RecentNorms::default(), waiting: Vec::new() }
    }

    pub(in crate::recorder) fn tells_non_finite(&self) -> bool {
        self.guard.non_finite
    }

    /// Looks at a training pass before it is handed over. Marks a batch whose norms need no second look.
    pub(in crate::recorder) fn look(&mut self, batch: &mut Batch, layers: &[Registered], ends_step: bool) -> Opinion {
        let place = (batch.step, batch.epoch);
        let mut opinion = Opinion::default();
        if self.guard.non_finite {
            opinion.noticed.extend(find_wrong_losses(batch, place));
        }
        let leaves_out = match self.guard.on_event {
            OnEvent::GoOn => None,
            OnEvent::Skip => Some(EventAction::Skipped),
            OnEvent::Stop => Some(EventAction::Stopped),
        };
        let large = if leaves_out.is_some() { self.look_at_norms(batch, layers, place) } else { None };
        let diverging = self.look_at_losses(batch, ends_step).map(|Diverging { mean, limit, least }| Found {
            value: mean as f32,
            limit: limit as f32,
            reference: least as f32,
            ..Found::new(EventKind::Divergence, place)
        });
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

    fn look_at_losses(&mut self, batch: &Batch, ends_step: bool) -> Option<Diverging> {
        let trend = self.trend.as_mut()?;
        trend.add(counted(batch).map(|i| batch.outputs.loss[i]));
        if ends_step {
            trend.end_step()
        } else {
            None
        }
    }

    /// Forgets the losses of a step that nobody takes.
    pub(in crate::recorder) fn forget_step(&mut self) {
        if let Some(trend) = &mut self.trend {
            trend.forget_step();
        }
    }

    /// Keeps an event for the log until a message takes it along.
    pub(in crate::recorder) fn keep(&mut self, found: Found) {
        push_bounded(&mut self.waiting, WAITING_MAX, found);
    }
}

/// The examples that predict something and have a weight in the loss.
fn counted(batch: &Batch) -> impl Iterator<Item = usize> + '_ {
    let predicts =
        |i: usize| batch.outputs.positions.as_ref().is_none_or(|positions| positions.get(i).is_none_or(|n| *n > 0));
    let weighs = |i: usize| batch.coefficients.get(i).is_some_and(|c| *c != 0.0);
    (0..batch.outputs.loss.len()).filter(move |i| predicts(*i) && weighs(*i))
}

fn find_wrong_losses(batch: &Batch, place: (u64, u32)) -> Option<Found> {
    let mut found: Option<Found> = None;
    for i in counted(batch).filter(|i| !batch.outputs.loss[*i].is_finite()) {
        let Some(id) = batch.ids.get(i).copied() else { continue };
        let example = FoundExample { id, value: batch.outputs.loss[i], layer: None };
        found.get_or_insert_with(|| Found::new(EventKind::NonFiniteLoss, place)).add(example);
    }
    found
}
