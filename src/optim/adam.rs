//! Adam and AdamW.

use super::group::ParameterGroup;
use super::moments::{AdamConfig, Core, Decay};
use crate::step::{SecondMoments, StepInfo, StepReport};
use candle_core::backprop::GradStore;
use candle_core::{Result, Var};
use candle_nn::Optimizer;

/// The two types differ in the weight decay alone.
macro_rules! optimizer {
    ($(#[$doc:meta])* $name:ident, $decay:expr) => {
        $(#[$doc])*
        pub struct $name(pub(super) Core);

        impl $name {
            /// Makes an optimizer of groups of variables.
            ///
            /// # Errors
            /// An error if a number is negative, infinite or NaN, if `β₁` or `β₂` is 1 or more, or if a variable occurs
            /// twice.
            pub fn with_groups(groups: Vec<ParameterGroup>, config: AdamConfig) -> Result<Self> {
                Ok(Self(Core::new(groups, config, $decay)?))
            }

            /// Makes an optimizer with the default settings and this learning rate.
            ///
            /// # Errors
            /// As [`Self::with_groups`].
            pub fn new_lr(variables: Vec<Var>, learning_rate: f64) -> Result<Self> {
                Self::new(variables, AdamConfig::new(learning_rate))
            }

            /// The settings.
            pub fn config(&self) -> &AdamConfig {
                &self.0.config
            }
        }

        impl Optimizer for $name {
            type Config = AdamConfig;

            /// Makes an optimizer of those `variables` that hold floating-point numbers.
            ///
            /// # Errors
            /// As [`Self::with_groups`].
            fn new(variables: Vec<Var>, config: AdamConfig) -> Result<Self> {
                Self::with_groups(vec![ParameterGroup::new(variables)], config)
            }

            /// Takes one step. A variable without a gradient in `grads` keeps its value and its moments. Its own count
            /// of steps, which the bias correction uses, stays as well, as in PyTorch; candle counts all steps.
            ///
            /// # Errors
            /// An error if the learning rate is negative or not finite, or if a gradient has another shape than its
            /// variable or shares its memory. Variables before the faulty one are already updated then.
            ///
            /// # Cost
            /// One pass over weights, gradients and moments, for f32 in main memory.
            fn step(&mut self, grads: &GradStore) -> Result<()> {
                self.0.step(grads)
            }

            fn learning_rate(&self) -> f64 {
                self.0.config.learning_rate
            }

            fn set_learning_rate(&mut self, learning_rate: f64) {
                self.0.config.learning_rate = learning_rate;
            }
        }

        /// Reports the rule with its numbers, the learning rates and weight decays of parameter groups, and the second
        /// moments.
        impl StepReport for $name {
            fn step_info(&self) -> StepInfo {
                self.0.step_info()
            }

            fn second_moments(&self) -> Option<SecondMoments> {
                Some(self.0.second_moments())
            }

            fn variables(&self) -> Option<Vec<Var>> {
                Some(self.0.parameters.iter().map(|parameter| parameter.variable.clone()).collect())
            }
        }

        /// Prints the settings and the number of variables, not their values.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut out = f.debug_struct(stringify!($name));
                out.field("config", &self.0.config).field("variables", &self.0.parameters.len()).finish_non_exhaustive()
            }
        }
    };
}

optimizer! {
    /// AdamW (Loshchilov and Hutter 2019), as in candle_nn and as in PyTorch's `torch.optim.AdamW`:
    ///
    /// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`,
    /// `w ← (1 − ηλ)w − η · m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε)`.
    ///
    /// In f32 in main memory the weights equal those of [`candle_nn::AdamW`] bit for bit, as long as every variable has
    /// a gradient in each step.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_nn::Optimizer;
    /// use gradlog::optim::{AdamConfig, AdamW};
    ///
    /// let weight = Var::new(&[1f32, -2.], &Device::Cpu)?;
    /// let mut optimizer = AdamW::new(vec![weight.clone()], AdamConfig::new(0.5).weight_decay(0.0))?;
    /// optimizer.step(&weight.sqr()?.sum_all()?.backward()?)?;
    /// assert_eq!(weight.to_vec1::<f32>()?, [0.5, -1.5]); // the first step of Adam is η·sign(g)
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    AdamW, Decay::Weights
}

optimizer! {
    /// Adam (Kingma and Ba 2015), as in PyTorch's `torch.optim.Adam`. It is [`AdamW`] with the weight decay in the
    /// gradient: `g ← g + λw`, and by default without any.
    Adam, Decay::Gradient
}
