//! What an optimizer reports about a step. Both `optim` and the recorder use this module; neither uses the other.

use candle_core::{Device, Result, Tensor, TensorId, Var};
use candle_nn::Optimizer;
use gradlog_format::log::UpdateRule;
use std::sync::{Arc, Mutex, PoisonError};

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
    /// How many steps the optimizer has taken since its velocity was empty, this one included. Default `None`: not
    /// reported. Adam reports its count in [`StepInfo::rule`].
    pub steps_taken: Option<u64>,
    /// The rule of the step. Default `None`: not reported, and scores take the step as one of plain SGD.
    pub rule: Option<StepRule>,
    /// Learning rates of layers that differ from [`StepInfo::learning_rate`], by the name of the layer.
    pub layer_rates: Vec<(String, f64)>,
    /// Learning rates of single variables, as an optimizer of this crate knows them.
    pub(crate) variable_rates: Vec<(TensorId, f64)>,
    /// Weight decays of single variables that differ from [`StepInfo::weight_decay`].
    pub(crate) variable_decays: Vec<(TensorId, f64)>,
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
            steps_taken: None,
            rule: None,
            layer_rates: Vec::new(),
            variable_rates: Vec::new(),
            variable_decays: Vec::new(),
        }
    }

    /// Sets the factor that multiplies the gradient.
    ///
    /// A step with gradient clipping, in a loop that calls backward and the optimizer itself:
    ///
    /// ```
    /// # use candle_core::{DType, Device, Module, Tensor};
    /// # use candle_nn::{Optimizer, VarBuilder, VarMap};
    /// # use gradlog::{optim::AdamW, Config, Recorder, StepReport, Taps};
    /// # let dir = std::env::temp_dir().join(format!("gradlog-doc-clip-{}", std::process::id()));
    /// # let (taps, device, variables) = (Taps::new(), Device::Cpu, VarMap::new());
    /// # let builder = VarBuilder::from_varmap(&variables, DType::F32, &device);
    /// # let model = taps.tap("head", candle_nn::linear(3, 2, builder.pp("head"))?);
    /// # let mut recorder = Recorder::create(&dir, &taps, Config::default())?;
    /// let mut optimizer = AdamW::new_lr(variables.all_vars(), 1e-3)?;
    /// # let (ids, inputs) = ([0, 1], Tensor::ones((2, 3), DType::F32, &device)?);
    /// # let labels = Tensor::new(&[0u32, 1], &device)?;
    /// let mut pass = recorder.pass(&ids)?;
    /// let loss = pass.cross_entropy(&model.forward(&inputs)?, &labels)?;
    /// let mut gradients = loss.backward()?;
    /// let mut squared = 0.0;
    /// for variable in variables.all_vars() {
    ///     if let Some(gradient) = gradients.get(&variable) {
    ///         squared += gradient.sqr()?.sum_all()?.to_scalar::<f32>()?;
    ///     }
    /// }
    /// let clip = f64::from((1.0 / squared.sqrt()).min(1.0)); // a norm of 1 at most
    /// for variable in variables.all_vars() {
    ///     if let Some(gradient) = gradients.remove(&variable) {
    ///         gradients.insert(&variable, (gradient * clip)?);
    ///     }
    /// }
    /// pass.commit(optimizer.step_info().clip(clip))?;
    /// optimizer.step(&gradients)?;
    /// recorder.read_moments(&optimizer); // Adam alone needs this
    /// # recorder.finish()?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Reports how many steps the optimizer has taken since its velocity was empty, this one included. The adjoint then
    /// knows where momentum begins anew.
    #[must_use]
    pub fn steps_taken(self, steps_taken: u64) -> Self {
        Self { steps_taken: Some(steps_taken), ..self }
    }

    /// Reports the rule of the step.
    #[must_use]
    pub fn rule(self, rule: StepRule) -> Self {
        Self { rule: Some(rule), ..self }
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
    /// Reports the weight decay of one variable, for an optimizer with parameter groups. Transformers, for example,
    /// usually train biases and norms without weight decay. Report it in each step: a variable without a report has
    /// [`StepInfo::weight_decay`].
    ///
    /// The adjoint uses it. The log holds a row for each change.
    #[must_use]
    pub fn variable_decay(mut self, variable: &Var, weight_decay: f64) -> Self {
        self.variable_decays.push((variable.id(), weight_decay));
        self
    }
}

/// The rule by which an optimizer takes a step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum StepRule {
    /// SGD as in PyTorch, without dampening: `v ← μv + g + λw`, `w ← w − ηv`.
    Sgd,
    /// The same with Nesterov momentum: `w ← w − η(g + λw + μv)`.
    NesterovSgd,
    /// Adam, with the weight decay in the gradient.
    Adam(AdamStep),
    /// AdamW, with the weight decay on the weights.
    AdamW(AdamStep),
}

impl StepRule {
    pub(crate) fn in_log(self) -> UpdateRule {
        match self {
            StepRule::Sgd => UpdateRule::Sgd,
            StepRule::NesterovSgd => UpdateRule::NesterovSgd,
            StepRule::Adam(_) => UpdateRule::Adam,
            StepRule::AdamW(_) => UpdateRule::AdamW,
        }
    }

    /// The numbers of Adam.
    pub(crate) fn adam(self) -> Option<AdamStep> {
        match self {
            StepRule::Adam(step) | StepRule::AdamW(step) => Some(step),
            StepRule::Sgd | StepRule::NesterovSgd => None,
        }
    }
}

/// The numbers of a step of Adam.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AdamStep {
    /// `β₁`, the share of the first moment that a step keeps.
    pub beta1: f64,
    /// `β₂`, the share of the second moment that a step keeps.
    pub beta2: f64,
    /// `ε`, which is added to the root of the second moment.
    pub epsilon: f64,
    /// `t` of the bias corrections: how many steps the optimizer has taken, this one included. 0 if it is not known.
    pub steps_taken: u64,
}

impl AdamStep {
    /// A step, the `steps_taken`th of the optimizer, counted from 1; 0 if the count is not known.
    #[must_use]
    pub fn new((beta1, beta2): (f64, f64), epsilon: f64, steps_taken: u64) -> Self {
        Self { beta1, beta2, epsilon, steps_taken }
    }

    /// `1/(1 − β₂ᵗ)`, of a variable that had a gradient in `steps` steps; `None` for all steps.
    pub(crate) fn second_correction(&self, steps: Option<u64>) -> f32 {
        let steps = i32::try_from(steps.unwrap_or(self.steps_taken)).unwrap_or(i32::MAX);
        (1.0 / (1.0 - self.beta2.powi(steps.max(1)))) as f32
    }
}

/// The second moments `v` of Adam, by variable, for [`StepReport::second_moments`]. They are read when a probe is
/// recorded, and every 64 steps or oftener for the norms of visits.
#[derive(Debug, Clone, Default)]
pub struct SecondMoments {
    by_variable: Vec<Entry>,
}

/// Numbers that an optimizer of this crate updates in place.
pub(crate) type SharedNumbers = Arc<Mutex<Vec<f32>>>;

#[derive(Debug, Clone)]
struct Entry {
    variable: TensorId,
    moment: Moment,
    /// Steps in which the variable had a gradient; `None` if that is all steps.
    steps: Option<u64>,
}

#[derive(Debug, Clone)]
enum Moment {
    Tensor(Tensor),
    Shared(SharedNumbers),
}

impl SecondMoments {
    /// No moments yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the second moment of a variable: `v` without bias correction, of the variable's shape. The correction is
    /// that of [`AdamStep::steps_taken`], unless [`SecondMoments::push_of`] says in how many steps it had a gradient.
    pub fn push(&mut self, variable: &Var, moment: Tensor) {
        self.by_variable.push(Entry { variable: variable.id(), moment: Moment::Tensor(moment), steps: None });
    }

    /// As [`SecondMoments::push`], of a variable that had a gradient in `steps` steps alone: a layer that is trained
    /// from later on.
    pub fn push_of(&mut self, variable: &Var, moment: Tensor, steps: u64) {
        self.by_variable.push(Entry { variable: variable.id(), moment: Moment::Tensor(moment), steps: Some(steps) });
    }

    pub(crate) fn push_shared(&mut self, variable: &Var, moment: SharedNumbers, steps: u64) {
        self.by_variable.push(Entry { variable: variable.id(), moment: Moment::Shared(moment), steps: Some(steps) });
    }

    /// The moments of a variable as numbers, in the order of its elements, and in how many steps it had a gradient.
    pub(crate) fn read(&self, variable: TensorId) -> Result<Option<(Vec<f32>, Option<u64>)>> {
        let Some(entry) = self.by_variable.iter().find(|entry| entry.variable == variable) else { return Ok(None) };
        let numbers = match &entry.moment {
            Moment::Tensor(tensor) => crate::taps::read_f32(tensor)?,
            Moment::Shared(numbers) => numbers.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        Ok(Some((numbers, entry.steps)))
    }

    /// As [`SecondMoments::read`], as a tensor where they are. It waits for nothing.
    pub(crate) fn tensor(&self, variable: TensorId) -> Result<Option<(Tensor, Option<u64>)>> {
        let Some(entry) = self.by_variable.iter().find(|entry| entry.variable == variable) else { return Ok(None) };
        let tensor = match &entry.moment {
            Moment::Tensor(tensor) => tensor.detach(),
            Moment::Shared(numbers) => {
                let numbers = numbers.lock().unwrap_or_else(PoisonError::into_inner);
                Tensor::from_slice(&numbers, numbers.len(), &Device::Cpu)?
            }
        };
        Ok(Some((tensor, entry.steps)))
    }
}

impl StepInfo {
    /// Reports rates by variable. The recorder finds the layers that have them.
    pub(crate) fn variable_rates(self, variable_rates: Vec<(TensorId, f64)>) -> Self {
        Self { variable_rates, ..self }
    }

    /// Reports decays by variable.
    pub(crate) fn variable_decays(self, variable_decays: Vec<(TensorId, f64)>) -> Self {
        Self { variable_decays, ..self }
    }

    /// What no optimizer step can have, if there is such a value.
    pub(crate) fn find_fault(&self) -> Option<String> {
        let Self { learning_rate, clip, momentum, weight_decay, .. } = *self;
        // The log holds each value as an f32.
        let refused = |value: &f64, least: f64| !(*value >= least && (*value as f32).is_finite());
        let factors = [("learning rate", Some(learning_rate)), ("clip factor", Some(clip))];
        let told = [("momentum", momentum), ("weight decay", weight_decay)];
        if let Some(AdamStep { beta1, beta2, epsilon, .. }) = self.rule.and_then(StepRule::adam) {
            let shares = [("beta1", beta1), ("beta2", beta2)];
            if let Some((name, value)) = shares.into_iter().find(|(_, beta)| !(0.0..1.0).contains(beta)) {
                return Some(format!("{name} is {value} and must be at least 0 and below 1"));
            }
            if !(epsilon >= 0.0 && (epsilon as f32).is_finite()) {
                return Some(format!("epsilon is {epsilon} and must be 0 or a positive number"));
            }
        }
        let own = self.variable_decays.iter().map(|(_, decay)| decay);
        if let Some(decay) = own.into_iter().find(|decay| !(decay.is_finite() && (**decay as f32).is_finite())) {
            return Some(format!("the weight decay of a variable is {decay} and must be a finite number"));
        }
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

    /// The second moments of Adam after the last step, if the optimizer shows them. Default `None`.
    ///
    /// With them, probes are recorded a second time, multiplied by `1/(√v̂ + ε)`, and visits get the norm of their
    /// gradient in that metric. TracIn and self-influence then follow the steps that Adam took. [`StepInfo::rule`] must
    /// say that it is Adam.
    fn second_moments(&self) -> Option<SecondMoments> {
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
        StepInfo::new(self.learning_rate()).momentum(0.0).weight_decay(0.0).rule(StepRule::Sgd)
    }
}

/// Reports the rule. candle hides the moments and the count of steps, so scores take the steps as plain SGD:
/// [`optim::AdamW`](crate::optim::AdamW) shows them.
impl StepReport for candle_nn::AdamW {
    fn step_info(&self) -> StepInfo {
        let params = self.params();
        let step = AdamStep::new((params.beta1, params.beta2), params.eps, 0);
        StepInfo::new(self.learning_rate()).weight_decay(params.weight_decay).rule(StepRule::AdamW(step))
    }
}
