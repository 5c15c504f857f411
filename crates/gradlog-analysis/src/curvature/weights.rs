//! How much each visit weighs in the objective that the training minimizes.
//!
//! The objective is `(1/N) Σ_i w_i ℓ_i`, with a mean of 1 over the weights. A visit weighs `κ = c·B`: its coefficient
//! in the differentiated loss, times the visits of its step. So an example of a short last batch, whose mean has a
//! larger `1/B`, weighs no more than others. The weight `w_i` is the sum of `κ` over the visits of `i`, relative to
//! the mean of these sums: it counts the weights of the loss, and how often an example was drawn.
//!
//! For a loss that is a sum over its batch, `κ = c`. Two signs show such a loss: all coefficients are equal, although
//! batch sizes differ; or the coefficients of one example do not fall with `1/B`, so that the slope of `ln |c|` over
//! `ln B` is not −1. If all batches have one size, both rules give the same weights. Without a sign, the loss counts as
//! a mean.

use crate::rows::driver::fold_each;
use crate::vectors::walk::Visit;
use crate::Progress;
use crate::{rows::column, AnalysisError, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, ReadError, Run};
use std::collections::HashMap;

/// Weights that differ by less are equal: f32 rounds `1/B`.
const EQUAL: f64 = 1e-5;

/// The weight of each visit inside a window.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// Visits of each step; empty if `κ = c`.
    batches: HashMap<u64, f64>,
    /// The least and the largest `κ` of a visit, relative to the mean; `None` if all weigh the same.
    range: Option<(f64, f64)>,
    /// Of each example, the mean of `κ` over its visits, relative to that over all visits; empty if all weigh the
    /// same.
    examples: HashMap<u64, f64>,
    /// The fewest and the most visits of an example.
    visits: (u64, u64),
    has_negative: bool,
}

/// Step, example and coefficient of each visit inside the window.
type Rows = Vec<(u64, u64, f32)>;

fn read_visits(block: &Block, window: &Window) -> Result<Rows, AnalysisError> {
    let inside = window.rows_inside(block)?;
    let steps = inside.select(column::u64s(block, Column::Step)?);
    let examples = inside.select(column::u64s(block, Column::Example)?);
    let coefficients = match column::optional(block, Column::Coefficient, column::f32s)? {
        Some(coefficients) => inside.select(coefficients),
        None => vec![1.0; steps.len()],
    };
    let rows = steps.into_iter().zip(examples).zip(coefficients);
    Ok(rows.map(|((step, example), coefficient)| (step, example, coefficient)).collect())
}

/// The batch sizes that the steps of a run were recorded with.
fn read_batches(run: &Run) -> Result<HashMap<u64, f64>, AnalysisError> {
    let mut batches = HashMap::new();
    for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Steps)) {
        let read = |block: &Block| -> Result<_, ReadError> {
            Ok((column::u64s(block, Column::Step)?, column::optional(block, Column::BatchSize, column::u32s)?))
        };
        match read(&block) {
            Ok((steps, Some(sizes))) => {
                let known = steps.into_iter().zip(sizes).filter(|(_, size)| *size > 0);
                batches.extend(known.map(|(step, size)| (step, f64::from(size))));
            }
            Ok((_, None)) => {}
            // Who walks the visits meets the same damage.
            Err(ReadError::Damaged(_)) => break,
            Err(other) => return Err(other.into()),
        }
    }
    Ok(batches)
}

impl Weights {
    /// Of the visits inside `window`. No gradient is opened.
    ///
    /// # Errors
    /// [`AnalysisError::Read`] if the file system refuses. Where damage ends the run, who walks the visits meets it.
    pub(super) fn read(run: &Run, window: &Window, progress: &Progress) -> Result<Self, AnalysisError> {
        let recorded = read_batches(run)?;
        let keep = |block: &Block| block.kind() == Some(BlockKind::Visits) && window.touches(block);
        let walk = |each: &mut (dyn FnMut(u64, u64, f64) + Send)| {
            fold_each(
                run,
                progress,
                keep,
                |block| read_visits(block, window),
                |rows: Rows| {
                    rows.into_iter().for_each(|(step, example, c)| each(step, example, f64::from(c)));
                    Ok(())
                },
            )
        };
        let mut counted: HashMap<u64, u64> = HashMap::new();
        let _ = walk(&mut |step, _, _| *counted.entry(step).or_default() += 1)?;
        let batch = |(step, visits): (u64, u64)| (step, recorded.get(&step).copied().unwrap_or(visits as f64));
        let batches: HashMap<u64, f64> = counted.into_iter().map(batch).collect();

        let (mut of_mean, mut of_sum) = (Range::default(), Range::default());
        let mut examples: HashMap<u64, Sums> = HashMap::new();
        let _ = walk(&mut |step, example, c| {
            if c != 0.0 && c.is_finite() {
                let batch = batches.get(&step).copied().unwrap_or(1.0);
                of_mean.add(c * batch);
                of_sum.add(c);
                examples.entry(example).or_default().add(c, batch);
            }
        })?;
        let is_sum = of_sum.is_one() || !of_mean.is_one() && is_sum(examples.values());
        let range = if is_sum { &of_sum } else { &of_mean };
        let visits = || examples.values().map(|sums| sums.visits as u64);
        let mut weights = Self {
            visits: (visits().min().unwrap_or(0), visits().max().unwrap_or(0)),
            has_negative: range.least < 0.0,
            ..Self::default()
        };
        if !range.is_one() {
            let mean = range.total / range.visits;
            let of = |sums: &Sums| if is_sum { sums.of_sum } else { sums.of_mean } / sums.visits / mean;
            weights.range = Some((range.least / mean, range.most / mean));
            weights.examples = examples.iter().map(|(id, sums)| (*id, of(sums))).collect();
            weights.batches = if is_sum { HashMap::new() } else { batches };
        }
        Ok(weights)
    }

    /// What the visit weighs, in a unit that all visits have in common: 1 if all weigh the same.
    pub(super) fn of(&self, visit: &Visit) -> f64 {
        if self.range.is_none() {
            return 1.0;
        }
        f64::from(visit.coefficient) * self.batches.get(&visit.step).copied().unwrap_or(1.0)
    }

    /// The weights of the visits of a tile in a mean of `g gᵀ`. A negative one would make directions of negative
    /// curvature, so it counts as 0.
    pub(super) fn of_rows(&self, visits: &[Visit]) -> Vec<f64> {
        visits.iter().map(|visit| self.of(visit).max(0.0)).collect()
    }

    /// The mean weight of a visit of the example, relative to that of all: what its rows in a curvature set weigh.
    /// `None` if it has no visits, or if all weigh the same.
    pub(super) fn of_example(&self, example: u64) -> Option<f64> {
        self.examples.get(&example).copied()
    }

    /// Whether some examples have more visits than others.
    pub(super) fn visits_differ(&self) -> bool {
        self.visits.0 != self.visits.1
    }

    /// Whether a visit weighs less than 0.
    pub(super) fn has_negative(&self) -> bool {
        self.has_negative
    }

    /// Whether all visits weigh the same.
    pub(super) fn are_equal(&self) -> bool {
        self.range.is_none()
    }

    /// In words, for what an answer rests on; `None` if all examples weigh the same, and by what they are weighted.
    pub(super) fn describe(&self) -> Option<String> {
        let number = |value: f64| format!("{}", (value * 1000.0).round() / 1000.0);
        let loss = self.range.map(|(least, most)| {
            let negative = if self.has_negative { ", those below 0 without curvature" } else { "" };
            format!("weights of the loss, {} to {} times their mean{negative}", number(least), number(most))
        });
        let (fewest, most) = self.visits;
        let visits = (fewest != most).then(|| format!("{fewest} to {most} visits an example"));
        let parts: Vec<String> = loss.into_iter().chain(visits).collect();
        (!parts.is_empty()).then(|| format!("examples count by {}", parts.join(" and ")))
    }
}

/// Weights of visits, taken together.
#[derive(Debug)]
struct Range {
    least: f64,
    most: f64,
    /// The sum of their sizes.
    total: f64,
    visits: f64,
}

impl Default for Range {
    fn default() -> Self {
        Self { least: f64::INFINITY, most: f64::NEG_INFINITY, total: 0.0, visits: 0.0 }
    }
}

impl Range {
    fn add(&mut self, weight: f64) {
        (self.least, self.most) = (self.least.min(weight), self.most.max(weight));
        self.total += weight.abs();
        self.visits += 1.0;
    }

    /// Whether all are equal.
    fn is_one(&self) -> bool {
        self.visits == 0.0 || self.most - self.least <= EQUAL * self.most.abs().max(self.least.abs())
    }
}

/// Sums over the visits of an example, with `x = ln B` and `y = ln |c|`.
#[derive(Debug, Default)]
struct Sums {
    visits: f64,
    of_mean: f64,
    of_sum: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Sums {
    fn add(&mut self, c: f64, batch: f64) {
        let (x, y) = (batch.max(1.0).ln(), c.abs().ln());
        self.visits += 1.0;
        self.of_mean += c * batch;
        self.of_sum += c;
        (self.x, self.y) = (self.x + x, self.y + y);
        (self.xx, self.xy, self.yy) = (self.xx + x * x, self.xy + x * y, self.yy + y * y);
    }
}

/// Whether the loss is a sum over its batch: the slope is above −½, and further from −1 than three standard errors.
fn is_sum<'a>(examples: impl Iterator<Item = &'a Sums>) -> bool {
    let (mut spread, mut common, mut noise, mut free) = (0.0, 0.0, 0.0, -1.0);
    for sums in examples {
        spread += sums.xx - sums.x * sums.x / sums.visits;
        common += sums.xy - sums.x * sums.y / sums.visits;
        noise += sums.yy - sums.y * sums.y / sums.visits;
        free += sums.visits - 1.0;
    }
    if spread <= 1e-9 * (free + 1.0) {
        return false;
    }
    let slope = common / spread;
    let residual = (noise - slope * common).max(0.0) / f64::max(free, 1.0);
    slope > -0.5 && slope + 1.0 > 3.0 * (residual / spread).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The coefficients of a mean are w/B, those of a sum w, and each example has a w of its own.
    #[test]
    fn a_sum_is_told_from_a_mean_by_the_slope() {
        for (power, sum) in [(-1, false), (0, true)] {
            let mut all: Vec<Sums> = Vec::new();
            for weight in [0.2f64, 1.0, 30.0] {
                let mut sums = Sums::default();
                [32.0f64, 32.0, 8.0].iter().for_each(|batch| sums.add(weight * batch.powi(power), *batch));
                all.push(sums);
            }
            assert_eq!(is_sum(all.iter()), sum);
        }
        let mut one = Sums::default();
        one.add(0.5, 32.0);
        assert!(!is_sum([one].iter()), "batches of one size");
        assert!(!is_sum([].iter()));
    }
}
