//! What an optimizer reports about a step. Both `optim` and the recorder use this module; neither uses the other.

use candle_core::{TensorId, Var};
use candle_nn::Optimizer;

/// What a loop reports about an optimizer step. A bare learning rate is enough: `pass.commit(0.1)`.
///
/// `None` means that the loop did not report the value. The log then holds no value. The log stores every value as an
/// `f32`.
///
/// ```
/// use gradlog::StepInfo;
///
/// let step = StepInfo::new(0.1).momentum(0.9).weight_decay(1e-4);
/// assert_eq!((step.momentum, StepInfo::new(0.1).momentum), (Some(0.9), None));
/// ```
/// With parameter groups, the learning rate of a layer may differ from that of the step:
///
/// ```
/// use gradlog::StepInfo;
///
/// let step = StepInfo::new(0.1).layer_rate("conv", 0.001);
/// assert_eq!(step.layer_rates, [("conv".to_string(), 0.001)]);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StepInfo {
    /// `η`, the learning rate of this step.
    pub learning_rate: f64,
    /// The factor that multiplies the summed gradient before the optimizer gets it: the factor of gradient clipping,
    /// or the inverse of a loss scale. Default 1.
    pub clip: f64,
    /// Momentum of the optimizer. Default `None`: not reported.
    pub momentum: Option<f64>,
    /// Weight decay as in SGD: the share of the weights that is added to their gradient. Default `None`: not reported.
    pub weight_decay: Option<f64>,
    /// Learning rates of layers that differ from [`StepInfo::learning_rate`], by the name of the layer.
    pub layer_rates: Vec<(String, f64)>,
    /// Learning rates of single variables, as an optimizer of this crate knows them.
    pub(crate) variable_rates: Vec<(TensorId, f64)>,
}

impl StepInfo {
    /// A step that reports the learning rate alone.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            clip: 1.0,
            momentum: None,
            weight_decay: None,
            layer_rates: Vec::new(),
            variable_rates: Vec::new(),
        }
    }

    /// Sets the factor that multiplies the gradient.
    #[must_use]
    pub fn clip(self, clip: f64) -> Self {
        Self { clip, ..self }
    }

    /// Reports the momentum.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        Self { momentum: Some(momentum), ..self }
    }

    /// Reports the weight decay.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
    }

    /// Sets the learning rate of one tapped layer, where parameter groups have rates of their own. All parameters of
    /// the layer have this rate; 0 means that the step does not train it. Say it in each step: a layer that is not
    /// named has the rate of the step.
    ///
    /// Scores that multiply by the learning rate use it. Layers with several positions per example share one folded
    /// vector, so they need one rate, or these scores are refused.
    ///
    /// The log holds the ratio to the rate of the step, in a row for each change. So the rate of the step itself must
    /// be above 0: give that of the largest group.
    #[must_use]
    pub fn layer_rate(mut self, layer: impl Into<String>, learning_rate: f64) -> Self {
        self.layer_rates.push((layer.into(), learning_rate));
        self
    }
}

impl StepInfo {
    /// Reports rates by variable. The recorder finds the layers that have them.
    pub(crate) fn variable_rates(self, variable_rates: Vec<(TensorId, f64)>) -> Self {
        Self { variable_rates, ..self }
    }

    /// What no optimizer step can have, if there is such a value.
    pub(crate) fn find_fault(&self) -> Option<String> {
        let Self { learning_rate, clip, momentum, weight_decay, .. } = *self;
        // The log holds each value as an f32.
        let refused = |value: &f64, least: f64| !(*value >= least && (*value as f32).is_finite());
        let factors = [("learning rate", Some(learning_rate)), ("clip factor", Some(clip))];
        let told = [("momentum", momentum), ("weight decay", weight_decay)];
        let (factors, told) = (factors.map(|named| (named, 0.0)), told.map(|named| (named, f64::MIN)));
        factors.into_iter().chain(told).find_map(|((name, value), least)| {
            let value = value.filter(|value| refused(value, least))?;
            let needed = if least == 0.0 { "0 or a positive number" } else { "a finite number" };
            Some(format!("the {name} is {value} and must be {needed}"))
        })
    }
}

impl From<f64> for StepInfo {
    fn from(learning_rate: f64) -> Self {
        Self::new(learning_rate)
    }
}

/// An optimizer that reports its next step, for [`Pass::backward_step`](crate::Pass::backward_step) and
/// [`Pass::commit`](crate::Pass::commit).
///
/// Implement it for your own optimizer. An optimizer from another crate needs a wrapper type, because of Rust's orphan
/// rule:
///
/// ```
/// use candle_core::{backprop::GradStore, Result, Var};
/// use candle_nn::{AdamW, Optimizer, ParamsAdamW};
/// use gradlog::{StepInfo, StepReport};
///
/// struct Mine(AdamW);
///
/// impl StepReport for Mine {
///     fn step_info(&self) -> StepInfo {
///         StepInfo::new(self.0.learning_rate())
///     }
/// }
/// # let mine = Mine(AdamW::new(vec![], ParamsAdamW { lr: 0.5, ..Default::default() })?);
/// # assert_eq!(mine.step_info(), 0.5.into());
/// # Ok::<(), candle_core::Error>(())
/// ```
pub trait StepReport {
    /// What the optimizer's next step does. Leave out what is not known: the log then holds no value.
    fn step_info(&self) -> StepInfo;

    /// The variables that the optimizer changes, if it shows them. Default `None`.
    ///
    /// [`Pass::backward_step`](crate::Pass::backward_step) then knows which variables need no gradient, and refuses a
    /// layer of which the optimizer has only a part.
    fn variables(&self) -> Option<Vec<Var>> {
        None
    }

    /// Whether the optimizer itself adds up the gradients of the passes since its last step, as PyTorch's `.grad` does.
    /// Default `false`: the optimizers of candle and of gradlog step with the gradients of one call alone.
    ///
    /// Only then does [`Pass::backward_step`](crate::Pass::backward_step) end a step whose earlier passes went through
    /// [`Pass::accumulate`](crate::Pass::accumulate).
    fn accumulates(&self) -> bool {
        false
    }
}

/// Reports momentum 0 and weight decay 0: candle's SGD has neither.
impl StepReport for candle_nn::SGD {
    fn step_info(&self) -> StepInfo {
        StepInfo::new(self.learning_rate()).momentum(0.0).weight_decay(0.0)
    }
}

/// Reports the learning rate alone. AdamW's moments are not the momentum of SGD, and its weight decay does not go
/// through the gradient.
impl StepReport for candle_nn::AdamW {
    fn step_info(&self) -> StepInfo {
        StepInfo::new(self.learning_rate())
    }
}
