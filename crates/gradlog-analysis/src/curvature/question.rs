//! What is asked of a method, and whether the method knows such a question.

use crate::vectors::flatten::Shape;
use crate::{AnalysisError, Curvature, Damping, InfluenceQuestion, Method, Normalization, OptimizerChoice, ProbeTime};

/// Asks about influence by another method than TracIn: influence functions, EK-FAC, DataInf, TRAK's estimator or the
/// adjoint. [`Method`] has the formulas. There is an answer for each damping.
///
/// ```no_run
/// use gradlog_analysis::{Damping, EstimateQuestion, InfluenceQuestion, Method, Run};
///
/// let question = InfluenceQuestion::new("test").id(3).epochs(9..);
/// let estimate = EstimateQuestion::new(question, Method::InfluenceFunction).damping(Damping::Relative(0.1));
/// let answers = estimate.compute(&Run::open("runs/mnist")?)?;
/// println!("{}", answers[0].variant());
/// # Ok::<(), gradlog_analysis::AnalysisError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EstimateQuestion {
    /// Which probes, and which visits count. It chooses no probe time: each probe is taken at one time, said
    /// at each [`Method`]. Of its normalizations influence functions and EK-FAC know [`Normalization::Relatif`],
    /// the others none.
    pub(crate) question: InfluenceQuestion,
    /// By which method.
    pub(crate) method: Method,
    /// How long the flat vectors are, and whether layers are taken to have no curvature in common.
    pub(crate) shape: Shape,
    /// What is added to the curvature before it is inverted: one answer for each.
    pub(crate) dampings: Vec<Damping>,
    /// Whose gradients make the curvature.
    pub(crate) curvature: Curvature,
    /// The soft threshold of TRAK's scores.
    pub(crate) soft_threshold: Option<f64>,
}

window_options!(EstimateQuestion, question);
progress_options!(EstimateQuestion, question);

impl EstimateQuestion {
    /// Answers `question` by `method`, with whole gradients of [`Method::default_length`], a damping of a tenth of the
    /// mean eigenvalue where there is one to choose, and the visits' own gradients as curvature.
    ///
    /// Each probe is taken at one time, said at each [`Method`]. Of the normalizations influence functions and EK-FAC
    /// know [`Normalization::Relatif`], the other methods none. A question with another probe time, error bars, layers
    /// or a group is refused.
    pub fn new(question: InfluenceQuestion, method: Method) -> Self {
        Self {
            question,
            method,
            shape: Shape { length: method.default_length(), by_layer: method == Method::Ekfac },
            dampings: if method == Method::Adjoint { Vec::new() } else { vec![Damping::Relative(0.1)] },
            curvature: Curvature::Visits,
            soft_threshold: None,
        }
    }

    /// What is added to the curvature before it is inverted. The adjoint inverts nothing and takes none.
    #[must_use]
    pub fn damping(self, damping: Damping) -> Self {
        self.dampings([damping])
    }

    /// Several dampings: there is one answer for each, in their order.
    #[must_use]
    pub fn dampings(mut self, dampings: impl IntoIterator<Item = Damping>) -> Self {
        self.dampings = dampings.into_iter().collect();
        self
    }

    /// Whose gradients make the curvature. DataInf and TRAK have it in their definitions and take
    /// [`Curvature::Visits`].
    #[must_use]
    pub fn curvature(mut self, curvature: Curvature) -> Self {
        self.curvature = curvature;
        self
    }

    /// The most numbers of a gradient, or with [`by_layer`](Self::by_layer) of a layer's; a longer one is folded. For
    /// EK-FAC, of a side of a layer without the 1 of its bias, and of the folded vector. 1 to
    /// [`VectorQuestion::LENGTH_MAX`](crate::VectorQuestion::LENGTH_MAX).
    #[must_use]
    pub fn length(mut self, length: usize) -> Self {
        self.shape.length = length;
        self
    }

    /// Takes each layer by itself, as if layers had no curvature in common. EK-FAC does so in any case.
    #[must_use]
    pub fn by_layer(mut self) -> Self {
        self.shape.by_layer = true;
        self
    }

    /// The soft threshold of TRAK's scores, in their unit ([`Method::Trak`]). The other methods take none.
    #[must_use]
    pub fn soft_threshold(mut self, threshold: f64) -> Self {
        self.soft_threshold = Some(threshold);
        self
    }
}

/// Checks that the method of a question knows all of its settings.
pub(super) fn check_method(asked: &EstimateQuestion) -> Result<(), AnalysisError> {
    let wrong = |what, given: String, range: &str| Err(AnalysisError::OutOfRange { what, given, range: range.into() });
    let question = &asked.question;
    if let Some(share) = question.share {
        let range = "left out: the curvature is made of all of them, and only TracIn can be shared out";
        return wrong("the share of the examples", share.to_string(), range);
    }
    let one_inverse = matches!(asked.method, Method::InfluenceFunction | Method::Ekfac);
    let relatif = one_inverse && question.normalization == Normalization::Relatif;
    if question.normalization != Normalization::None && !relatif {
        let range = "none, or relatif for influence functions and EK-FAC: all others are defined for TracIn alone";
        return wrong("the normalization", question.normalization.name().into(), range);
    }
    if let Some(threshold) = asked.soft_threshold {
        if asked.method != Method::Trak {
            return wrong("the soft threshold", "given".into(), "left out: it belongs to TRAK's scores");
        }
        if !(threshold.is_finite() && threshold >= 0.0) {
            return wrong("the soft threshold", threshold.to_string(), "at least 0 and finite");
        }
    }
    if question.sketch_errors {
        return wrong("the sketch errors", "asked for".into(), "left out: only TracIn has error bars");
    }
    if question.time != ProbeTime::default() {
        let range = "left out: only TracIn chooses a probe time for each step";
        return wrong("the probe time", format!("{:?}", question.time).to_lowercase(), range);
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
    if question.optimizer != OptimizerChoice::Recorded && asked.method != Method::Adjoint {
        return wrong(
            "the choice of the optimizer",
            question.optimizer.name().into(),
            "left out: no step plays a part, so the answer is the same for every optimizer",
        );
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
        let value = damping.value();
        if !(value.is_finite() && value > 0.0) {
            return wrong("the damping", value.to_string(), "above 0 and finite");
        }
    }
    let fits = match (asked.method, &asked.curvature) {
        (Method::Adjoint, _) | (_, Curvature::Visits) => true,
        (Method::InfluenceFunction | Method::Ekfac, curvature) => *curvature != Curvature::Nothing,
        _ => false,
    };
    if !fits {
        return wrong(
            "the curvature",
            asked.curvature.to_string(),
            "that of the visits for DataInf and TRAK, of the visits or a probe set for influence functions and EK-FAC, any for the adjoint",
        );
    }
    Ok(())
}
