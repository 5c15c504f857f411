//! The trait of a layer that can be tapped.

use super::catch::Catch;
use super::per_example::PerExample;
use super::spec::LayerSpec;
use candle_core::{Result, Tensor};

/// Why a layer cannot be tapped.
///
/// [`Recorder::create`](crate::Recorder::create) returns the text, after the layer's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapError {
    reason: String,
}

impl TapError {
    /// Makes an error with a sentence for the user. The sentence gives the reason and names an alternative.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl std::fmt::Display for TapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for TapError {}

/// A layer whose per-example gradients can be recorded.
///
/// Implemented for candle_nn's `Linear`, `Conv1d`, `Conv2d`, `ConvTranspose1d`, `ConvTranspose2d`, `Embedding`,
/// `LayerNorm`, `RmsNorm`, `GroupNorm` and `PReLU`. Recurrent layers are in [`nn::rnn`](crate::nn::rnn), because each
/// has two weights. Implement it to record your own layer: `examples/custom_layer.rs` does.
///
/// The batch is the first dimension of the layer's input and output.
///
/// To check an implementation, call [`Recorder::check_gradients`](crate::Recorder::check_gradients) on one batch. It
/// compares [`Tap::per_example`] with candle's backward through [`Tap::plain_forward`].
pub trait Tap: Send + Sync + 'static {
    /// Describes the layer: its kind and its parameters.
    ///
    /// # Errors
    /// [`TapError`] if the layer has no per-example gradient.
    fn spec(&self) -> std::result::Result<LayerSpec, TapError>;

    /// Computes the layer's output for the input `x`, as the layer does when it is not tapped.
    ///
    /// # Errors
    /// candle's error.
    fn plain_forward(&self, x: &Tensor) -> Result<Tensor>;

    /// Computes the gradient of each example's loss by the layer's parameters.
    ///
    /// `x` is the input of one use of the layer, `[batch, ...]`. `delta` is the gradient of the loss by that use's
    /// output, of the output's shape. Both are detached: nothing computed here reaches the training's graph.
    ///
    /// # Errors
    /// candle's error.
    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample>;

    /// Whether [`Tap::per_example`] reads the layer's parameters besides `x` and `delta`. If so, it is called in the
    /// training thread, before the optimizer's step. If not, it is called on the background thread, when the parameters
    /// may have changed. Default `true`.
    fn per_example_reads_parameters(&self) -> bool {
        true
    }

    /// Computes the layer's output while it is tapped. The default computes [`Tap::plain_forward`] and catches the
    /// gradient of the result with [`Catch::output`]. A layer with a faster way overrides it.
    ///
    /// # Errors
    /// candle's error.
    fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
        catch.output(x, self.plain_forward(x)?)
    }
}
