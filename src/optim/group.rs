//! Parameter groups: variables with a learning rate and a weight decay of their own.

use super::check_number;
use candle_core::{bail, Result, TensorId, Var};
use std::collections::HashSet;

/// Variables that share settings. An optimizer has one group or several.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::{layer_norm, linear, VarBuilder, VarMap};
/// use gradlog::optim::{AdamW, AdamConfig, ParameterGroup};
///
/// let variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let fc = linear(4, 3, vb.pp("fc"))?;
/// let norm = layer_norm(3, 1e-5, vb.pp("norm"))?;
/// // The custom for transformers: no weight decay on biases and norms.
/// let groups = ParameterGroup::decay_matrices(variables.all_vars());
/// let optimizer = AdamW::with_groups(groups, AdamConfig::new(1e-3))?;
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ParameterGroup {
    /// The variables. Those that do not hold floating-point numbers are left out.
    pub variables: Vec<Var>,
    /// The group's learning rate divided by that of the optimizer. So a schedule moves all groups. Default 1.
    pub rate_factor: f64,
    /// The group's weight decay. Default `None`: that of the optimizer.
    pub weight_decay: Option<f64>,
}

impl ParameterGroup {
    /// A group with the optimizer's own settings.
    #[must_use]
    pub fn new(variables: Vec<Var>) -> Self {
        Self { variables, rate_factor: 1.0, weight_decay: None }
    }

    /// Sets the group's learning rate divided by that of the optimizer.
    #[must_use]
    pub fn rate_factor(self, rate_factor: f64) -> Self {
        Self { rate_factor, ..self }
    }

    /// Sets the group's weight decay.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
    }

    /// Two groups: variables of two dimensions and more, with the optimizer's weight decay, and all others, such as
    /// biases and the weights of norms, without any.
    #[must_use]
    pub fn decay_matrices(variables: Vec<Var>) -> Vec<Self> {
        let (matrices, others) = variables.into_iter().partition(|variable: &Var| variable.rank() >= 2);
        vec![Self::new(matrices), Self::new(others).weight_decay(0.0)]
    }
}

impl From<Vec<Var>> for ParameterGroup {
    fn from(variables: Vec<Var>) -> Self {
        Self::new(variables)
    }
}

/// A variable with the settings of its group, and what the optimizer keeps of it.
#[derive(Debug)]
pub(super) struct Parameter<S> {
    pub variable: Var,
    pub rate_factor: f64,
    pub weight_decay: f64,
    pub state: S,
}

/// The parameters of all groups, each with an empty state.
pub(super) fn list_parameters<S: Default>(groups: Vec<ParameterGroup>, decay: f64) -> Result<Vec<Parameter<S>>> {
    let mut known = HashSet::new();
    let mut parameters = Vec::new();
    for ParameterGroup { variables, rate_factor, weight_decay } in groups {
        let weight_decay = weight_decay.unwrap_or(decay);
        check_number("learning rate factor", rate_factor)?;
        check_number("weight decay", weight_decay)?;
        for variable in variables.into_iter().filter(|variable| variable.dtype().is_float()) {
            if !known.insert(variable.id()) {
                bail!("a variable of shape {:?} is in two places of the parameter groups", variable.shape());
            }
            parameters.push(Parameter { variable, rate_factor, weight_decay, state: S::default() });
        }
    }
    Ok(parameters)
}

/// The learning rates that differ from that of the optimizer, by variable.
pub(super) fn own_rates<S>(parameters: &[Parameter<S>], learning_rate: f64) -> Vec<(TensorId, f64)> {
    let own = parameters.iter().filter(|parameter| parameter.rate_factor != 1.0);
    own.map(|parameter| (parameter.variable.id(), parameter.rate_factor * learning_rate)).collect()
}

/// The weight decay of the step: that of all parameters, if they have the same, or else that of the optimizer.
pub(super) fn common_decay<S>(parameters: &[Parameter<S>], decay: f64) -> f64 {
    let first = parameters.first().map_or(decay, |parameter| parameter.weight_decay);
    if parameters.iter().all(|parameter| parameter.weight_decay == first) {
        first
    } else {
        decay
    }
}

/// The weight decays that differ from that of the step, by variable.
pub(super) fn own_decays<S>(parameters: &[Parameter<S>], decay: f64) -> Vec<(TensorId, f64)> {
    let own = parameters.iter().filter(|parameter| parameter.weight_decay != decay);
    own.map(|parameter| (parameter.variable.id(), parameter.weight_decay)).collect()
}
