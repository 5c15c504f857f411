//! The trait of a layer that can be tapped.

use super::catch::Catch;
use super::gradient::PerExample;
use super::spec::LayerSpec;
use candle_core::{Result, Tensor};

/// A layer whose per-example gradients can be recorded.
///
/// Implemented for candle_nn's `Linear`, `Conv1d`, `Conv2d`, `Embedding`, `LayerNorm`, `RmsNorm` and `GroupNorm`.
/// Implement it for a layer of your own to record that too: `examples/custom_layer.rs` does.
///
/// The batch is the first dimension of the layer's input and output.
///
/// To check a tap, record a step. Then compare `Score::Grand` of that step, the norm of each example's gradient, with candle's own
/// backward on batches of one.
pub trait Tap: Send + Sync + 'static {
    /// What the layer is: its kind and its parameters.
    ///
    /// # Errors
    /// A sentence for the user, where the layer has no per-example gradient; it says what to use instead.
    fn spec(&self) -> std::result::Result<LayerSpec, String>;

    /// The layer's output for the input `x`, as the layer computes it when it is not tapped.
    ///
    /// # Errors
    /// Whatever candle says.
    fn plain_forward(&self, x: &Tensor) -> Result<Tensor>;

    /// The gradient of each example's loss by the layer's parameters.
    ///
    /// `x` is the input of one use of the layer, `[batch, ...]`, and `delta` the gradient of the loss by that use's
    /// output, of the output's shape. The two are detached; nothing computed here reaches the training's own graph.
    ///
    /// # Errors
    /// Whatever candle says.
    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample>;

    /// Whether [`Tap::per_example`] reads the layer's parameters, and not only `x` and `delta`. If so it is called before the optimizer's
    /// step, in the training thread; if not, on the background thread, when the parameters may have changed. Default `true`.
    fn per_example_reads_parameters(&self) -> bool {
        true
    }

    /// The layer's output while it is tapped. The default computes [`Tap::plain_forward`] and catches the gradient of its result;
    /// a layer with a faster way overrides this.
    ///
    /// # Errors
    /// Whatever candle says.
    fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
        catch.output(x, self.plain_forward(x)?)
    }
}
