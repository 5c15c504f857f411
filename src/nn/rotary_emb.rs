//! Rotary position embeddings, as in `candle_nn::rotary_emb`, with a backward. Su et al. 2021.
//!
//! The forward pass is candle's. A rotation's backward is the rotation by the opposite angle. `cos` and `sin` get no
//! gradient, as in candle. candle_nn's own functions have no backward at all, so the layers before them do not train.

use crate::taps::attach_backward;
use candle_core::{Result, Tensor};
pub use candle_nn::rotary_emb::{rope_i_slow, rope_slow};

type Rotation = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;

fn rotate(rotation: Rotation, xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let y = rotation(xs, cos, sin)?;
    if !xs.track_op() {
        return Ok(y);
    }
    let (cos, sin) = (cos.detach(), sin.neg()?.detach());
    attach_backward(xs, &y, move |grad| rotation(grad, &cos, &sin))
}

/// Rotates the halves of each head. `xs` is `[batch, heads, length, width]`, `cos` and `sin` are `[length, width / 2]`
/// or `[batch, length, width / 2]`. All are contiguous.
///
/// # Errors
/// candle's error.
pub fn rope(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotate(candle_nn::rotary_emb::rope, xs, cos, sin)
}

/// As [`rope`], for pairs of neighbors.
///
/// # Errors
/// candle's error.
pub fn rope_i(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotate(candle_nn::rotary_emb::rope_i, xs, cos, sin)
}

/// As [`rope`], for `xs` of `[batch, length, heads, width]`.
///
/// # Errors
/// candle's error.
pub fn rope_thd(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotate(candle_nn::rotary_emb::rope_thd, xs, cos, sin)
}
