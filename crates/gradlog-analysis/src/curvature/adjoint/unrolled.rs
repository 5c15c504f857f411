//! The state of a walk back through the steps of a run.

use super::adam::AdamAdjoint;
use super::moments::Moments;
use super::set_curvature::SetCurvature;
use super::sgd::{SgdAdjoint, SgdStep};
use crate::curvature::probes::ProbeRows;
use crate::curvature::story::{StepRecord, Story};
use crate::curvature::subject::Subject;
use crate::{AnalysisError, EstimateDetails};
use gradlog_format::log::UpdateRule;
use gradlog_kernels::simd::squared_norm_f64;

/// What goes along beside the derivative by the weights, by the optimizer.
pub(super) enum Optimizer {
    Sgd(SgdAdjoint),
    Adam(AdamAdjoint, Moments),
}

/// The walk: of each block of the flat vectors, matrices `[probes, width]`.
pub(super) struct Unrolled<'a> {
    subject: &'a Subject<'a>,
    story: &'a Story,
    widths: Vec<usize>,
    probes: &'a ProbeRows,
    started: Vec<bool>,
    /// Derivative of the final loss by the weights before the step at hand.
    pub a: Vec<Vec<f32>>,
    optimizer: Optimizer,
    /// The step at hand, and the summed weight of its visits.
    step: Option<u64>,
    pub weight: f64,
    pub set: Option<SetCurvature<'a>>,
    pub steps: u64,
    steps_without_record: u64,
    steps_without_momentum: u64,
    steps_without_weight_decay: u64,
    steps_without_count: u64,
    /// The largest momentum and weight decay of these.
    largest: (f32, f32),
    /// Of each probe the least squared length of `a` so far, and the largest ratio to one of them that was met.
    least: Vec<f64>,
    squared_growth: f64,
}

impl<'a> Unrolled<'a> {
    pub(super) fn new(
        subject: &'a Subject<'a>,
        story: &'a Story,
        probes: &'a ProbeRows,
        moments: Option<Moments>,
    ) -> Self {
        let count = probes.times.len();
        let widths: Vec<usize> = subject.flattener.blocks.iter().map(|block| block.width).collect();
        Self {
            subject,
            story,
            probes,
            started: vec![false; count],
            a: widths.iter().map(|width| vec![0f32; count * width]).collect(),
            optimizer: match moments {
                Some(moments) => Optimizer::Adam(AdamAdjoint::new(&widths, count), moments),
                None => Optimizer::Sgd(SgdAdjoint::new(&widths, count)),
            },
            widths,
            step: None,
            weight: 0.0,
            set: story.rows.as_ref().map(|set| SetCurvature::new(subject, set)),
            steps: 0,
            steps_without_record: 0,
            steps_without_momentum: 0,
            steps_without_weight_decay: 0,
            steps_without_count: 0,
            largest: (0.0, 0.0),
            least: vec![0.0; count],
            squared_growth: 1.0,
        }
    }

    /// The derivative of the final loss by the weights, and that by the gradient of the step at hand.
    pub(super) fn derivatives(&mut self) -> (&mut [Vec<f32>], &[Vec<f32>]) {
        let gradient = match &self.optimizer {
            Optimizer::Sgd(sgd) => &sgd.gradient,
            Optimizer::Adam(adam, _) => &adam.gradient,
        };
        (&mut self.a, gradient)
    }

    /// Comes to `step`, by all steps between that have a record but no visits.
    pub(super) fn go_to(&mut self, step: u64, rate_of_visits: f32) -> Result<(), AnalysisError> {
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
        self.steps_without_momentum += u64::from(told.0.is_none());
        self.steps_without_weight_decay += u64::from(told.1.is_none());
        // What was not told is taken as 0.
        let (momentum, decay) = (told.0.unwrap_or(0.0), told.1.unwrap_or(0.0));
        let settings = &self.subject.settings;
        match &mut self.optimizer {
            Optimizer::Sgd(sgd) => {
                self.steps_without_record += u64::from(told == (None, None));
                let is_nesterov = record.and_then(|record| record.rule) == Some(UpdateRule::NesterovSgd);
                let count = record.and_then(|record| record.steps_taken);
                self.steps_without_count += u64::from(momentum != 0.0 && count.is_none());
                let told = SgdStep { rate, momentum, decay, is_nesterov, begins: count == Some(1) };
                sgd.begin(&mut self.a, settings, &self.widths, told);
            }
            Optimizer::Adam(adam, moments) => {
                let passed = moments.steps_passed(step);
                match moments.at(self.subject, &self.story.blocks, step)? {
                    Some((told, moments)) => {
                        adam.begin(&mut self.a, settings, (&told, rate, decay, passed), moments);
                    }
                    // A step that the log does not hold moved nothing that is known of.
                    None => self.steps_without_record += 1,
                }
            }
        }
        let (a, gradient) = self.derivatives();
        let are_finite = |matrices: &[Vec<f32>]| matrices.iter().flatten().all(|value| value.is_finite());
        if !(rate.is_finite() && decay.is_finite() && are_finite(a) && are_finite(gradient)) {
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
        let (probes, weight) = (self.started.len(), self.weight);
        if let (Some(mut set), true) = (self.set.take(), weight != 0.0) {
            set.go_to(step)?;
            let (a, gradient) = self.derivatives();
            for (block, (a, b)) in a.iter_mut().zip(gradient).enumerate() {
                set.add(block, a, b, probes, weight);
            }
            self.set = Some(set);
        }
        match &mut self.optimizer {
            Optimizer::Sgd(sgd) => sgd.end(),
            Optimizer::Adam(adam, _) => adam.end(),
        }
        Ok(())
    }

    /// What the walk has come to.
    pub(super) fn describe(&self, curvature_rows: u64) -> EstimateDetails {
        let steps_without_visits = match &self.optimizer {
            Optimizer::Adam(_, moments) => moments.steps_without_visits,
            Optimizer::Sgd(_) => 0,
        };
        EstimateDetails {
            curvature_rows: self.set.as_ref().map_or(curvature_rows, |set| set.count),
            steps: self.steps,
            steps_without_record: self.steps_without_record,
            steps_without_visits,
            steps_without_momentum: self.steps_without_momentum,
            steps_without_weight_decay: self.steps_without_weight_decay,
            steps_without_count: self.steps_without_count,
            momentum: self.largest.0,
            weight_decay: self.largest.1,
            growth: self.squared_growth.sqrt(),
            dropped: self.story.dropped,
            ..self.subject.estimate()
        }
    }
}
