//! The adjoint: the recorded steps walked from the last to the first, with the derivative of each probe's final loss.
//!
//! For each probe two vectors go along: `a`, the derivative of its final loss by the weights, and `b`, that by the
//! momentum buffer. Whatever the steps in between would have made of a small change is in them when a visit is met, so
//! one product of its gradient with `b` is the visit's score. [`Method::Adjoint`](crate::Method::Adjoint) has the
//! recursion.
//!
//! It is done in f32: with a true curvature the walk is as stable as the training was. With one that is too large it is
//! not: [`EstimateDetails::growth`] says how far it went astray, and [`AnalysisError::Diverged`] that it passed all
//! numbers.

use super::detail::Outputs;
use super::probes::{last, load, ProbeRows};
use super::scores::{block_dots, Scores, Walking};
use super::story::{SetRows, StepRecord, Story};
use super::subject::Subject;
use crate::influence::plan::index::Record;
use crate::vectors::flatten::{Flat, Region};
use crate::vectors::walk::Visit;
use crate::Progress;
use crate::{AnalysisError, Curvature, EstimateDetails, Influence, LeftOut};
use gradlog_format::log::UpdateRule;
use gradlog_format::run::Block;
use gradlog_kernels::matmul::{matmul, Matrix};
use gradlog_kernels::simd::squared_norm_f64;
use std::ops::Range;

/// The curvature rows of one time.
enum Rows {
    /// As they are, with the share of each in the mean; better where they are few.
    Few(Flat, Vec<f64>),
    /// As `Σ w g gᵀ / Σ w` of each block.
    Many(Vec<Vec<f32>>),
}

struct SetCurvature<'a> {
    subject: &'a Subject<'a>,
    set: &'a SetRows,
    at: Option<u64>,
    rows: Rows,
    count: u64,
}

impl SetCurvature<'_> {
    /// Makes the rows of the nearest earlier time ready, or of the first if none is earlier.
    fn go_to(&mut self, step: u64) -> Result<(), AnalysisError> {
        let earlier = self.set.times.range(..=step).next_back();
        let Some((&time, rows)) = earlier.or_else(|| self.set.times.first_key_value()) else { return Ok(()) };
        if self.at == Some(time) {
            return Ok(());
        }
        self.at = Some(time);
        self.count += rows.len() as u64;
        let records: Vec<Record> = rows.iter().map(|row| row.record).collect();
        let (mut flat, _, _) = load(&self.set.index, &self.subject.flattener, &records)?;
        let total: f64 = rows.iter().map(|row| row.weight).sum();
        let shares: Vec<f64> = rows.iter().map(|row| if total > 0.0 { row.weight / total } else { 0.0 }).collect();
        let longest = self.subject.flattener.blocks.iter().map(|block| block.width).max().unwrap_or(0);
        if 2 * flat.rows <= longest {
            self.rows = Rows::Few(flat, shares);
            return Ok(());
        }
        for (values, about) in flat.blocks.iter_mut().zip(&self.subject.flattener.blocks) {
            for (row, share) in values.chunks_mut(about.width.max(1)).zip(&shares) {
                let root = share.sqrt() as f32;
                row.iter_mut().for_each(|value| *value *= root);
            }
        }
        let square = |(values, about): (&Vec<f32>, &crate::VectorBlock)| {
            let mut out = vec![0f32; about.width * about.width];
            let rows = Matrix::new(values, flat.rows, about.width);
            matmul(&mut out, rows.t(), rows, false, rayon::current_num_threads());
            out
        };
        self.rows = Rows::Many(flat.blocks.iter().zip(&self.subject.flattener.blocks).map(square).collect());
        Ok(())
    }
}

/// The state of the walk: of each block of the flat vectors, matrices `[probes, width]`.
struct Unrolled<'a> {
    story: &'a Story,
    widths: Vec<usize>,
    /// Of each block, what multiplies the learning rate.
    factors: Vec<f32>,
    probes: &'a ProbeRows,
    started: Vec<bool>,
    /// Derivative of the final loss by the weights before the step at hand.
    a: Vec<Vec<f32>>,
    /// Derivative of the final loss by the momentum buffer after it. During a step, that by the step's gradient: it is
    /// the same, unless Nesterov's step also takes the gradient itself.
    b: Vec<Vec<f32>>,
    /// In a step with Nesterov momentum, what the gradient's derivative has beyond that of the buffer, negated.
    direct: Vec<Vec<f32>>,
    /// The step at hand, its momentum, and the summed weight of its visits.
    step: Option<u64>,
    momentum: f32,
    weight: f64,
    set: Option<SetCurvature<'a>>,
    steps: u64,
    steps_without_record: u64,
    steps_without_momentum: u64,
    steps_without_weight_decay: u64,
    /// The largest momentum and weight decay of these.
    largest: (f32, f32),
    /// Of each probe the least squared length of `a` so far, and the largest ratio to one of them that was met.
    least: Vec<f64>,
    squared_growth: f64,
}

impl Unrolled<'_> {
    /// Comes to `step`, by all steps between that have a record but no visits.
    fn go_to(&mut self, step: u64, rate_of_visits: f32) -> Result<(), AnalysisError> {
        if self.step == Some(step) {
            return Ok(());
        }
        let from = self.step.unwrap_or_else(|| self.probes.times.iter().copied().max().unwrap_or(0));
        self.end()?;
        let story = self.story;
        let between = step.saturating_add(1)..from.max(step.saturating_add(1));
        for (&passed, record) in story.steps.range(between).rev() {
            self.begin(passed, Some(*record), record.learning_rate)?;
            self.end()?;
        }
        self.begin(step, story.steps.get(&step).copied(), rate_of_visits)
    }

    fn begin(&mut self, step: u64, record: Option<StepRecord>, rate_of_visits: f32) -> Result<(), AnalysisError> {
        for probe in 0..self.started.len() {
            if !self.started[probe] && self.probes.times[probe] > step {
                self.started[probe] = true;
                for ((a, from), width) in self.a.iter_mut().zip(&self.probes.flat.blocks).zip(&self.widths) {
                    let places = probe * width..(probe + 1) * width;
                    a[places.clone()].copy_from_slice(&from[places]);
                }
                self.least[probe] = self.squared_length(probe);
            }
        }
        self.steps += 1;
        let rate = record.map_or(rate_of_visits, |record| record.learning_rate);
        let told = (record.and_then(|record| record.momentum), record.and_then(|record| record.weight_decay));
        self.steps_without_record += u64::from(told == (None, None));
        self.steps_without_momentum += u64::from(told.0.is_none());
        self.steps_without_weight_decay += u64::from(told.1.is_none());
        // What was not told is taken as 0.
        let (momentum, decay) = (told.0.unwrap_or(0.0), told.1.unwrap_or(0.0));
        let is_nesterov = record.and_then(|record| record.rule) == Some(UpdateRule::NesterovSgd);
        let mut finite = rate.is_finite() && decay.is_finite();
        self.direct.clear();
        for (number, (a, b)) in self.a.iter_mut().zip(&mut self.b).enumerate() {
            let rate = rate * self.factors[number];
            // `w ← w − η(d + μv)` in the place of `w ← w − ηv`.
            let of_buffer = if is_nesterov { rate * momentum } else { rate };
            if is_nesterov {
                self.direct.push(a.iter().map(|a| rate * a).collect());
            }
            let direct = if is_nesterov { rate } else { 0.0 };
            for (a, b) in a.iter_mut().zip(b) {
                *b -= (of_buffer + direct) * *a;
                *a += decay * *b;
                finite &= a.is_finite() && b.is_finite();
            }
        }
        if !finite {
            return Err(AnalysisError::Diverged { step });
        }
        for probe in 0..self.least.len() {
            let squared = self.squared_length(probe);
            self.least[probe] = self.least[probe].min(squared);
            if self.least[probe] > 0.0 {
                self.squared_growth = self.squared_growth.max(squared / self.least[probe]);
            }
        }
        self.largest = (self.largest.0.max(momentum), self.largest.1.max(decay));
        self.step = Some(step);
        self.momentum = momentum;
        self.weight = 0.0;
        Ok(())
    }

    /// Of the derivative of a probe's final loss by the weights.
    fn squared_length(&self, probe: usize) -> f64 {
        let of_block = |(a, width): (&Vec<f32>, &usize)| squared_norm_f64(&a[probe * width..(probe + 1) * width]);
        self.a.iter().zip(&self.widths).map(of_block).sum()
    }

    /// Leaves the step at hand.
    fn end(&mut self) -> Result<(), AnalysisError> {
        let Some(step) = self.step.take() else { return Ok(()) };
        if let (Some(set), true) = (&mut self.set, self.weight != 0.0) {
            set.go_to(step)?;
            let probes = self.started.len();
            for (number, ((a, b), &width)) in self.a.iter_mut().zip(&self.b).zip(&self.widths).enumerate() {
                match &set.rows {
                    Rows::Few(flat, shares) => {
                        let weights: Vec<f64> = shares.iter().map(|share| share * self.weight).collect();
                        add_curvature(a, b, &flat.blocks[number], flat.rows, probes, width, &weights);
                    }
                    Rows::Many(matrices) => {
                        let scaled: Vec<f32> = b.iter().map(|b| self.weight as f32 * b).collect();
                        let left = Matrix::new(&scaled, probes, width);
                        let right = Matrix::new(&matrices[number], width, width);
                        matmul(a, left, right, true, rayon::current_num_threads());
                    }
                }
            }
        }
        // The buffer of the step before has a part in this one, the gradient has none.
        for (b, direct) in self.b.iter_mut().zip(&self.direct) {
            b.iter_mut().zip(direct).for_each(|(b, direct)| *b += direct);
        }
        self.direct.clear();
        let momentum = self.momentum;
        self.b.iter_mut().flatten().for_each(|b| *b *= momentum);
        Ok(())
    }
}

/// `a += Σ_r weight_r·⟨w_r, b⟩·w_r` for each probe of one block; gives the dot products `[rows, probes]`.
fn add_curvature(
    a: &mut [f32],
    b: &[f32],
    rows: &[f32],
    count: usize,
    probes: usize,
    width: usize,
    weights: &[f64],
) -> Vec<f32> {
    let dots = block_dots(rows, count, b, probes);
    let weighted: Vec<f32> = dots
        .chunks(probes.max(1))
        .zip(weights)
        .flat_map(|(dots, weight)| dots.iter().map(move |dot| (weight * f64::from(*dot)) as f32))
        .collect();
    let left = Matrix::new(&weighted, count, probes).t();
    matmul(a, left, Matrix::new(rows, count, width), true, rayon::current_num_threads());
    dots
}

/// Of each region of a block, what `Σ_r weight_r·g_r g_rᵀ` has too much on the diagonal, because rows are signs.
fn weighted_excess(subject: &Subject<'_>, flat: &Flat, block: usize, weights: &[f64]) -> Vec<(Range<usize>, f32)> {
    let own = subject.flattener.regions.iter().enumerate().filter(|(_, region)| region.block == block);
    let sum = |(number, region): (usize, &Region)| {
        let sum = weights.iter().enumerate().map(|(row, weight)| weight * flat.excess(number, row)).sum::<f64>();
        (region.places.clone(), region.share(sum) as f32)
    };
    own.map(sum).filter(|(_, excess)| *excess != 0.0).collect()
}

/// `a −= excess·b` for each probe in each region.
fn take_off(a: &mut [f32], b: &[f32], width: usize, excess: &[(Range<usize>, f32)]) {
    for (a, b) in a.chunks_mut(width.max(1)).zip(b.chunks(width.max(1))) {
        for (places, excess) in excess {
            a[places.clone()].iter_mut().zip(&b[places.clone()]).for_each(|(a, b)| *a -= excess * b);
        }
    }
}

pub(super) fn pass(
    subject: &Subject<'_>,
    story: &Story,
    ids: &[u64],
    progress: &Progress,
) -> Result<Vec<Influence>, AnalysisError> {
    let count = ids.len();
    let probes = ProbeRows::load(&subject.index, &subject.flattener, ids, last)?;
    let widths: Vec<usize> = subject.flattener.blocks.iter().map(|block| block.width).collect();
    let zeros = || widths.iter().map(|width| vec![0f32; count * width]).collect::<Vec<_>>();
    let set = story.rows.as_ref().map(|set| SetCurvature {
        subject,
        set,
        at: None,
        rows: Rows::Few(Flat::default(), Vec::new()),
        count: 0,
    });
    let mut state = Unrolled {
        story,
        widths: widths.clone(),
        factors: match subject.asked.shape.by_layer {
            true => subject.factors.clone(),
            false => vec![1.0; widths.len()],
        },
        probes: &probes,
        started: vec![false; count],
        a: zeros(),
        b: zeros(),
        direct: Vec::new(),
        step: None,
        momentum: 0.0,
        weight: 0.0,
        set,
        steps: 0,
        steps_without_record: 0,
        steps_without_momentum: 0,
        steps_without_weight_decay: 0,
        largest: (0.0, 0.0),
        least: vec![0.0; count],
        squared_growth: 1.0,
    };
    let end = probes.times.iter().copied().max().unwrap_or(0);
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
        for (number, rows) in flat.blocks.iter().enumerate() {
            let dots = match subject.asked.curvature {
                Curvature::Visits => {
                    let (a, b) = (&mut state.a[number], &state.b[number]);
                    let excess = weighted_excess(subject, flat, number, &weights);
                    let dots = add_curvature(a, b, rows, flat.rows, count, widths[number], &weights);
                    take_off(a, b, widths[number], &excess);
                    dots
                }
                _ => block_dots(rows, flat.rows, &state.b[number], count),
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
    let reachable: Vec<Block> =
        story.blocks.iter().filter(|block| block_counts(subject, block, end)).cloned().collect();
    let walked = subject.walk().walk_backwards(&reachable, progress, each)?;
    walked.check("the adjoint")?;
    if state.steps == 0 {
        return Err(AnalysisError::NoProbeGradient {
            which: "the probes".into(),
            why: "they were taken before the first step, and the adjoint walks back from a probe's last time: take them when the training has ended".into(),
        });
    }
    if let Some(set) = &state.set {
        curvature_rows = set.count;
    }
    let estimate = EstimateDetails {
        curvature_rows,
        steps: state.steps,
        steps_without_record: state.steps_without_record,
        steps_without_momentum: state.steps_without_momentum,
        steps_without_weight_decay: state.steps_without_weight_decay,
        momentum: state.largest.0,
        weight_decay: state.largest.1,
        growth: state.squared_growth.sqrt(),
        dropped: story.dropped,
        ..subject.estimate()
    };
    let left_out = LeftOut { after_probes, ..walked.left_out };
    scores.finish(subject, ids, left_out, story.damage.clone(), vec![estimate])
}

/// Whether a block has a step before `end`, or visits to be counted as coming after it.
fn block_counts(subject: &Subject<'_>, block: &Block, end: u64) -> bool {
    block.steps().0 < end || subject.asked.question.window.touches(block)
}
