//! SGD with momentum, dampening, Nesterov momentum and weight decay, in place.

use super::buffer::{lock, state_type, Buffer};
use super::group::{common_decay, list_parameters, own_decays, own_rates, Parameter, ParameterGroup};
use super::{check_number, check_shape, in_place};
use crate::step::{StepInfo, StepReport, StepRule};
use candle_core::backprop::GradStore;
use candle_core::{bail, Result, Tensor, Var};
use candle_nn::Optimizer;

/// Settings of [`Sgd`]. Each number must be finite and at least 0.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SgdConfig {
    /// `η`, the learning rate.
    pub learning_rate: f64,
    /// `μ`, the momentum: the share of the last step's velocity that this step keeps. Default 0.
    pub momentum: f64,
    /// `λ`, the weight decay: the share of the weights that is added to their gradient. Default 0.
    pub weight_decay: f64,
    /// `τ`, the dampening: the share of the gradient that the velocity does not take, except in the first step.
    /// Default 0.
    pub dampening: f64,
    /// Whether the step looks ahead along the velocity. Default `false`.
    pub nesterov: bool,
}

impl SgdConfig {
    /// Plain SGD, without momentum and weight decay.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, momentum: 0.0, weight_decay: 0.0, dampening: 0.0, nesterov: false }
    }

    /// Sets the momentum.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// Sets the weight decay.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay, ..self }
    }

    /// Sets the dampening.
    #[must_use]
    pub fn dampening(self, dampening: f64) -> Self {
        Self { dampening, ..self }
    }

    /// Uses Nesterov momentum. It needs a momentum and no dampening.
    #[must_use]
    pub fn nesterov(self) -> Self {
        Self { nesterov: true, ..self }
    }

    fn check(&self) -> Result<()> {
        let Self { learning_rate, momentum, weight_decay, dampening, nesterov } = *self;
        check_number("learning rate", learning_rate)?;
        check_number("momentum", momentum)?;
        check_number("weight decay", weight_decay)?;
        check_number("dampening", dampening)?;
        if nesterov && (momentum == 0.0 || dampening != 0.0) {
            bail!("Nesterov momentum needs a momentum above 0 and a dampening of 0");
        }
        Ok(())
    }
}

/// SGD as in PyTorch's `torch.optim.SGD`. With `d = g + λ·w`, the velocity is `v ← μ·v + (1 − τ)·d`, and `v = d` in
/// the first step. Then `w ← w − η·v`, or with Nesterov momentum `w ← w − η·(d + μ·v)`.
///
/// Without momentum and weight decay the weights equal those of [`candle_nn::SGD`] bit for bit. For f32 in main memory
/// a step writes only into the weights and velocities. For other dtypes and on other devices it uses candle's ops, in
/// the variable's type, and for f16 and bf16 in f32: velocities are then f32.
///
/// `pass.commit(optimizer.step_info())` and [`Pass::backward_step`](crate::Pass::backward_step) record momentum and
/// weight decay. `pass.commit(optimizer.learning_rate())` records the learning rate alone.
///
/// ```
/// # use candle_core::{Device, Tensor, Var};
/// # use candle_nn::Optimizer;
/// use gradlog::optim::{Sgd, SgdConfig};
///
/// let weight = Var::new(&[1f32, -2.], &Device::Cpu)?;
/// let mut optimizer = Sgd::new(vec![weight.clone()], SgdConfig::new(0.5).momentum(0.9))?;
/// let grads = weight.sqr()?.sum_all()?.backward()?; // 2·w
/// // With a recorder: pass.commit(optimizer.step_info())?;
/// optimizer.step(&grads)?;
/// assert_eq!(weight.to_vec1::<f32>()?, [0., 0.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct Sgd {
    /// The velocity is `None` without momentum and before the first gradient.
    pub(super) state: Velocities,
    config: SgdConfig,
}

/// What an optimizer keeps from step to step.
pub(super) struct Velocities {
    pub parameters: Vec<Parameter<Option<Buffer>>>,
    /// Whether variables in main memory are stepped like those on other devices.
    pub by_ops: bool,
    /// Steps that were taken since the velocities were empty. `None` if a state without the count was loaded.
    pub steps: Option<u64>,
}

/// Prints the settings and the number of variables, not their values.
impl std::fmt::Debug for Sgd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Sgd");
        out.field("config", &self.config).field("variables", &self.state.parameters.len()).finish_non_exhaustive()
    }
}

/// Reports the rule, learning rate, momentum, weight decay, count of steps, and the rates and decays of parameter
/// groups. With dampening, rule and momentum count as not told.
impl StepReport for Sgd {
    fn step_info(&self) -> StepInfo {
        let SgdConfig { learning_rate, momentum, weight_decay, dampening, nesterov } = self.config;
        let parameters = &self.state.parameters;
        let mut info = StepInfo::new(learning_rate).variable_rates(own_rates(parameters, learning_rate));
        let decay = common_decay(parameters, weight_decay);
        info.weight_decay = Some(decay);
        info = info.variable_decays(own_decays(parameters, decay));
        info.steps_taken = self.state.steps.map(|steps| steps + 1);
        info.momentum = (dampening == 0.0).then_some(momentum);
        info.rule = (dampening == 0.0).then_some(if nesterov { StepRule::NesterovSgd } else { StepRule::Sgd });
        info
    }

    fn variables(&self) -> Option<Vec<Var>> {
        Some(self.state.parameters.iter().map(|parameter| parameter.variable.clone()).collect())
    }
}

impl Sgd {
    /// Makes an optimizer of groups of variables.
    ///
    /// # Errors
    /// An error if a number is negative, infinite or NaN, if a variable occurs twice, or if Nesterov momentum has no
    /// momentum or a dampening.
    pub fn with_groups(groups: Vec<ParameterGroup>, config: SgdConfig) -> Result<Self> {
        config.check()?;
        let parameters = list_parameters(groups, config.weight_decay)?;
        Ok(Self { state: Velocities { parameters, by_ops: false, steps: Some(0) }, config })
    }
}

impl Optimizer for Sgd {
    type Config = SgdConfig;

    /// Makes an optimizer of those `variables` that hold floating-point numbers.
    ///
    /// # Errors
    /// As [`Sgd::with_groups`].
    fn new(variables: Vec<Var>, config: SgdConfig) -> Result<Self> {
        Self::with_groups(vec![ParameterGroup::new(variables)], config)
    }

    /// Takes one step. A variable without a gradient in `grads` keeps its value and its velocity.
    ///
    /// # Errors
    /// An error if the learning rate is negative or not finite, or if a gradient has another shape than its variable or
    /// shares its memory. Variables before the faulty one are already updated then.
    ///
    /// # Cost
    /// One pass over weights, gradients and velocities, for f32 in main memory.
    fn step(&mut self, grads: &GradStore) -> Result<()> {
        check_number("learning rate", self.config.learning_rate)?;
        self.state.steps = self.state.steps.map(|steps| steps + 1);
        for parameter in &mut self.state.parameters {
            let Some(gradient) = grads.get(&parameter.variable) else { continue };
            check_shape(&parameter.variable, gradient)?;
            let rule = Rule::new(&self.config, parameter, parameter.state.is_none(), self.state.by_ops);
            if self.config.momentum == 0.0 {
                rule.descend(&parameter.variable, gradient)?;
                continue;
            }
            let velocity = match &mut parameter.state {
                Some(velocity) => velocity,
                empty => empty.insert(Buffer::zeros(&parameter.variable, self.state.by_ops)?),
            };
            rule.descend_with_velocity(&parameter.variable, gradient, velocity)?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }
}

/// One step of one variable.
struct Rule {
    rate: f64,
    momentum: f64,
    decay: f64,
    /// The share of the gradient that the velocity takes.
    taken: f64,
    nesterov: bool,
    by_ops: bool,
}

impl Rule {
    fn new<S>(config: &SgdConfig, parameter: &Parameter<S>, first: bool, by_ops: bool) -> Self {
        Self {
            rate: config.learning_rate * parameter.rate_factor,
            momentum: config.momentum,
            decay: parameter.weight_decay,
            taken: if first { 1.0 } else { 1.0 - config.dampening },
            nesterov: config.nesterov,
            by_ops,
        }
    }

    /// `w ← w − η·(g + λ·w)`.
    fn descend(&self, variable: &Var, gradient: &Tensor) -> Result<()> {
        if self.by_ops || !crate::taps::cpu_f32(&[variable, gradient]) {
            let before = variable.as_detached_tensor().to_dtype(state_type(variable))?;
            let step = (self.direction(&before, gradient)? * self.rate)?;
            return variable.set(&(before - step)?.to_dtype(variable.dtype())?);
        }
        let (rate, decay) = (self.rate as f32, self.decay as f32);
        in_place::update(
            variable,
            gradient,
            [],
            #[inline(always)]
            |weights, gradient, []| {
                let pairs = weights.iter_mut().zip(gradient);
                if decay == 0.0 {
                    // candle adds this zero. It turns `-0` into `+0`.
                    pairs.for_each(|(w, g)| *w -= g * rate + 0.0);
                } else {
                    pairs.for_each(|(w, g)| *w -= (g + *w * decay) * rate);
                }
            },
        )
    }

    fn descend_with_velocity(&self, variable: &Var, gradient: &Tensor, velocity: &mut Buffer) -> Result<()> {
        let velocity = match velocity {
            Buffer::Numbers(velocity) if crate::taps::cpu_f32(&[gradient]) => velocity,
            Buffer::Numbers(_) => bail!("a gradient of {:?} does not fit a variable of f32", gradient.dtype()),
            Buffer::Tensor(velocity) => {
                let before = variable.as_detached_tensor().to_dtype(state_type(variable))?;
                let direction = self.direction(&before, gradient)?;
                // A gradient can hold its graph. A velocity that kept it would keep the graphs of all steps so far.
                *velocity = ((&direction * self.taken)? + (&*velocity * self.momentum)?)?.detach();
                let step = if self.nesterov { (direction + (&*velocity * self.momentum)?)? } else { velocity.clone() };
                return variable.set(&(before - (step * self.rate)?)?.to_dtype(variable.dtype())?);
            }
        };
        let (rate, decay) = (self.rate as f32, self.decay as f32);
        let (momentum, taken, ahead) =
            (self.momentum as f32, self.taken as f32, if self.nesterov { self.momentum as f32 } else { 0.0 });
        let nesterov = self.nesterov;
        in_place::update(
            variable,
            gradient,
            [&mut lock(velocity)],
            #[inline(always)]
            |weights, gradient, [velocity]| {
                for ((w, g), v) in weights.iter_mut().zip(gradient).zip(velocity) {
                    let direction = g + *w * decay;
                    *v = direction * taken + *v * momentum;
                    let step = if nesterov { direction + *v * ahead } else { *v };
                    *w -= step * rate + 0.0;
                }
            },
        )
    }

    /// `g + λ·w`.
    fn direction(&self, weights: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let gradient = gradient.detach().to_dtype(weights.dtype())?;
        if self.decay == 0.0 {
            return Ok(gradient);
        }
        gradient + (weights * self.decay)?
    }
}
