//! Batch normalization, as in `candle_nn::batch_norm`. Ioffe and Szegedy 2015.

use crate::taps::{collecting, tap_built, FrozenBatchNorm, Tapped};
use candle_core::{Result, Tensor, Var};
pub use candle_nn::BatchNormConfig;
use candle_nn::{ModuleT, VarBuilder};

/// `candle_nn::BatchNorm`, recorded in evaluation mode.
///
/// In training mode each output depends on the whole batch, so no example has a gradient of its own. Inside
/// [`Taps::collect`](crate::Taps::collect) the layer is known to the recorder, and
/// [`Config::on_batch_norm`](crate::Config::on_batch_norm) decides: refuse, train with frozen statistics, or record
/// shares. Weight and bias are recorded where `forward_t` runs with `train` false.
#[derive(Clone)]
pub struct BatchNorm {
    layer: candle_nn::BatchNorm,
    frozen: Option<Tapped<FrozenBatchNorm>>,
}

impl BatchNorm {
    /// Makes a layer of statistics, weight and bias, each `[num_features]`.
    ///
    /// # Errors
    /// candle's error, for example for a wrong shape.
    pub fn new(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
    ) -> Result<Self> {
        candle_nn::BatchNorm::new(num_features, running_mean, running_var, weight, bias, eps).map(Self::from)
    }

    /// Makes a layer without weight and bias.
    ///
    /// # Errors
    /// candle's error.
    pub fn new_no_bias(num_features: usize, running_mean: Tensor, running_var: Tensor, eps: f64) -> Result<Self> {
        candle_nn::BatchNorm::new_no_bias(num_features, running_mean, running_var, eps).map(Self::from)
    }

    /// As [`BatchNorm::new`], with the momentum of the statistics.
    ///
    /// # Errors
    /// candle's error.
    pub fn new_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        candle_nn::BatchNorm::new_with_momentum(num_features, running_mean, running_var, weight, bias, eps, momentum)
            .map(Self::from)
    }

    /// As [`BatchNorm::new_no_bias`], with the momentum of the statistics.
    ///
    /// # Errors
    /// candle's error.
    pub fn new_no_bias_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        candle_nn::BatchNorm::new_no_bias_with_momentum(num_features, running_mean, running_var, eps, momentum)
            .map(Self::from)
    }

    fn at(path: &str, layer: candle_nn::BatchNorm) -> Self {
        if let Some(taps) = collecting() {
            // A tensor that is a variable gives that variable, without a copy.
            match Var::from_tensor(layer.running_mean()) {
                Ok(mean) => taps.registry().note_batch_norm(if path.is_empty() { "batch_norm" } else { path }, mean),
                Err(error) => {
                    taps.registry().problems.push(format!("the BatchNorm `{path}` has no statistics: {error}"))
                }
            }
        }
        let frozen = layer.weight_and_bias().is_some().then(|| tap_built(path, FrozenBatchNorm::new(layer.clone())));
        Self { layer, frozen }
    }

    /// The layer as candle_nn has it. A forward pass through it is not recorded.
    pub fn inner(&self) -> &candle_nn::BatchNorm {
        &self.layer
    }

    /// The running mean, `[num_features]`.
    pub fn running_mean(&self) -> &Tensor {
        self.layer.running_mean()
    }

    /// The running variance, `[num_features]`.
    pub fn running_var(&self) -> &Tensor {
        self.layer.running_var()
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.layer.eps()
    }

    /// Weight and bias.
    pub fn weight_and_bias(&self) -> Option<(&Tensor, &Tensor)> {
        self.layer.weight_and_bias()
    }

    /// The share of a batch in the running statistics.
    pub fn momentum(&self) -> f64 {
        self.layer.momentum()
    }

    /// candle's training mode. It couples the examples of the batch, and changes the statistics.
    ///
    /// # Errors
    /// candle's error.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        self.layer.forward_train(x)
    }
}

impl ModuleT for BatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match &self.frozen {
            Some(frozen) if !train => candle_nn::Module::forward(frozen, x),
            _ => self.layer.forward_t(x, train),
        }
    }
}

/// Prints the kind and not the numbers.
impl std::fmt::Debug for BatchNorm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchNorm").finish_non_exhaustive()
    }
}

/// Taps the layer if taps are collecting.
impl From<candle_nn::BatchNorm> for BatchNorm {
    fn from(layer: candle_nn::BatchNorm) -> Self {
        Self::at("", layer)
    }
}

/// A batch norm with the variables of `vb`: `running_mean`, `running_var`, and perhaps `weight` and `bias`.
///
/// # Errors
/// candle's error.
pub fn batch_norm<C: Into<BatchNormConfig>>(num_features: usize, config: C, vb: VarBuilder<'_>) -> Result<BatchNorm> {
    Ok(BatchNorm::at(&vb.prefix(), candle_nn::batch_norm(num_features, config, vb.clone())?))
}
