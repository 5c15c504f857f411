//! Influence by way of curvature: influence functions, DataInf, TRAK's estimator and the adjoint, from the log alone.
//!
//! TracIn adds up what each step did to a probe at that moment. The methods here also ask what the rest of the training
//! made of it: an inverse curvature stands for training to a minimum ([`Method::InfluenceFunction`],
//! [`Method::DataInf`], [`Method::Trak`]), or the recorded steps are unrolled one by one ([`Method::Adjoint`]). All work on
//! flat vectors ([`crate::Shape`]), all give an [`Influence`], and in all of them **positive means helped**.
//!
//! One file per method; `relatif.rs` has what influence functions can be divided by, `probes.rs` finds the probes' gradients,
//! `gram.rs` holds and inverts curvature, `scores.rs` gathers scores by example.

mod adjoint;
mod datainf;
mod gram;
mod influence_function;
mod method;
mod probes;
mod relatif;
mod scores;
#[cfg(test)]
mod tests;
mod trak;

use crate::influence::{Index, Influence, Normalisation, Question};
use crate::rows::driver::Progress;
use crate::vectors::{check_shape, Flattener, Shape, Walk};
use crate::AnalysisError;
use adjoint::Story;
use gradlog_format::run::Run;
pub use method::{Curvature, Damping, Estimate, Method};
use std::collections::BTreeSet;

/// A question about influence, and how it is to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct EstimateQuestion {
    /// Which probes, and which visits count. [`Question::time`] has no part in it: each probe is taken at one time, said
    /// at each [`Method`]. Of [`Question::normalise`] influence functions know [`Normalisation::Relatif`], the others none.
    pub question: Question,
    /// By which method.
    pub method: Method,
    /// How long the flat vectors are, and whether layers are taken to have no curvature in common.
    pub shape: Shape,
    /// What is added to the curvature before it is inverted: one answer for each. The adjoint inverts nothing and takes none.
    pub dampings: Vec<Damping>,
    /// Whose gradients make the curvature. DataInf and TRAK have it in their definitions and take [`Curvature::Visits`].
    pub curvature: Curvature,
    /// The soft threshold of TRAK's scores, in their unit ([`Method::Trak`]); `None` leaves them as they are. The other methods
    /// take none.
    pub soft_threshold: Option<f64>,
}

impl EstimateQuestion {
    /// `question` by `method`, with whole gradients of [`Method::default_length`], a damping of a tenth of the mean eigenvalue
    /// where there is one to choose, and the visits' own gradients as curvature.
    pub fn new(question: Question, method: Method) -> Self {
        Self {
            question,
            method,
            shape: Shape::whole(method.default_length()),
            dampings: if method == Method::Adjoint { Vec::new() } else { vec![Damping::Relative(0.1)] },
            curvature: Curvature::Visits,
            soft_threshold: None,
        }
    }
}

/// What a method keeps between passes.
enum Prepared {
    Solver(Box<influence_function::Solver>),
    Story(Box<Story>),
    Nothing,
}

/// A question that has been looked up in the run, with its curvature inverted, and cut into passes over some probes each.
pub struct EstimatePlan<'run> {
    run: &'run Run,
    asked: EstimateQuestion,
    index: Index,
    flattener: Flattener,
    passes: Vec<Vec<u64>>,
    prepared: Prepared,
}

impl<'run> EstimatePlan<'run> {
    /// The most bytes that the scores of one pass take, unless those of 16 probes take more.
    pub const SCORE_BYTES_MAX: usize = 512 << 20;
    /// The most bytes that the flat vectors of a pass's probes take, unless those of 16 probes take more.
    pub const PROBE_BYTES_MAX: usize = 256 << 20;
    /// The most bytes that the curvature of all blocks takes, in f64.
    pub const CURVATURE_BYTES_MAX: u64 = 4 << 30;

    /// Finds the probes, gathers and inverts the curvature where the method has one for all probes, and plans the passes.
    ///
    /// # Errors
    /// As [`influence`](crate::influence()) for what is asked about; [`AnalysisError::OutOfRange`] for a length, a damping
    /// or a curvature that the method cannot use; [`AnalysisError::TooLarge`] if the curvature would pass
    /// [`EstimatePlan::CURVATURE_BYTES_MAX`]; [`AnalysisError::Singular`] if it has no inverse.
    pub fn new(run: &'run Run, asked: &EstimateQuestion, progress: Progress<'_>) -> Result<Self, AnalysisError> {
        asked.question.window.only_visits(asked.method.name())?;
        check_shape(asked.shape)?;
        check_method(asked)?;
        if asked.method == Method::Adjoint && !run.parts().is_empty() {
            // It walks back from step to step, and one worker's blocks lie between those of another.
            let range = "the run of one recorder: the adjoint walks back from step to step, and those of workers lie between each other";
            let given = "the run of several workers".into();
            return Err(AnalysisError::OutOfRange { what: "what is asked", given, range: range.into() });
        }
        let index = Index::build(run, &asked.question, progress)?;
        let flattener = Flattener::new(&index.layout, run.manifest(), asked.shape);
        let mut plan =
            Self { run, asked: asked.clone(), index, flattener, passes: Vec::new(), prepared: Prepared::Nothing };
        let examples = plan.examples(progress)?;
        let each = 8 * examples.len().max(1) * asked.dampings.len().max(1);
        // The adjoint holds two vectors for each probe, the others the probe and its solutions.
        let flat = 4 * plan.flattener.length() * (1 + asked.dampings.len().max(1));
        let limit = (Self::SCORE_BYTES_MAX / each).min(Self::PROBE_BYTES_MAX / flat.max(1)).max(16);
        let ids: Vec<u64> = plan.index.records.keys().copied().collect();
        plan.passes = ids.chunks(limit).map(<[u64]>::to_vec).collect();
        plan.prepared = match asked.method {
            Method::InfluenceFunction => {
                plan.check_curvature_bytes()?;
                Prepared::Solver(Box::new(influence_function::prepare(&plan, &examples, progress)?))
            }
            Method::Adjoint => Prepared::Story(Box::new(Story::read(&plan, progress)?)),
            Method::Trak => {
                plan.check_curvature_bytes()?;
                Prepared::Nothing
            }
            Method::DataInf => Prepared::Nothing,
        };
        Ok(plan)
    }

    /// How many passes it takes; at least one.
    pub fn passes(&self) -> usize {
        self.passes.len()
    }

    /// How many probes are asked about.
    pub fn probes(&self) -> usize {
        self.index.records.len()
    }

    /// The scores of the probes of one pass: an answer for each damping, in their order.
    ///
    /// # Errors
    /// As [`EstimatePlan::new`]; [`AnalysisError::Diverged`] if an adjoint grew past all numbers.
    ///
    /// # Panics
    /// If `number` is not below [`EstimatePlan::passes`].
    pub fn pass(&self, number: usize, progress: Progress<'_>) -> Result<Vec<Influence>, AnalysisError> {
        let ids = &self.passes[number];
        match (&self.prepared, self.asked.method) {
            (Prepared::Solver(solver), _) => influence_function::pass(self, solver, ids, progress),
            (Prepared::Story(story), _) => adjoint::pass(self, story, ids, progress),
            (Prepared::Nothing, Method::Trak) => trak::pass(self, ids, progress),
            (Prepared::Nothing, _) => datainf::pass(self, ids, progress),
        }
    }

    /// All passes in one: an answer for each damping, in their order.
    ///
    /// # Errors
    /// As [`EstimatePlan::pass`].
    ///
    /// # Cost
    /// Memory: 8 bytes for each example, probe and damping.
    pub fn whole(&self, progress: Progress<'_>) -> Result<Vec<Influence>, AnalysisError> {
        let mut whole = self.pass(0, progress)?;
        for number in 1..self.passes() {
            for (whole, part) in whole.iter_mut().zip(self.pass(number, progress)?) {
                whole.merge(part);
            }
        }
        Ok(whole)
    }

    /// A walk over the visits that count.
    fn walk(&self) -> Walk<'_> {
        Walk {
            run: self.run,
            flattener: &self.flattener,
            window: &self.asked.question.window,
            before: self.index.damage.as_ref(),
        }
    }

    /// The examples that have visits inside the window, by id.
    fn examples(&self, progress: Progress<'_>) -> Result<Vec<u64>, AnalysisError> {
        let mut examples = BTreeSet::new();
        scores::each_example(&self.walk(), progress, |example| {
            examples.insert(example);
        })?;
        Ok(examples.into_iter().collect())
    }

    fn check_curvature_bytes(&self) -> Result<(), AnalysisError> {
        // The matrix, and its factors or its eigenvectors.
        let dampings = self.asked.dampings.len();
        let factors = if dampings <= gram::FACTORS_MAX { dampings as u64 } else { 1 };
        let bytes: u64 =
            self.flattener.blocks.iter().map(|block| 8 * (1 + factors) * (block.width as u64).pow(2)).sum();
        if bytes <= Self::CURVATURE_BYTES_MAX {
            return Ok(());
        }
        Err(AnalysisError::TooLarge {
            what: format!(
                "the curvature of {} blocks of up to {} numbers",
                self.flattener.blocks.len(),
                self.asked.shape.length
            ),
            limit: Self::CURVATURE_BYTES_MAX,
            how: "ask for shorter vectors",
        })
    }
}

/// Influence of every training example on the probes of a question, by one of the methods: an answer for each damping.
///
/// # Errors
/// As [`EstimatePlan::new`] and [`EstimatePlan::pass`].
pub fn estimate(run: &Run, asked: &EstimateQuestion) -> Result<Vec<Influence>, AnalysisError> {
    let progress: Progress<'_> = &|_| {};
    EstimatePlan::new(run, asked, progress)?.whole(progress)
}

fn check_method(asked: &EstimateQuestion) -> Result<(), AnalysisError> {
    let wrong = |what, given: String, range: &str| Err(AnalysisError::OutOfRange { what, given, range: range.into() });
    let question = &asked.question;
    let relatif = asked.method == Method::InfluenceFunction && question.normalise == Normalisation::Relatif;
    if question.normalise != Normalisation::None && !relatif {
        let range = "none, or relatif for influence functions: all others are defined for TracIn alone";
        return wrong("the normalisation", question.normalise.name().into(), range);
    }
    if let Some(threshold) = asked.soft_threshold {
        if asked.method != Method::Trak {
            return wrong("the soft threshold", "given".into(), "left out: it belongs to TRAK's scores");
        }
        if !(threshold.is_finite() && threshold >= 0.0) {
            return wrong("the soft threshold", threshold.to_string(), "at least 0 and finite");
        }
    }
    if !question.layers.is_empty() {
        return wrong(
            "the choice of layers",
            question.layers.join(", "),
            "all of them: only TracIn has parts by layer",
        );
    }
    if question.group {
        return wrong("the question", "about a group of probes".into(), "about each probe: only TracIn adds probes up");
    }
    match asked.method {
        Method::Adjoint if !asked.dampings.is_empty() => {
            return wrong("the damping of the adjoint", "given".into(), "left out: nothing is inverted");
        }
        Method::Adjoint => {}
        _ if asked.dampings.is_empty() => {
            return wrong("the number of dampings", "0".into(), "at least 1");
        }
        _ => {}
    }
    for damping in &asked.dampings {
        let (Damping::Relative(value) | Damping::Absolute(value)) = *damping;
        if !(value.is_finite() && value > 0.0) {
            return wrong("the damping", value.to_string(), "above 0 and finite");
        }
    }
    let fits = match (asked.method, &asked.curvature) {
        (Method::Adjoint, _) | (_, Curvature::Visits) => true,
        (Method::InfluenceFunction, curvature) => *curvature != Curvature::Nothing,
        _ => false,
    };
    if !fits {
        return wrong(
            "the curvature",
            asked.curvature.to_string(),
            "that of the visits for DataInf and TRAK, of the visits or a probe set for influence functions, any for the adjoint",
        );
    }
    Ok(())
}
