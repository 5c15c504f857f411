//! What Adam and AdamW share: two moments of the gradient for each variable, and the step that they give.

use super::buffer::{lock, state_type, Buffer};
use super::group::{common_decay, list_parameters, own_decays, own_rates, Parameter, ParameterGroup};
use super::{check_number, check_shape, check_share, in_place};
use crate::step::{AdamStep, SecondMoments, StepInfo, StepRule};
use crate::taps::cpu_f32;
use candle_core::backprop::GradStore;
use candle_core::{bail, Result, Tensor, Var};
use candle_nn::ParamsAdamW;

/// Settings of [`Adam`](super::Adam) and [`AdamW`](super::AdamW).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AdamConfig {
    /// `η`, the learning rate.
    pub learning_rate: f64,
    /// `β₁`, the share of the first moment that a step keeps. Default 0.9.
    pub beta1: f64,
    /// `β₂`, the share of the second moment that a step keeps. Default 0.999.
    pub beta2: f64,
    /// `ε`, which is added to the root of the second moment. Default 1e-8.
    pub epsilon: f64,
    /// `λ`, the weight decay. Default `None`: 0.01 in `AdamW` and 0 in `Adam`, as in PyTorch.
    pub weight_decay: Option<f64>,
}

impl AdamConfig {
    /// The default settings with this learning rate.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: None }
    }

    /// Sets the shares of the two moments that a step keeps.
    #[must_use]
    pub fn betas(self, beta1: f64, beta2: f64) -> Self {
        Self { beta1, beta2, ..self }
    }

    /// Sets what is added to the root of the second moment.
    #[must_use]
    pub fn epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
    }

    /// Sets the weight decay.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
    }
}

/// The settings of candle's AdamW.
impl From<ParamsAdamW> for AdamConfig {
    fn from(params: ParamsAdamW) -> Self {
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = params;
        Self { learning_rate: lr, beta1, beta2, epsilon: eps, weight_decay: Some(weight_decay) }
    }
}

/// Where the weight decay acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decay {
    /// On the weights: `w ← (1 − ηλ) w` (AdamW).
    Weights,
    /// On the gradient: `g ← g + λ w` (Adam).
    Gradient,
}

/// What a step keeps of a variable.
#[derive(Debug)]
pub(super) struct Moments {
    pub first: Buffer,
    pub second: Buffer,
    /// Steps in which the variable had a gradient.
    pub steps: u64,
}

/// The variables, their moments, and the settings.
#[derive(Debug)]
pub(super) struct Core {
    /// The moments are `None` before the first gradient.
    pub parameters: Vec<Parameter<Option<Moments>>>,
    pub config: AdamConfig,
    decay: Decay,
    /// Whether variables in main memory are stepped like those on other devices.
    pub by_ops: bool,
}

impl Core {
    pub(super) fn new(groups: Vec<ParameterGroup>, config: AdamConfig, decay: Decay) -> Result<Self> {
        let default = if decay == Decay::Weights { 0.01 } else { 0.0 };
        let weight_decay = config.weight_decay.unwrap_or(default);
        let config = AdamConfig { weight_decay: Some(weight_decay), ..config };
        check_number("learning rate", config.learning_rate)?;
        check_number("weight decay", weight_decay)?;
        check_number("epsilon", config.epsilon)?;
        check_share("beta1", config.beta1)?;
        check_share("beta2", config.beta2)?;
        Ok(Self { parameters: list_parameters(groups, weight_decay)?, config, decay, by_ops: false })
    }

    /// What the next step does.
    pub(super) fn step_info(&self) -> StepInfo {
        let AdamConfig { learning_rate, beta1, beta2, epsilon, weight_decay } = self.config;
        let taken = self.parameters.iter().filter_map(|parameter| parameter.state.as_ref()).map(|own| own.steps).max();
        let step = AdamStep::new((beta1, beta2), epsilon, taken.unwrap_or(0) + 1);
        let rule = if self.decay == Decay::Weights { StepRule::AdamW(step) } else { StepRule::Adam(step) };
        let mut info = StepInfo::new(learning_rate).rule(rule);
        let decay = common_decay(&self.parameters, weight_decay.unwrap_or(0.0));
        info.weight_decay = Some(decay);
        info.variable_rates(own_rates(&self.parameters, learning_rate))
            .variable_decays(own_decays(&self.parameters, decay))
    }

    /// The second moments after the last step. A variable that never had a gradient has none.
    pub(super) fn second_moments(&self) -> SecondMoments {
        let mut moments = SecondMoments::new();
        for parameter in &self.parameters {
            let Some(Moments { second, steps, .. }) = &parameter.state else { continue };
            match second {
                Buffer::Numbers(numbers) => moments.push_shared(&parameter.variable, numbers.clone(), *steps),
                Buffer::Tensor(tensor) => moments.push_of(&parameter.variable, tensor.clone(), *steps),
            }
        }
        moments
    }

    pub(super) fn step(&mut self, grads: &GradStore) -> Result<()> {
        check_number("learning rate", self.config.learning_rate)?;
        for parameter in &mut self.parameters {
            let Some(gradient) = grads.get(&parameter.variable) else { continue };
            check_shape(&parameter.variable, gradient)?;
            if !gradient.device().same_device(parameter.variable.device())
                || gradient.dtype() != parameter.variable.dtype()
            {
                bail!(
                    "a gradient of {:?} does not fit a variable of {:?}",
                    gradient.dtype(),
                    parameter.variable.dtype()
                );
            }
            let moments = match &mut parameter.state {
                Some(moments) => moments,
                empty => {
                    let zeros = || Buffer::zeros(&parameter.variable, self.by_ops);
                    let [first, second] = [zeros()?, zeros()?];
                    empty.insert(Moments { first, second, steps: 0 })
                }
            };
            moments.steps += 1;
            let rate = self.config.learning_rate * parameter.rate_factor;
            let rule = Rule::new(&self.config, self.decay, (rate, parameter.weight_decay), moments.steps);
            rule.step(&parameter.variable, gradient, moments)?;
        }
        Ok(())
    }
}

/// One step of one variable, in candle's order of operations.
struct Rule {
    rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    /// `1 / (1 − β₁ᵗ)` and `1 / (1 − β₂ᵗ)`.
    scales: (f64, f64),
    /// What the weights are multiplied by.
    shrink: f64,
    /// The share of the weights that is added to the gradient.
    coupled: f64,
}

impl Rule {
    fn new(config: &AdamConfig, decay: Decay, (rate, weight_decay): (f64, f64), steps: u64) -> Self {
        let steps = i32::try_from(steps).unwrap_or(i32::MAX);
        let scale = |beta: f64| 1.0 / (1.0 - beta.powi(steps));
        let (shrink, coupled) = match decay {
            Decay::Weights => (1.0 - rate * weight_decay, 0.0),
            Decay::Gradient => (1.0, weight_decay),
        };
        let AdamConfig { beta1, beta2, epsilon, .. } = *config;
        Self { rate, beta1, beta2, epsilon, scales: (scale(beta1), scale(beta2)), shrink, coupled }
    }

    fn step(&self, variable: &Var, gradient: &Tensor, moments: &mut Moments) -> Result<()> {
        match (&mut moments.first, &mut moments.second) {
            (Buffer::Numbers(first), Buffer::Numbers(second)) if cpu_f32(&[variable, gradient]) => {
                self.step_in_place(variable, gradient, [&mut lock(first), &mut lock(second)])
            }
            (Buffer::Tensor(first), Buffer::Tensor(second)) => self.step_by_ops(variable, gradient, [first, second]),
            _ => bail!("the optimizer's state does not fit the variable"),
        }
    }

    fn step_in_place(&self, variable: &Var, gradient: &Tensor, moments: [&mut [f32]; 2]) -> Result<()> {
        let [beta1, beta2, rest1, rest2] =
            [self.beta1, self.beta2, 1.0 - self.beta1, 1.0 - self.beta2].map(|b| b as f32);
        let (scale1, scale2) = (self.scales.0 as f32, self.scales.1 as f32);
        let [rate, epsilon, shrink, coupled] = [self.rate, self.epsilon, self.shrink, self.coupled].map(|x| x as f32);
        in_place::update(
            variable,
            gradient,
            moments,
            #[inline(always)]
            |weights, gradient, [first, second]| {
                let numbers = weights.iter_mut().zip(gradient).zip(first.iter_mut().zip(second));
                for ((w, g), (m, v)) in numbers {
                    let g = g + *w * coupled;
                    *m = *m * beta1 + g * rest1;
                    *v = *v * beta2 + g * g * rest2;
                    // candle adds this zero. It turns `-0` into `+0`.
                    *w = (*w * shrink + 0.0) - (*m * scale1) / ((*v * scale2).sqrt() + epsilon) * rate;
                }
            },
        )
    }

    fn step_by_ops(&self, variable: &Var, gradient: &Tensor, [first, second]: [&mut Tensor; 2]) -> Result<()> {
        let before = variable.as_detached_tensor().to_dtype(state_type(variable))?;
        // A gradient can hold its graph. Moments that kept it would keep the graphs of all steps so far.
        let gradient = gradient.detach().to_dtype(before.dtype())?;
        let gradient = if self.coupled == 0.0 { gradient } else { (gradient + (&before * self.coupled)?)? };
        *first = ((&*first * self.beta1)? + (&gradient * (1.0 - self.beta1))?)?;
        *second = ((&*second * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let direction = ((&*first * self.scales.0)? / ((&*second * self.scales.1)?.sqrt()? + self.epsilon)?)?;
        variable.set(&((before * self.shrink)? - (direction * self.rate)?)?.to_dtype(variable.dtype())?)
    }
}
