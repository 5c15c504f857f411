//! `gradlog influence --method`: TracIn, or one of the estimates that go by way of curvature.

use crate::arguments::{parse_length, parse_not_negative, parse_positive};
use crate::choice::Choice;
use crate::error::CliError;
use clap::builder::PossibleValue;
use clap::{ArgAction, Args, ValueEnum};
use gradlog_analysis::{
    AnalysisError, Curvature, Damping, EstimatePlan, EstimateQuestion, Influence, InfluencePlan, InfluenceQuestion,
    Method,
};
use gradlog_format::run::Run;

/// By which method, and its settings.
#[derive(Debug, Args)]
pub(crate) struct MethodArguments {
    /// How influence is measured; in all of them positive helped
    #[arg(long, value_name = "NAME", default_value = "tracin")]
    method: MethodChoice,
    /// Damping of the inverse, in mean eigenvalues of the curvature; 0.1 by default. Several dampings are answered at
    /// once, with how far neighbors agree: trust a ranking that stays the same (if, ekfac, datainf, trak)
    #[arg(long, value_name = "FACTOR,..", allow_hyphen_values = true, value_parser = parse_positive, value_delimiter = ',', action = ArgAction::Set, conflicts_with = "damping_absolute")]
    damping: Vec<f64>,
    /// Damping of the inverse, as it is added to each eigenvalue, or several (if, ekfac, datainf, trak)
    #[arg(long, value_name = "LAMBDA,..", allow_hyphen_values = true, value_parser = parse_positive, value_delimiter = ',', action = ArgAction::Set)]
    damping_absolute: Vec<f64>,
    /// Pull scores toward 0 by this much, and set those to 0 that are smaller: the soft threshold of TRAK's paper, in
    /// the unit of the scores (trak)
    #[arg(long, value_name = "LAMBDA", allow_negative_numbers = true, value_parser = parse_not_negative)]
    soft_threshold: Option<f64>,
    /// Whose gradients make the curvature: `visits`, `none` (adjoint only) or `set:NAME`, what `recorder.curvature` or
    /// a probe pass recorded; `visits` by default (if, ekfac, adjoint)
    #[arg(long, value_name = "ROWS", value_parser = parse_curvature)]
    curvature: Option<Curvature>,
    /// Take each layer by itself, as if layers had no curvature in common (if, datainf, trak, adjoint; ekfac always
    /// does)
    #[arg(long)]
    by_layer: bool,
    /// The most numbers of a gradient, or of a layer's with --by-layer, or for ekfac of a side of a layer; a longer
    /// one is folded; by default 2048 for if and trak, 4096 for ekfac, 16384 for datainf and adjoint
    #[arg(long, value_name = "N", value_parser = parse_length)]
    numbers: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MethodChoice {
    TracIn,
    Estimate(Method),
}

impl ValueEnum for MethodChoice {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            MethodChoice::TracIn,
            MethodChoice::Estimate(Method::InfluenceFunction),
            MethodChoice::Estimate(Method::Ekfac),
            MethodChoice::Estimate(Method::DataInf),
            MethodChoice::Estimate(Method::Trak),
            MethodChoice::Estimate(Method::Adjoint),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            MethodChoice::TracIn => PossibleValue::new(TRACIN.0).help(TRACIN.1),
            MethodChoice::Estimate(method) => PossibleValue::new(method.name()).help(method.description()),
        })
    }
}

/// Name and meaning of TracIn, which is no estimate.
const TRACIN: (&str, &str) = ("tracin", "what each step did to the probe at that moment, to first order");

/// Every method by which influence is measured: its name and what it means.
pub(crate) fn influence_methods() -> impl Iterator<Item = (&'static str, &'static str)> {
    let estimates = Method::ALL.iter().map(|method| (method.name(), method.description()));
    std::iter::once(TRACIN).chain(estimates)
}

fn parse_curvature(text: &str) -> Result<Curvature, String> {
    match (text, text.strip_prefix("set:")) {
        ("visits", _) => Ok(Curvature::Visits),
        ("none", _) => Ok(Curvature::Nothing),
        (_, Some(name)) => Ok(Curvature::Set(name.into())),
        _ => Err("it is `visits`, `none` or `set:` and the name of a probe set".into()),
    }
}

/// Dampings from the smallest to the largest; neighbors in this order are compared.
fn sort_dampings(dampings: &[f64]) -> Vec<f64> {
    let mut sorted = dampings.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

impl MethodArguments {
    fn estimate_question(&self, question: &InfluenceQuestion) -> Option<EstimateQuestion> {
        let MethodChoice::Estimate(method) = self.method else { return None };
        let mut asked = EstimateQuestion::new(question.clone(), method);
        let relative = sort_dampings(&self.damping).into_iter().map(Damping::Relative);
        let absolute = sort_dampings(&self.damping_absolute).into_iter().map(Damping::Absolute);
        let dampings: Vec<Damping> = relative.chain(absolute).collect();
        if !dampings.is_empty() {
            asked = asked.dampings(dampings);
        }
        if let Some(threshold) = self.soft_threshold {
            asked = asked.soft_threshold(threshold);
        }
        if let Some(curvature) = &self.curvature {
            asked = asked.curvature(curvature.clone());
        }
        asked = asked.length(self.numbers.unwrap_or(method.default_length()));
        if self.by_layer {
            asked = asked.by_layer();
        }
        Some(asked)
    }

    /// Whether it is TracIn, which alone has error bars.
    pub(super) fn is_tracin(&self) -> bool {
        self.method == MethodChoice::TracIn
    }

    /// Refuses a setting that only TracIn has a use for, where another method was chosen.
    pub(super) fn check_tracin(&self, what: &'static str, given: impl Choice) -> Result<(), CliError> {
        if self.is_tracin() {
            return Ok(());
        }
        let given = given.word();
        let why = format!("{what} {given} does not fit this --method: only TracIn is a sum over layers and epochs");
        Err(CliError::Arguments(why))
    }

    /// Refuses settings that do not fit together, whatever the run holds.
    pub(super) fn check(&self, question: &InfluenceQuestion) -> Result<(), CliError> {
        let dampings = if self.damping.is_empty() { &self.damping_absolute } else { &self.damping };
        if let Some(pair) = sort_dampings(dampings).windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(CliError::Arguments(format!("the damping {} is given twice", pair[0])));
        }
        match (self.estimate_question(question), self.find_unused()) {
            (Some(asked), _) => asked.check().map_err(CliError::of_check),
            (None, Some(name)) => {
                Err(CliError::Arguments(format!("{name} is a setting of another --method than TracIn: leave it out")))
            }
            (None, None) => Ok(()),
        }
    }

    /// The setting that TracIn has no use for, if one was given.
    fn find_unused(&self) -> Option<&'static str> {
        let given = [
            (!self.damping.is_empty(), "--damping"),
            (!self.damping_absolute.is_empty(), "--damping-absolute"),
            (self.soft_threshold.is_some(), "--soft-threshold"),
            (self.curvature.is_some(), "--curvature"),
            (self.by_layer, "--by-layer"),
            (self.numbers.is_some(), "--numbers"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }

    /// Looks the question up in the run.
    pub(super) fn plan<'run>(&self, run: &'run Run, question: &InfluenceQuestion) -> Result<Plan<'run>, AnalysisError> {
        if let Some(asked) = self.estimate_question(question) {
            return Ok(Plan::Estimate(Box::new(asked.plan(run)?)));
        }
        Ok(Plan::TracIn(Box::new(question.plan(run)?)))
    }
}

/// A question that has been looked up, whichever way it is answered.
pub(super) enum Plan<'run> {
    TracIn(Box<InfluencePlan<'run>>),
    Estimate(Box<EstimatePlan<'run>>),
}

impl Plan<'_> {
    /// For [`InfluencePlan::strongest`] alone, where the method has it.
    pub(super) fn keep_strongest(self) -> Self {
        match self {
            Plan::TracIn(plan) => Plan::TracIn(Box::new(plan.keep_strongest())),
            estimate => estimate,
        }
    }

    pub(super) fn passes(&self) -> usize {
        match self {
            Plan::TracIn(plan) => plan.passes(),
            Plan::Estimate(plan) => plan.passes(),
        }
    }

    pub(super) fn probes(&self) -> usize {
        match self {
            Plan::TracIn(plan) => plan.probes(),
            Plan::Estimate(plan) => plan.probes(),
        }
    }

    /// How many columns of scores there are.
    pub(super) fn columns(&self) -> usize {
        match self {
            Plan::TracIn(plan) => plan.columns(),
            Plan::Estimate(plan) => plan.probes(),
        }
    }

    /// One answer, or one for each damping.
    pub(super) fn pass(&self, number: usize) -> Result<Vec<Influence>, AnalysisError> {
        match self {
            Plan::TracIn(plan) => Ok(vec![plan.pass(number)?]),
            Plan::Estimate(plan) => plan.pass(number),
        }
    }
}
