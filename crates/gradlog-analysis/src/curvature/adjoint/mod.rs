//! The adjoint: the recorded steps walked from the last to the first, with the derivative of each probe's final loss.
//!
//! For each probe the derivative `a` of its final loss by the weights goes along, and those by what the optimizer keeps
//! from step to step. Whatever the steps in between would have made of a small change is in them when a visit is met.
//! So one product of its gradient with `b`, the derivative by the gradient of the step, is the visit's score.
//! [`Method::Adjoint`](crate::Method::Adjoint) has the recursion.
//!
//! It is done in f32: with a true curvature the walk is as stable as the training was. With one that is too large it is
//! not: [`EstimateDetails::growth`](crate::EstimateDetails::growth) says how far it went astray, and
//! [`AnalysisError::Diverged`] that it passed all numbers.
//!
//! | file | what it holds |
//! |---|---|
//! | `unrolled.rs` | the state of the walk |
//! | `sgd.rs`, `adam.rs` | a step of each optimizer, backwards |
//! | `moments.rs` | Adam's moments, made of the visits |
//! | `settings.rs` | rates and decays of parameter groups |
//! | `set_curvature.rs` | recorded curvature along the walk |

mod adam;
mod moments;
mod set_curvature;
mod settings;
mod sgd;
mod unrolled;

pub(super) use settings::{settings, Setting};

use super::detail::Outputs;
use super::probes::{last, ProbeRows};
use super::scores::{block_dots, Scores, Walking};
use super::story::Story;
use super::subject::Subject;
use crate::vectors::flatten::Flat;
use crate::vectors::walk::Visit;
use crate::{AnalysisError, Curvature, Influence, LeftOut, Progress};
use gradlog_format::run::Block;
use moments::Moments;
use set_curvature::{add_curvature, take_off, weighted_excess};
use unrolled::Unrolled;

pub(super) fn pass(
    subject: &Subject<'_>,
    story: &Story,
    ids: &[u64],
    progress: &Progress,
) -> Result<Vec<Influence>, AnalysisError> {
    let count = ids.len();
    let probes = ProbeRows::load(&subject.index, &subject.flattener, ids, last)?;
    let widths: Vec<usize> = subject.flattener.blocks.iter().map(|block| block.width).collect();
    let end = probes.times.iter().copied().max().unwrap_or(0);
    let reachable: Vec<Block> =
        story.blocks.iter().filter(|block| block_counts(subject, block, end)).cloned().collect();
    let moments = story.adam.as_ref().map(|steps| Moments::read(subject, &reachable, steps, end)).transpose()?;
    let mut state = Unrolled::new(subject, story, &probes, moments);
    let mut scores = Scores::new(count);
    let (mut after_probes, mut curvature_rows) = (0, 0);
    let each = |visits: &[Visit], outputs: &[Outputs], flat: &Flat| {
        let mut slots: Vec<Option<usize>> = Vec::with_capacity(visits.len());
        for (visit, outputs) in visits.iter().zip(outputs) {
            slots.push(visit.inside.then(|| scores.slot(visit, outputs.prediction, Walking::Backwards)));
        }
        let Some(first) = visits.first().filter(|_| flat.rows > 0) else { return Ok(()) };
        if first.step >= end {
            after_probes += visits.iter().filter(|visit| visit.inside).count() as u64;
            return Ok(());
        }
        state.go_to(first.step, first.learning_rate)?;
        let weights: Vec<f64> =
            visits.iter().map(|visit| f64::from(visit.clip) * f64::from(visit.coefficient)).collect();
        state.weight += weights.iter().sum::<f64>();
        let mut sums = vec![0f64; visits.len() * count];
        let (a, b) = state.derivatives();
        for (number, rows) in flat.blocks.iter().enumerate() {
            let dots = match subject.asked.curvature {
                Curvature::Visits => {
                    let (a, b) = (&mut a[number], &b[number]);
                    let excess = weighted_excess(subject, flat, number, &weights);
                    let dots = add_curvature(a, b, rows, flat.rows, count, widths[number], &weights);
                    take_off(a, b, widths[number], &excess);
                    dots
                }
                _ => block_dots(rows, flat.rows, &b[number], count),
            };
            sums.iter_mut().zip(dots).for_each(|(sum, dot)| *sum += f64::from(dot));
        }
        if subject.asked.curvature == Curvature::Visits {
            curvature_rows += visits.len() as u64;
        }
        for ((slot, weight), sums) in slots.iter().zip(&weights).zip(sums.chunks(count.max(1))) {
            if let Some(slot) = slot {
                scores.add(*slot, -weight, sums);
            }
        }
        Ok(())
    };
    let walked = subject.walk().walk_backwards(&reachable, progress, each)?;
    walked.check("the adjoint")?;
    if state.steps == 0 {
        return Err(AnalysisError::NoProbeGradient {
            which: "the probes".into(),
            why: "they were taken before the first step, and the adjoint walks back from a probe's last time: take them when the training has ended".into(),
        });
    }
    let estimate = state.describe(curvature_rows);
    let left_out = LeftOut { after_probes, ..walked.left_out };
    scores.finish(subject, ids, left_out, story.damage.clone(), vec![estimate])
}

/// Whether a block has a step before `end`, or visits to be counted as coming after it.
fn block_counts(subject: &Subject<'_>, block: &Block, end: u64) -> bool {
    block.steps().0 < end || subject.asked.question.window.touches(block)
}
