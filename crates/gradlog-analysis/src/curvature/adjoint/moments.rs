//! Adam's moments after each step, made of the recorded visits.
//!
//! The gradient of a step is the weighted sum over its visits, `G = clip·Σ c_i g_i`. So the log holds what the moments
//! were made of, and they are made again: `m ← β₁m + (1−β₁)G`, `v ← β₂v + (1−β₂)G²`, from 0 at the optimizer's first
//! step. A number of a folded vector stands for several parameters. It holds the sum of their gradients with random
//! signs, so its `v` estimates the sum of their second moments.
//!
//! A walk backwards needs them in the other order. They are kept at the first step of each segment, and a segment is
//! made again when the walk comes to it.

use crate::curvature::subject::Subject;
use crate::rows::adam_steps::{AdamStep, AdamSteps};
use crate::rows::driver::blocks_in_flight;
use crate::rows::gradient::Gradients;
use crate::vectors::walk::{Rows, Walk, TILE_ROWS};
use crate::{AnalysisError, Window};
use gradlog_format::run::Block;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// What the adjoint of a step of Adam needs of it: of each block, numbers of a flat vector.
#[derive(Debug, Clone, Default)]
pub(super) struct StepMoments {
    /// The gradient `G` of the step.
    pub gradient: Vec<Vec<f32>>,
    /// The first moment `m` after the step, without bias correction.
    pub first: Vec<Vec<f32>>,
    /// The second moment `v` after the step, without bias correction.
    pub second: Vec<Vec<f32>>,
}

/// The moments at the beginning of a segment.
type State = (Vec<Vec<f64>>, Vec<Vec<f64>>);

/// The moments of all steps before the walk's first, segment by segment.
pub(in crate::curvature) struct Moments {
    steps: BTreeMap<u64, AdamStep>,
    /// The first step of each segment, with the moments before it.
    segments: BTreeMap<u64, State>,
    /// Steps of one segment, with what was made of them.
    at: Range<u64>,
    made: BTreeMap<u64, StepMoments>,
    /// Steps without a visit: their gradient is taken as 0.
    pub steps_without_visits: u64,
}

impl Moments {
    /// The most bytes of the steps of a segment, unless its square root of all steps takes more. Tests have short
    /// segments.
    const SEGMENT_BYTES_MAX: usize = if cfg!(test) { 2048 } else { 256 << 20 };

    /// The most bytes of a segment, and of the moments that are kept for all of them.
    const BYTES_MAX: usize = 2 << 30;

    /// Walks forwards over the visits of `blocks` before step `end`.
    ///
    /// # Errors
    /// [`AnalysisError::OutOfRange`] if the moments before the first recorded step are not known;
    /// [`AnalysisError::TooLarge`] if the moments at the beginnings of the segments take more than their bound.
    pub(in crate::curvature) fn read(
        subject: &Subject<'_>,
        blocks: &[Block],
        steps: &AdamSteps,
        end: u64,
    ) -> Result<Self, AnalysisError> {
        let steps: BTreeMap<u64, AdamStep> = steps.0.range(..end).map(|(number, step)| (*number, *step)).collect();
        check_counts(&steps)?;
        let numbers = subject.flattener.length().max(1);
        let of_step = 3 * 4 * numbers;
        let count = steps.len().max(1);
        // As few segments as fit, and at least so long that what is kept takes no more than one.
        let longest = (Self::SEGMENT_BYTES_MAX / of_step).max((count as f64).sqrt().ceil() as usize).max(1);
        let kept = count.div_ceil(longest).saturating_mul(2 * 8 * numbers);
        if kept.max(longest.min(count).saturating_mul(of_step)) > Self::BYTES_MAX {
            return Err(AnalysisError::TooLarge {
                what: format!("the moments of {count} steps of {numbers} numbers"),
                limit: Self::BYTES_MAX as u64,
                how: "ask for shorter vectors",
            });
        }
        let numbers: Vec<u64> = steps.keys().copied().collect();
        let zeros = || subject.flattener.blocks.iter().map(|block| vec![0f64; block.width]).collect::<Vec<_>>();
        let mut state: State = (zeros(), zeros());
        let mut moments =
            Self { steps, segments: BTreeMap::new(), at: 0..0, made: BTreeMap::new(), steps_without_visits: 0 };
        for segment in numbers.chunks(longest) {
            let (Some(first), Some(last)) = (segment.first(), segment.last()) else { continue };
            moments.segments.insert(*first, state.clone());
            let (made, after, empty) = moments.make(subject, blocks, *first..last + 1, state)?;
            (moments.at, moments.made, state) = (*first..last + 1, made, after);
            moments.steps_without_visits += empty;
        }
        Ok(moments)
    }

    /// The settings of a step, and its moments. `None` if the log has no row of the step.
    pub(super) fn at(
        &mut self,
        subject: &Subject<'_>,
        blocks: &[Block],
        step: u64,
    ) -> Result<Option<(AdamStep, &StepMoments)>, AnalysisError> {
        let Some(told) = self.steps.get(&step).copied() else { return Ok(None) };
        if !self.at.contains(&step) {
            let Some((&first, state)) = self.segments.range(..=step).next_back() else { return Ok(None) };
            let end = self.segments.range(step + 1..).next().map_or(u64::MAX, |(next, _)| *next);
            let (made, _, _) = self.make(subject, blocks, first..end, state.clone())?;
            (self.at, self.made) = (first..end, made);
        }
        Ok(self.made.get(&step).map(|made| (told, made)))
    }

    /// How many steps of the optimizer lie between the row of a step and the row before it: more than 1 if rows of
    /// steps are lost.
    pub(super) fn steps_passed(&self, number: u64) -> u64 {
        let before = self.steps.range(..number).next_back().map_or(0, |(_, step)| step.taken);
        self.steps.get(&number).map_or(1, |step| step.taken.saturating_sub(before)).max(1)
    }

    /// The moments of some steps, those after the last of them, and how many of them have no visit.
    fn make(
        &self,
        subject: &Subject<'_>,
        blocks: &[Block],
        steps: Range<u64>,
        (mut first, mut second): State,
    ) -> Result<(BTreeMap<u64, StepMoments>, State, u64), AnalysisError> {
        let mut gradients = read_gradients(subject, blocks, &steps)?;
        let (mut made, mut empty) = (BTreeMap::new(), 0);
        for (number, step) in self.steps.range(steps) {
            let passed = self.steps_passed(*number);
            if step.taken == 1 {
                first.iter_mut().chain(&mut second).flatten().for_each(|moment| *moment = 0.0);
            } else if passed > 1 {
                empty += passed - 1;
                let (of_first, of_second) = (power(step.beta1, passed - 1), power(step.beta2, passed - 1));
                first.iter_mut().flatten().for_each(|moment| *moment *= of_first);
                second.iter_mut().flatten().for_each(|moment| *moment *= of_second);
            }
            let gradient = gradients.remove(number).unwrap_or_else(|| {
                empty += 1;
                first.iter().map(|block| vec![0f32; block.len()]).collect()
            });
            let (beta1, beta2) = (step.beta1, step.beta2);
            for ((m, v), g) in
                first.iter_mut().flatten().zip(second.iter_mut().flatten()).zip(gradient.iter().flatten())
            {
                let g = f64::from(*g);
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
            }
            let narrow = |moments: &Vec<Vec<f64>>| -> Vec<Vec<f32>> {
                moments.iter().map(|block| block.iter().map(|moment| *moment as f32).collect()).collect()
            };
            made.insert(*number, StepMoments { gradient, first: narrow(&first), second: narrow(&second) });
        }
        Ok((made, (first, second), empty))
    }
}

/// `beta` to the power of a number of steps.
pub(super) fn power(beta: f64, steps: u64) -> f64 {
    beta.powi(i32::try_from(steps).unwrap_or(i32::MAX))
}

/// The gradients of some steps: `clip·Σ c_i g_i` over the usable visits, inside the window or not.
fn read_gradients(
    subject: &Subject<'_>,
    blocks: &[Block],
    steps: &Range<u64>,
) -> Result<BTreeMap<u64, Vec<Vec<f32>>>, AnalysisError> {
    let everything = Window::everything();
    let walk = Walk { window: &everything, ..subject.walk() };
    let touches = |block: &&Block| block.steps().0 < steps.end && block.steps().1 >= steps.start;
    let blocks: Vec<&Block> = blocks.iter().filter(touches).collect();
    let mut sums: BTreeMap<u64, Vec<Vec<f32>>> = BTreeMap::new();
    for group in blocks.chunks(blocks_in_flight()) {
        type ReadBlock = Result<(Rows<()>, Option<Gradients>), AnalysisError>;
        let read_one = |block: &&Block| -> ReadBlock {
            let rows = walk.read::<()>(block)?;
            let is_read = !rows.visits.is_empty();
            let gradients = is_read.then(|| Gradients::read(block, &walk.flattener.layout)).transpose()?;
            Ok((rows, gradients))
        };
        let read: Vec<ReadBlock> = group.par_iter().map(read_one).collect();
        for read in read {
            let (rows, gradients) = read?;
            let Some(gradients) = gradients else { continue };
            let inside = |row: &usize| rows.visits[*row].usable && steps.contains(&rows.visits[*row].step);
            let usable: Vec<usize> = (0..rows.visits.len()).filter(inside).collect();
            for tile in usable.chunks(TILE_ROWS) {
                let flat = walk.flattener.flatten(&gradients, tile);
                for (place, row) in tile.iter().enumerate() {
                    let visit = &rows.visits[*row];
                    let weight = visit.clip * visit.coefficient;
                    let zeros = || walk.flattener.blocks.iter().map(|block| vec![0f32; block.width]).collect();
                    let sum = sums.entry(visit.step).or_insert_with(zeros);
                    for ((sum, values), about) in sum.iter_mut().zip(&flat.blocks).zip(&walk.flattener.blocks) {
                        let own = &values[place * about.width..(place + 1) * about.width];
                        sum.iter_mut().zip(own).for_each(|(sum, value)| *sum += weight * value);
                    }
                }
            }
        }
    }
    Ok(sums)
}

/// The moments begin at 0 with a step that is the optimizer's first, and are known from then on.
fn check_counts(steps: &BTreeMap<u64, AdamStep>) -> Result<(), AnalysisError> {
    let mut before: Option<u64> = None;
    for (number, step) in steps {
        let goes_on = before.is_some_and(|before| step.taken > before);
        if step.taken != 1 && !goes_on {
            let given = match before {
                None => format!("{} at the first recorded step, {number}", step.taken),
                Some(before) => format!("{} at step {number}, after {before}", step.taken),
            };
            return Err(AnalysisError::OutOfRange {
                what: "the optimizer's count of its steps",
                given,
                range:
                    "1 at the first recorded step and rising: earlier moments are in no recorded visit, so take TracIn"
                        .into(),
            });
        }
        before = Some(step.taken);
    }
    Ok(())
}
