//! Looks at the gradient norms of a pass where the background thread has made them, and at losses of a device where it
//! has read them.

use super::found::{Found, FoundExample};
use super::norms::RecentNorms;
use super::parts::LargestParts;
use super::seen_losses::SeenLosses;
use super::settings::Guard;
use crate::recorder::message::Batch;
use crate::taps::SquaredNorms;
use gradlog_format::log::{Column, EventKind};

/// The rows of a training pass, as they go to the log.
pub(in crate::recorder) struct PassRows<'a> {
    pub place: (u64, u32),
    pub ids: &'a [u64],
    pub losses: &'a [f32],
    pub flags: &'a [u8],
    /// Whether the norms were looked at before the step.
    pub judged: bool,
}

/// The watch of the background thread.
#[derive(Debug)]
pub(in crate::recorder) struct NormWatch {
    guard: Guard,
    norms: RecentNorms,
    /// Losses that the training thread has not seen.
    losses: SeenLosses,
    /// Each example's squared norm, and the layer with its largest part, while a pass is made into rows.
    pub squared: Vec<SquaredNorms>,
    pub parts: LargestParts,
    /// What is new.
    pub found: Vec<Found>,
}

impl NormWatch {
    pub(in crate::recorder) fn new(guard: Guard) -> Self {
        let (norms, squared, parts, found) = Default::default();
        Self { losses: SeenLosses::new(&guard), guard, norms, squared, parts, found }
    }

    /// Looks at the losses of a training pass that were on a device until now.
    pub(in crate::recorder) fn look_at_losses(&mut self, batch: &Batch, ends_step: bool) {
        let (wrong, diverging) = self.losses.look(batch, ends_step);
        self.found.extend(wrong.into_iter().chain(diverging));
    }

    /// Forgets the losses of a step that nobody takes.
    pub(in crate::recorder) fn forget_step(&mut self) {
        self.losses.forget_step();
    }

    /// Looks at a pass whose norms are in [`NormWatch::squared`].
    pub(in crate::recorder) fn look(&mut self, rows: &PassRows<'_>) {
        if self.guard.non_finite {
            self.look_for_non_finite(rows);
        }
        let Some(times) = self.guard.large_gradient.filter(|_| !rows.judged) else { return };
        let known = |i: &usize| rows.flags.get(*i).is_some_and(|flags| flags & UNKNOWN == 0);
        let norms = || self.squared.iter().map(|norms| norms.plain.sqrt() as f32).enumerate().filter(|(i, _)| known(i));
        let found = find_large(&self.norms, times, rows.place, norms(), rows.ids, &self.parts);
        norms().for_each(|(_, norm)| self.norms.push(norm));
        self.found.extend(found);
    }

    /// Gradients that are not finite, of examples whose loss is.
    fn look_for_non_finite(&mut self, rows: &PassRows<'_>) {
        let mut found = Found::new(EventKind::NonFiniteGradient, rows.place);
        for (i, squared) in self.squared.iter().map(|norms| norms.plain).enumerate() {
            let flags = rows.flags.get(i).copied().unwrap_or(0);
            let is_wrong = !squared.is_finite() || flags & Column::FLAG_NOT_FINITE != 0;
            let has_loss = rows.losses.get(i).is_some_and(|loss| loss.is_finite());
            if let (true, true, Some(id)) = (is_wrong, has_loss, rows.ids.get(i)) {
                let layer = self.parts.layer(i).filter(|_| !squared.is_finite());
                found.add(FoundExample { id: *id, value: squared.sqrt() as f32, layer });
            }
        }
        if !found.examples.is_empty() {
            self.found.push(found);
        }
    }
}

/// Flags of rows whose norm says nothing.
const UNKNOWN: u8 = Column::FLAG_NOT_FINITE | Column::FLAG_NO_WEIGHT;

/// The examples of a pass whose gradient is large beside those before the pass.
pub(super) fn find_large(
    recent: &RecentNorms,
    times: f64,
    place: (u64, u32),
    norms: impl Iterator<Item = (usize, f32)>,
    ids: &[u64],
    parts: &LargestParts,
) -> Option<Found> {
    let (percentile, limit) = recent.limit(times)?;
    let mut found: Option<Found> = None;
    for (i, norm) in norms.filter(|(_, norm)| *norm > limit && norm.is_finite()) {
        let Some(id) = ids.get(i).copied() else { continue };
        let none = || Found { limit, reference: percentile, ..Found::new(EventKind::LargeGradient, place) };
        found.get_or_insert_with(none).add(FoundExample { id, value: norm, layer: parts.layer(i) });
    }
    found
}
