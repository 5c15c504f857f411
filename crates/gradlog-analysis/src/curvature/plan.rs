//! A question by way of curvature, cut into passes over some probes each.

use super::adjoint::settings;
use super::question::{check_method, EstimateQuestion};
use super::story::Story;
use super::subject::{Subject, CURVATURE_BYTES_MAX, PROBE_BYTES_MAX};
use super::weights::Weights;
use super::{adjoint, datainf, ekfac, influence_function, trak};
use crate::influence::plan::index::Index;
use crate::rows::adam_steps::AdamSteps;
use crate::rows::layer_rates::LayerRates;
use crate::vectors::check_shape;
use crate::vectors::flatten::Flattener;
use crate::vectors::part::FoldedBasis;
use crate::vectors::sides::FactoredSides;
use crate::{AnalysisError, Influence, Method, OptimizerChoice};
use gradlog_format::run::Run;
use std::fmt;
use std::sync::atomic::AtomicBool;

/// What a method keeps between passes.
enum Prepared {
    Solver(Box<influence_function::Solver>),
    Kronecker(Box<ekfac::Solver>),
    Story(Box<Story>),
    Nothing,
}

/// A question that has been looked up in the run, with its curvature inverted, and cut into passes over some probes
/// each.
pub struct EstimatePlan<'run> {
    subject: Subject<'run>,
    pub(super) passes: Vec<Vec<u64>>,
    prepared: Prepared,
}

impl fmt::Debug for EstimatePlan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (question, passes) = (&self.subject.asked, self.passes());
        f.debug_struct("EstimatePlan").field("question", question).field("passes", &passes).finish_non_exhaustive()
    }
}

impl EstimateQuestion {
    /// The influence of every training example on the probes, all passes in one: an answer for each damping, in their
    /// order.
    ///
    /// # Errors
    /// As [`EstimateQuestion::plan`]; [`AnalysisError::Diverged`] if an adjoint grew past all numbers.
    ///
    /// # Cost
    /// Memory: 8 bytes for each example, probe and damping, and what an [`EstimatePlan`] takes.
    pub fn compute(&self, run: &Run) -> Result<Vec<Influence>, AnalysisError> {
        self.plan(run)?.whole()
    }

    /// Checks that the settings fit the method and each other, whatever a run holds.
    ///
    /// # Errors
    /// [`AnalysisError::OnlyVisits`] for a window on sweeps; [`AnalysisError::OutOfRange`] for a length, a damping, a
    /// curvature or an option of TracIn that the method cannot use.
    pub fn check(&self) -> Result<(), AnalysisError> {
        self.question.window.refuse_sweeps(self.method.name())?;
        check_shape(self.shape)?;
        check_method(self)
    }

    /// Finds the probes, gathers and inverts the curvature where the method has one for all probes, and plans the
    /// passes.
    ///
    /// # Errors
    /// As [`InfluenceQuestion::compute`](crate::InfluenceQuestion::compute) for what is asked about;
    /// [`AnalysisError::OnlyVisits`] for a window on sweeps; [`AnalysisError::OutOfRange`] for a length, a damping,
    /// a curvature or an option of TracIn that the method cannot use; [`AnalysisError::TooLarge`] if the curvature
    /// would pass [`EstimatePlan::CURVATURE_BYTES_MAX`]; [`AnalysisError::Singular`] if it has no inverse.
    pub fn plan<'run>(&self, run: &'run Run) -> Result<EstimatePlan<'run>, AnalysisError> {
        self.check()?;
        self.question.window.refuse_outside(&[run])?;
        if self.method == Method::Adjoint {
            run.refuse_compacted("the adjoint, which goes through all steps backwards,")?;
        }
        EstimatePlan::new(run, self)
    }
}

impl<'run> EstimatePlan<'run> {
    /// The most bytes that the scores of one pass take, unless those of 16 probes take more.
    pub const SCORE_BYTES_MAX: usize = 512 << 20;
    /// The most bytes that the flat vectors of a pass's probes take, unless those of 16 probes take more.
    pub const PROBE_BYTES_MAX: usize = PROBE_BYTES_MAX;
    /// The most bytes that the curvature of all blocks takes, in f64.
    pub const CURVATURE_BYTES_MAX: u64 = CURVATURE_BYTES_MAX;

    /// Looks `asked` up in the run; its settings have been checked.
    pub(super) fn new(run: &'run Run, asked: &EstimateQuestion) -> Result<Self, AnalysisError> {
        let progress = &asked.question.progress;
        let index = Index::build(run, &asked.question, progress)?;
        let uses_rates = asked.method == Method::Adjoint;
        let rates = LayerRates::read(run)?;
        let factors = rates.in_window(run, &asked.question.window, &index.layout, uses_rates)?;
        let trained = factors.trained(&index.layout, "influence")?;
        let adam = match uses_rates && asked.question.optimizer == OptimizerChoice::Recorded {
            true => AdamSteps::read(run)?,
            false => None,
        };
        // What acts on single parameters needs the numbers that are theirs.
        let basis = match adam.is_some() || rates.has_decays() {
            true => FoldedBasis::Buckets,
            false => FoldedBasis::Rotated,
        };
        // EK-FAC takes factored layers by their sides, and flat vectors of the folded ones alone.
        let sides = match asked.method {
            Method::Ekfac => Some(ekfac::find_sides(&trained, run.manifest(), asked.shape.length)?),
            _ => None,
        };
        let flattener = match &sides {
            Some(_) => Flattener::of_folded(&trained, run.manifest(), asked.shape.length),
            None => Flattener::with_basis(&trained, run.manifest(), asked.shape, basis),
        };
        let flattener = flattener.of_rows(&index.layout, None);
        let settings = match uses_rates {
            true => settings(&flattener, run.manifest(), (&factors, &rates), &rates.all_steps(run))?,
            false => Vec::new(),
        };
        let weights = Weights::read(run, &asked.question.window, progress)?;
        let (asked, set_is_weighted) = (asked.clone(), AtomicBool::new(false));
        let subject = Subject { run, asked, index, flattener, settings, adam, weights, set_is_weighted };
        let asked = &subject.asked;
        let examples = subject.examples(progress)?;
        let each = 8 * examples.len().max(1) * asked.dampings.len().max(1);
        // The adjoint holds two vectors for each probe, the others the probe and its solutions.
        let numbers = subject.flattener.length() + sides.as_ref().map_or(0, FactoredSides::coordinates);
        let flat = 4 * numbers * (1 + asked.dampings.len().max(1));
        let limit = (Self::SCORE_BYTES_MAX / each).min(Self::PROBE_BYTES_MAX / flat.max(1)).max(16);
        let ids: Vec<u64> = subject.index.records.keys().copied().collect();
        let passes = ids.chunks(limit).map(<[u64]>::to_vec).collect();
        let prepared = match asked.method {
            Method::Ekfac => match sides {
                Some(sides) => Prepared::Kronecker(Box::new(ekfac::prepare(&subject, sides, &examples, progress)?)),
                None => Prepared::Nothing,
            },
            Method::InfluenceFunction => {
                subject.check_curvature_bytes()?;
                Prepared::Solver(Box::new(influence_function::prepare(&subject, &examples, progress)?))
            }
            Method::Adjoint => Prepared::Story(Box::new(Story::read(&subject, progress)?)),
            Method::Trak => {
                subject.check_curvature_bytes()?;
                Prepared::Nothing
            }
            Method::DataInf => Prepared::Nothing,
        };
        Ok(Self { subject, passes, prepared })
    }

    /// How many passes it takes; at least one.
    pub fn passes(&self) -> usize {
        self.passes.len()
    }

    /// How many probes are asked about.
    pub fn probes(&self) -> usize {
        self.subject.index.records.len()
    }

    /// The scores of the probes of one pass: an answer for each damping, in their order.
    ///
    /// # Errors
    /// As [`EstimateQuestion::plan`]; [`AnalysisError::Diverged`] if an adjoint grew past all numbers;
    /// [`AnalysisError::OutOfRange`] if `number` is not below [`EstimatePlan::passes`].
    pub fn pass(&self, number: usize) -> Result<Vec<Influence>, AnalysisError> {
        let subject = &self.subject;
        let ids = self.passes.get(number).ok_or_else(|| AnalysisError::no_such_pass(number, self.passes()))?;
        let progress = &subject.asked.question.progress;
        match (&self.prepared, subject.asked.method) {
            (Prepared::Solver(solver), _) => influence_function::pass(subject, solver, ids, progress),
            (Prepared::Kronecker(solver), _) => ekfac::pass(subject, solver, ids, progress),
            (Prepared::Story(story), _) => adjoint::pass(subject, story, ids, progress),
            (Prepared::Nothing, Method::Trak) => trak::pass(subject, ids, progress),
            (Prepared::Nothing, _) => datainf::pass(subject, ids, progress),
        }
    }

    /// All passes in one: an answer for each damping, in their order.
    ///
    /// # Errors
    /// As [`EstimatePlan::pass`].
    ///
    /// # Cost
    /// Memory: 8 bytes for each example, probe and damping.
    pub fn whole(&self) -> Result<Vec<Influence>, AnalysisError> {
        let mut whole = self.pass(0)?;
        for number in 1..self.passes() {
            for (whole, part) in whole.iter_mut().zip(self.pass(number)?) {
                whole.merge(part);
            }
        }
        Ok(whole)
    }
}
