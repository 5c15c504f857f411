//! What one use of a layer says of each example's gradient.

use candle_core::{bail, Result, Tensor};

/// The gradient of each example's loss by the parameters of one layer. Tensors may have any float dtype and device; the
/// recorder converts them to f32.
///
/// The gradients of several uses of a layer in one pass add.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PerExample {
    /// `G_i = Σ_t δ_it ⊗ a_it`, followed by `Σ_t δ_it` if `bias` is set. For linear layers, and for convolutions with
    /// patches as positions. The layout is `[groups, outputs, inputs]`, row-major, then the bias.
    Outer {
        /// `a`: `[batch, positions, inputs]`, or `[batch, groups, positions, inputs]`.
        inputs: Tensor,
        /// `δ`: `[batch, positions, outputs]`, or `[batch, groups, positions, outputs]`.
        deltas: Tensor,
        /// Whether `Σ_t δ_it` follows as the bias's gradient.
        bias: bool,
    },
    /// `δ_it` is added to row `id_it` of a table. For embeddings. The layout is `[rows, width]`, row-major.
    Rows {
        /// `id`: `[batch, positions]`, integers.
        ids: Tensor,
        /// `δ`: `[batch, positions, width]`.
        deltas: Tensor,
        /// Number of rows of the table.
        rows: usize,
    },
    /// The gradient itself: `[batch, parameters]`, in the order of
    /// [`LayerSpec::parameters`](super::LayerSpec::parameters).
    Dense(Tensor),
    /// The gradients of several stretches of the parameters, one after another. Neither `Rows` nor `Joined` can be a
    /// part.
    Joined(Vec<PerExample>),
}

impl PerExample {
    /// The tensors that hold the gradient.
    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Outer { inputs, deltas, .. } => vec![inputs, deltas],
            Self::Rows { ids, deltas, .. } => vec![ids, deltas],
            Self::Dense(values) => vec![values],
            Self::Joined(parts) => parts.iter().flat_map(Self::tensors).collect(),
        }
    }

    /// Number of elements of the gradient of one example.
    pub(super) fn elements(&self) -> Result<usize> {
        match self {
            Self::Outer { inputs, deltas, bias } => {
                let ((_, groups, _, i), (_, _, _, o)) = (read_dimensions(inputs)?, read_dimensions(deltas)?);
                Ok(groups * o * (i + usize::from(*bias)))
            }
            Self::Rows { deltas, rows, .. } => Ok(rows * deltas.dims3()?.2),
            Self::Dense(values) => Ok(values.dims2()?.1),
            Self::Joined(parts) => parts.iter().map(Self::elements).sum(),
        }
    }
}

/// The sizes of two factors.
#[derive(Debug, Clone, Copy)]
pub(super) struct FactorSizes {
    pub groups: usize,
    pub positions: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// The sizes of two factors, if they fit each other and the batch.
pub(super) fn read_sizes(inputs: &Tensor, deltas: &Tensor, batch: usize) -> Result<FactorSizes> {
    let (ab, groups, positions, i) = read_dimensions(inputs)?;
    let (db, dg, dp, o) = read_dimensions(deltas)?;
    if (ab, groups, positions) != (db, dg, dp) || ab != batch {
        bail!(
            "per-example gradients with inputs {:?} and output gradients {:?} do not fit a batch of {batch}",
            inputs.shape(),
            deltas.shape()
        );
    }
    Ok(FactorSizes { groups, positions, inputs: i, outputs: o })
}

pub(super) fn read_dimensions(tensor: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *tensor.dims() {
        [batch, positions, width] => Ok((batch, 1, positions, width)),
        [batch, groups, positions, width] => Ok((batch, groups, positions, width)),
        _ => bail!("per-example factors must have 3 or 4 dimensions, not the shape {:?}", tensor.shape()),
    }
}
