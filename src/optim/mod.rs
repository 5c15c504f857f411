//! Optimizers that step in place, in one pass over memory, and that report their step to the recorder.
//!
//! candle's own optimizers make a new tensor for each operation of the formula: SGD takes three passes over fresh
//! memory, AdamW more than a dozen. These take one, on the threads that candle's element-wise ops run on. They give
//! the same weights: [`Sgd`] and [`AdamW`] equal candle's bit for bit in f32 on the CPU.
//!
//! On other devices, and for other dtypes, they use the same ops as candle's optimizers, and as many, on the variable's
//! device. What they keep stays there. For f16 and bf16 they keep and compute f32, which candle's do not.
//!
//! | type | candle_nn | PyTorch |
//! |---|---|---|
//! | [`Sgd`] | `SGD` | `torch.optim.SGD`, with momentum, dampening, Nesterov, weight decay |
//! | [`AdamW`] | `AdamW` | `torch.optim.AdamW` |
//! | [`Adam`] | | `torch.optim.Adam` |
//!
//! All have parameter groups ([`ParameterGroup`]), and their state can be saved beside a checkpoint. [`schedule`] has
//! learning rates over time.

mod adam;
mod buffer;
mod group;
mod in_place;
mod moments;
pub mod schedule;
mod sgd;
mod state;
#[cfg(test)]
mod tests;

pub use adam::{Adam, AdamW};
pub use group::ParameterGroup;
pub use moments::AdamConfig;
pub use sgd::{Sgd, SgdConfig};

use candle_core::{bail, Result, Tensor, Var};

/// A number of the settings, which must be finite and at least 0.
fn check_number(what: &str, value: f64) -> Result<()> {
    if !(value >= 0.0 && value.is_finite()) {
        bail!("a {what} of {value} is not allowed: give 0 or a positive number");
    }
    Ok(())
}

/// A share that is kept from step to step, which must be at least 0 and below 1.
fn check_share(what: &str, value: f64) -> Result<()> {
    if !(0.0..1.0).contains(&value) {
        bail!("a {what} of {value} is not allowed: give a number of at least 0 and below 1");
    }
    Ok(())
}

fn check_shape(variable: &Var, gradient: &Tensor) -> Result<()> {
    if gradient.shape() != variable.shape() {
        bail!("a gradient of shape {:?} does not fit a variable of shape {:?}", gradient.shape(), variable.shape());
    }
    Ok(())
}
