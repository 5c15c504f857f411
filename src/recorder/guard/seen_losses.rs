//! What the losses of a training say: those that are not finite, and whether they diverge. The training thread looks at
//! losses in main memory, and the background thread at those of a device.

use super::found::{Found, FoundExample};
use super::losses::{Diverging, LossTrend};
use super::settings::Guard;
use crate::recorder::message::Batch;
use gradlog_format::log::EventKind;

/// The losses of the steps so far.
#[derive(Debug)]
pub(super) struct SeenLosses {
    non_finite: bool,
    trend: Option<LossTrend>,
    /// The open step.
    step: u64,
}

impl SeenLosses {
    pub(super) fn new(guard: &Guard) -> Self {
        Self { non_finite: guard.non_finite, trend: guard.divergence.map(LossTrend::new), step: 0 }
    }

    /// Looks at the losses of a training pass: those that are not finite, and a divergence.
    pub(super) fn look(&mut self, batch: &Batch, ends_step: bool) -> (Option<Found>, Option<Found>) {
        let place = (batch.step, batch.epoch);
        let wrong = if self.non_finite { find_wrong_losses(batch, place) } else { None };
        let Some(trend) = &mut self.trend else { return (wrong, None) };
        if self.step != batch.step {
            // The last pass of an earlier step was not recorded.
            trend.forget_step();
            self.step = batch.step;
        }
        trend.add(counted(batch).map(|i| batch.outputs.loss[i]));
        let diverging = if ends_step { trend.end_step() } else { None };
        let diverging = diverging.map(|Diverging { mean, limit, least }| Found {
            value: mean as f32,
            limit: limit as f32,
            reference: least as f32,
            ..Found::new(EventKind::Divergence, place)
        });
        (wrong, diverging)
    }

    /// Forgets the losses of a step that nobody takes.
    pub(super) fn forget_step(&mut self) {
        if let Some(trend) = &mut self.trend {
            trend.forget_step();
        }
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
