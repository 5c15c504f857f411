//! What a question comes to in a run: its probes, and how their gradients are made flat.

use super::adjoint::Setting;
use super::gram::FACTORS_MAX;
use super::question::EstimateQuestion;
use super::weights::Weights;
use crate::influence::plan::index::Index;
use crate::rows::adam_steps::AdamSteps;
use crate::rows::basis::Uses;
use crate::rows::driver::fold_each;
use crate::vectors::flatten::Flattener;
use crate::vectors::walk::Walk;
use crate::Progress;
use crate::{
    rows::column, AnalysisError, Basis, BasisRows, Curvature, EstimateDetails, Method, OptimizerChoice, OptimizerModel,
    VectorBlock,
};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, Run};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most bytes that the flat vectors of a pass's probes take, unless those of 16 probes take more.
pub(super) const PROBE_BYTES_MAX: usize = 256 << 20;

/// The most bytes that the curvature of all blocks takes, in f64.
pub(super) const CURVATURE_BYTES_MAX: u64 = 4 << 30;

/// A question that has been looked up in the run. Every method works on it.
pub(super) struct Subject<'run> {
    pub run: &'run Run,
    pub asked: EstimateQuestion,
    pub index: Index,
    pub flattener: Flattener,
    /// For the adjoint, the optimizer's settings for the numbers of each block.
    pub settings: Vec<Vec<Setting>>,
    /// The steps of Adam, if the adjoint unrolls them.
    pub adam: Option<AdamSteps>,
    /// What each visit weighs in the objective.
    pub weights: Weights,
    /// Whether the rows of the curvature set, once it has been read, are weighted as their examples are.
    pub set_is_weighted: AtomicBool,
}

impl Subject<'_> {
    /// A walk over the visits that count.
    pub(super) fn walk(&self) -> Walk<'_> {
        Walk {
            run: self.run,
            flattener: &self.flattener,
            window: &self.asked.question.window,
            before: self.index.damage.as_ref(),
        }
    }

    /// The examples that have visits inside the window, ascending. No gradient is opened.
    pub(super) fn examples(&self, progress: &Progress) -> Result<Vec<u64>, AnalysisError> {
        let window = &self.asked.question.window;
        let keep = |block: &Block| window.is_on(block) && window.touches(block);
        let read = |block: &Block| Ok(window.rows_inside(block)?.select(column::u64s(block, Column::Example)?));
        let mut examples = BTreeSet::new();
        // Who walks the visits meets the same damage.
        let _ = fold_each(self.run, progress, keep, read, |found: Vec<u64>| {
            examples.extend(found);
            Ok(())
        })?;
        Ok(examples.into_iter().collect())
    }

    /// What the matrices of the flat vectors take: each, and its factors or its eigenvectors.
    pub(super) fn curvature_bytes(&self) -> u64 {
        let dampings = self.asked.dampings.len();
        let factors = if dampings <= FACTORS_MAX { dampings as u64 } else { 1 };
        self.flattener.blocks.iter().map(|block| 8 * (1 + factors) * (block.width as u64).pow(2)).sum()
    }

    pub(super) fn check_curvature_bytes(&self) -> Result<(), AnalysisError> {
        if self.curvature_bytes() <= CURVATURE_BYTES_MAX {
            return Ok(());
        }
        Err(AnalysisError::TooLarge {
            what: format!(
                "the curvature of {} blocks of up to {} numbers",
                self.flattener.blocks.len(),
                self.asked.shape.length
            ),
            limit: CURVATURE_BYTES_MAX,
            how: "ask for shorter vectors",
        })
    }

    /// What an answer by the method rests on.
    pub(super) fn basis(&self, estimate: &EstimateDetails) -> Result<Basis, AnalysisError> {
        let window = &self.asked.question.window;
        let uses = if estimate.method == Method::Adjoint { Uses::Steps } else { Uses::Gradients };
        let mut basis = Basis::of(self.run, window, BasisRows::Visits, uses)?;
        basis.weighting = self.weighting(estimate.method);
        if self.asked.question.optimizer == OptimizerChoice::PlainSgd {
            return Ok(basis);
        }
        // The adjoint walks back over all steps, whatever the window of the visits.
        basis.optimizer = basis.optimizer.map(|model| OptimizerModel {
            models_momentum: true,
            steps: estimate.steps,
            steps_without_momentum: estimate.steps_without_momentum,
            steps_without_weight_decay: estimate.steps_without_weight_decay,
            steps_without_count: estimate.steps_without_count,
            momentum: estimate.momentum,
            weight_decay: estimate.weight_decay,
            rule: model.rule,
            models_moments: false,
            unrolls_moments: self.adam.is_some(),
            models_norms: false,
        });
        Ok(basis)
    }

    /// By what examples count, and what does not count by it.
    fn weighting(&self, method: Method) -> Option<String> {
        // The adjoint takes each visit with its coefficient, and says nothing of a mean.
        let counts = self.weights.describe().filter(|_| method != Method::Adjoint);
        let set = match &self.asked.curvature {
            Curvature::Set(name) => self.set_weighting(name, method),
            Curvature::Visits | Curvature::Nothing => None,
        };
        let parts: Vec<String> = counts.into_iter().chain(set).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn set_weighting(&self, name: &str, method: Method) -> Option<String> {
        let of_loss = !self.weights.are_equal() && !self.set_is_weighted.load(Ordering::Relaxed);
        let of_visits = method != Method::Adjoint && self.weights.visits_differ();
        let what = match (of_loss, of_visits) {
            (false, false) => return None,
            (true, false) => "without the weights of the loss",
            (false, true) => "as often as it was recorded, and not as often as it was visited",
            (true, true) => "as often as it was recorded, without the weights of the loss",
        };
        Some(format!("the curvature `{name}` takes each example {what}"))
    }

    /// What is common to the answers of a question.
    pub(super) fn estimate(&self) -> EstimateDetails {
        EstimateDetails {
            method: self.asked.method,
            curvature: self.asked.curvature.clone(),
            curvature_rows: 0,
            length: self.flattener.length(),
            exact: self.flattener.blocks.iter().all(VectorBlock::is_exact),
            by_layer: self.asked.shape.by_layer,
            damping: None,
            soft_threshold: self.asked.soft_threshold,
            lambdas: Vec::new(),
            kronecker: None,
            epochs: 0,
            steps: 0,
            steps_without_record: 0,
            steps_without_visits: 0,
            solved_by_examples: false,
            steps_without_momentum: 0,
            steps_without_weight_decay: 0,
            steps_without_count: 0,
            momentum: 0.0,
            weight_decay: 0.0,
            growth: 1.0,
            dropped: 0,
        }
    }
}
