//! What is asked of a method, and whether the method knows such a question.

use crate::vectors::flatten::Shape;
use crate::{AnalysisError, Curvature, Damping, Method, Normalisation, Question};

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

/// Checks that the method of a question knows all of its settings.
pub(super) fn check_method(asked: &EstimateQuestion) -> Result<(), AnalysisError> {
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
