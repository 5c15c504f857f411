//! What an optimizer reports about a step. Below both `optim` and the recorder, which do not know each other.

use candle_nn::Optimizer;

/// What a loop reports about an optimizer step. A bare learning rate is enough: `pass.commit(0.1)`.
///
/// `None` means "not told". The log then holds no value, and `gradlog info` says "not told".
///
/// ```
/// use gradlog::StepInfo;
///
/// let step = StepInfo::new(0.1).momentum(0.9).weight_decay(1e-4);
/// assert_eq!((step.momentum, StepInfo::new(0.1).momentum), (Some(0.9), None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepInfo {
    /// `η`, as the optimizer uses it at this step.
    pub learning_rate: f64,
    /// What the summed gradient is multiplied by before the optimizer sees it: the factor of gradient clipping, or the inverse of
    /// a loss scale. Default 1.
    pub clip: f32,
    /// Momentum of the optimizer. Default: not told.
    pub momentum: Option<f32>,
    /// Weight decay of the optimizer, as SGD has it: the share of the weights that is added to their gradient. Default: not told.
    pub weight_decay: Option<f32>,
}

impl StepInfo {
    /// A step of which only the learning rate is told.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, clip: 1.0, momentum: None, weight_decay: None }
    }

    /// Sets the factor that the gradient is multiplied by.
    pub fn clip(self, clip: f32) -> Self {
        Self { clip, ..self }
    }

    /// Tells the momentum.
    pub fn momentum(self, momentum: f32) -> Self {
        Self { momentum: Some(momentum), ..self }
    }

    /// Tells the weight decay.
    pub fn weight_decay(self, weight_decay: f32) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
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
/// An optimizer of another crate needs one `impl`. A type from a third crate is wrapped first, as Rust demands.
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
    /// What the optimizer's next step does. Report only what is known: the rest stays "not told".
    fn step_info(&self) -> StepInfo;
}

/// Told in full: candle's SGD has neither momentum nor weight decay.
impl StepReport for candle_nn::SGD {
    fn step_info(&self) -> StepInfo {
        StepInfo::new(self.learning_rate()).momentum(0.0).weight_decay(0.0)
    }
}

/// Only the learning rate is told. The moments of AdamW are no momentum of SGD, and its weight decay does not pass through the
/// gradient.
impl StepReport for candle_nn::AdamW {
    fn step_info(&self) -> StepInfo {
        StepInfo::new(self.learning_rate())
    }
}
