//! Squared norms on a device.

use candle_core::{DType, Device, Result, Tensor};

/// In what squares are added. Squares of small gradients are 0 in f32; Metal has nothing wider.
pub(super) fn wide(device: &Device) -> DType {
    if matches!(device, Device::Metal(_)) {
        DType::F32
    } else {
        DType::F64
    }
}

/// The sum of the squares of each row of `[batch, ..]`, `[batch]`.
pub(super) fn squares(values: &Tensor) -> Result<Tensor> {
    each_square(values)?.sum(1)
}

fn each_square(values: &Tensor) -> Result<Tensor> {
    values.flatten_from(1)?.to_dtype(wide(values.device()))?.sqr()
}

/// As [`squares`], and with weights `[numbers]` the sum of each row's weighted squares.
pub(super) fn weighted_squares(values: &Tensor, weights: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
    let squares = each_square(values)?;
    let weighted = match weights {
        Some(weights) => Some(squares.matmul(&weights.to_dtype(squares.dtype())?.unsqueeze(1)?)?.squeeze(1)?),
        None => None,
    };
    Ok((squares.sum(1)?, weighted))
}

/// `‖Σ_t δ_t ⊗ a_t‖² = Σ_{t,t'} ⟨δ_t, δ_t'⟩ ⟨a_t, a_t'⟩` of each example, without the sum: for `[batch, positions,
/// ..]`.
pub(super) fn squares_of_products(deltas: &Tensor, inputs: &Tensor) -> Result<Tensor> {
    (gram(deltas)? * gram(inputs)?)?.flatten_from(1)?.sum(1)
}

/// `⟨v_t, v_t'⟩` of each example's rows: `[batch, positions, width]` to `[batch, positions, positions]`.
///
/// Numbers are scaled to at most 1 before they are multiplied, because products of small ones are 0 in f32.
pub(super) fn gram(rows: &Tensor) -> Result<Tensor> {
    let rows = rows.to_dtype(DType::F32)?.contiguous()?;
    let largest = rows.abs()?.flatten_from(1)?.max_keepdim(1)?.unsqueeze(2)?;
    // Where all are 0, the scale does not matter. Numbers below the smallest normal one are taken for 0.
    let largest = largest.maximum(f64::from(f32::MIN_POSITIVE))?;
    let scaled = rows.broadcast_div(&largest)?;
    let wide = wide(rows.device());
    scaled.matmul(&scaled.t()?)?.to_dtype(wide)?.broadcast_mul(&largest.to_dtype(wide)?.sqr()?)
}
