//! Low-rank adaptation: a frozen linear layer and a small trained correction of it.
//!
//! ```
//! use candle_core::{DType, Device, Module, Tensor};
//! use gradlog::nn::lora::{lora_linear, LoraConfig};
//! use gradlog::nn::{VarBuilder, VarMap};
//! use gradlog::Taps;
//! # let weights = std::collections::HashMap::from([
//! #     ("fc.weight".to_owned(), Tensor::randn(0f32, 1., (8, 4), &Device::Cpu)?),
//! #     ("fc.bias".to_owned(), Tensor::zeros(8, DType::F32, &Device::Cpu)?),
//! # ]);
//!
//! let frozen = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu); // or from a file of weights
//! let variables = VarMap::new(); // of A and B alone: give these to the optimizer
//! let adapter = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let build = || lora_linear(4, 8, LoraConfig::new(2, 4.0), frozen.pp("fc"), adapter.pp("fc"));
//! let (layer, taps) = Taps::collect(build)?;
//! assert_eq!(format!("{taps:?}"), r#"Taps { layers: ["fc.lora_a", "fc.lora_b"], .. }"#);
//!
//! let x = Tensor::randn(0f32, 1., (3, 4), &Device::Cpu)?;
//! let y = layer.forward(&x)?;
//! let merged = layer.merge()?; // a plain layer that computes the same
//! # let difference = (merged.forward(&x)? - y)?.abs()?.max_all()?.to_scalar::<f32>()?;
//! # assert!(difference < 1e-5);
//! # Ok::<(), candle_core::Error>(())
//! ```

use super::linear::Linear;
use candle_core::{bail, Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// How large the correction of a [`LoraLinear`] is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LoraConfig {
    /// Rank r of the correction: rows of A and columns of B.
    pub rank: usize,
    /// α. The correction is multiplied by α / r.
    pub alpha: f64,
}

impl LoraConfig {
    /// A correction of rank `rank`, multiplied by `alpha / rank`.
    pub fn new(rank: usize, alpha: f64) -> Self {
        Self { rank, alpha }
    }

    /// What the correction is multiplied by, α / r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// `y = x Wᵀ + b + (α / r) (x Aᵀ) Bᵀ`, where only A and B are trained. W and b are frozen.
///
/// Shapes: `x` is `[batch, .., inputs]`, W is `[outputs, inputs]`, b is `[outputs]`, A is `[r, inputs]`, B is
/// `[outputs, r]`. A begins with normal numbers of variance 2 / inputs (Kaiming), and B with zeros. So the layer begins
/// as its base.
///
/// A and B are recorded as two linear layers, `PATH.lora_a` and `PATH.lora_b`, where `PATH` is that of the adapter's
/// `VarBuilder`. The backward pass computes no gradient of W and b.
///
/// Source: E. Hu et al., "LoRA: Low-rank adaptation of large language models", 2021, section 4.1.
#[derive(Debug, Clone)]
pub struct LoraLinear {
    base: Linear,
    a: Linear,
    b: Linear,
    config: LoraConfig,
}

impl LoraLinear {
    /// Adapts `base`, a linear layer of this module or of candle_nn. `adapter` gets the variables `lora_a.weight` and
    /// `lora_b.weight`.
    ///
    /// The base shares its numbers with `base`, and no gradient reaches them through this layer. Build a base of this
    /// module outside [`Taps::collect`](crate::Taps::collect), or from tensors that are no variables. Otherwise it is
    /// recorded as a trained layer, and a pass that does not use it is an error.
    ///
    /// # Errors
    /// A rank of 0, a rank above the base's inputs or outputs, an α that is not finite, or candle's error.
    pub fn new(base: impl Into<candle_nn::Linear>, config: LoraConfig, adapter: VarBuilder<'_>) -> Result<Self> {
        let base = base.into();
        let (outputs, inputs) = base.weight().dims2()?;
        let LoraConfig { rank, alpha } = config;
        if rank == 0 || rank > inputs.min(outputs) {
            bail!(
                "a LoRA of rank {rank} on a layer of {inputs} inputs and {outputs} outputs (`{}`): the rank must be \
                 between 1 and {}",
                adapter.prefix(),
                inputs.min(outputs)
            );
        }
        if !alpha.is_finite() {
            bail!("a LoRA with alpha {alpha} (`{}`): give a finite number, such as the rank", adapter.prefix());
        }
        let base = Linear::new(base.weight().detach(), base.bias().map(Tensor::detach));
        let make = |name: &str, shape: (usize, usize), init| {
            let vb = adapter.pp(name);
            let weight = vb.get_with_hints(shape, "weight", init)?;
            Result::Ok(Linear::at(&vb, candle_nn::Linear::new(weight, None)))
        };
        let a = make("lora_a", (rank, inputs), candle_nn::init::DEFAULT_KAIMING_NORMAL)?;
        let b = make("lora_b", (outputs, rank), Init::Const(0.0))?;
        Ok(Self { base, a, b, config })
    }

    /// The frozen layer.
    pub fn base(&self) -> &Linear {
        &self.base
    }

    /// A, `[r, inputs]`.
    pub fn a(&self) -> &Tensor {
        self.a.weight()
    }

    /// B, `[outputs, r]`.
    pub fn b(&self) -> &Tensor {
        self.b.weight()
    }

    /// Rank and α.
    pub fn config(&self) -> LoraConfig {
        self.config
    }

    /// A plain layer with the weight `W + (α / r) B A`, which is computed now. It is frozen and never recorded.
    ///
    /// # Errors
    /// candle's error.
    pub fn merge(&self) -> Result<Linear> {
        let correction = (self.b().detach().matmul(&self.a().detach())? * self.config.scale())?;
        let weight = (self.base.weight() + correction.to_dtype(self.base.weight().dtype())?)?;
        Ok(Linear::new(weight, self.base.bias().cloned()))
    }
}

impl Module for LoraLinear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // The scale is applied where the tensor is smallest.
        let low = (self.a.forward(x)? * self.config.scale())?;
        self.base.forward(x)? + self.b.forward(&low)?
    }
}

/// Adapts the linear layer with the tensors `weight` and `bias` of `frozen`. `adapter` gets `lora_a.weight` and
/// `lora_b.weight`.
///
/// # Errors
/// As [`LoraLinear::new`].
pub fn lora_linear(
    in_dim: usize,
    out_dim: usize,
    config: LoraConfig,
    frozen: VarBuilder<'_>,
    adapter: VarBuilder<'_>,
) -> Result<LoraLinear> {
    LoraLinear::new(candle_nn::linear(in_dim, out_dim, frozen)?, config, adapter)
}

/// As [`lora_linear`], for a layer without a bias.
///
/// # Errors
/// As [`LoraLinear::new`].
pub fn lora_linear_no_bias(
    in_dim: usize,
    out_dim: usize,
    config: LoraConfig,
    frozen: VarBuilder<'_>,
    adapter: VarBuilder<'_>,
) -> Result<LoraLinear> {
    LoraLinear::new(candle_nn::linear_no_bias(in_dim, out_dim, frozen)?, config, adapter)
}
