//! Per-example gradients: from (input, output gradient) to sums, norms and folded sketches.

use super::fused::with_slice;
use super::parallel::{self, threads};
use candle_core::{bail, DType, Device, Result, Tensor};
use gradlog_format::sketch::Fold;
use gradlog_kernels::matmul::{matmul, Matrix};
use gradlog_kernels::simd::{squared_norm, vectorized};

/// The gradient of each example's loss by the parameters of one layer.
///
/// Several uses of a layer in one pass add up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PerExample {
    /// `G_i = Σ_t δ_it ⊗ a_it`, and `Σ_t δ_it` behind it where `bias` is set: linear layers, and convolutions with patches as
    /// positions. Laid out `[groups, outputs, inputs]` row-major, then the bias.
    Outer {
        /// `a`: `[batch, positions, inputs]`, or `[batch, groups, positions, inputs]`.
        inputs: Tensor,
        /// `δ`: `[batch, positions, outputs]`, or `[batch, groups, positions, outputs]`.
        deltas: Tensor,
        /// Whether `Σ_t δ_it` follows.
        bias: bool,
    },
    /// `δ_it` added to row `id_it` of a table: embeddings. Laid out `[rows, width]`.
    Rows {
        /// `id`: `[batch, positions]`, integers.
        ids: Tensor,
        /// `δ`: `[batch, positions, width]`.
        deltas: Tensor,
        /// Rows of the table.
        rows: usize,
    },
    /// The gradient itself: `[batch, parameters]`.
    Dense(Tensor),
}

/// The gradients of one layer for a batch, folded.
#[derive(Debug, Clone)]
pub(crate) struct FoldedGradients {
    /// `[batch, fold.outputs]`, or empty where they were added to the pass's shared rows.
    pub sketches: Vec<f32>,
    /// `‖G_i‖²`, exact.
    pub squared_norms: Vec<f32>,
}

/// Numbers of a gradient that are summed, squared and folded in one go: they stay in the first-level cache meanwhile.
const PIECE: usize = 2048;

/// Makes each example's gradient with `fill` and returns their sum and, with a `fold`, their squared norms; their sketches are
/// added to the rows behind the `fold`.
///
/// `fill(scratch, example, gradient)` writes the whole gradient of one example, `parameters` numbers. Examples are shared
/// out in contiguous stretches to as many workers as there are threads, each with a `scratch` and a gradient that stay in
/// its cache: the gradient is made once and read from there for the sum, the norm and the fold.
pub(super) fn sum_and_fold<S>(
    batch: usize,
    parameters: usize,
    fold: Option<(&Fold, &mut [f32])>,
    scratch: impl Fn() -> S + Sync,
    fill: impl Fn(&mut S, usize, &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let (fold, mut rest) = fold.map_or((None, &mut [][..]), |(fold, rows)| (Some(fold), rows));
    let m = fold.map_or(0, Fold::outputs);
    let stretch = batch.div_ceil(threads()).max(1);
    let mut squared_norms = vec![0f32; batch];
    let work = |first: usize, sketches: &mut [f32], norms: &mut [f32]| {
        let mut sum = vec![0f32; parameters];
        let mut gradient = vec![0f32; parameters];
        let mut scratch = scratch();
        for (offset, norm) in norms.iter_mut().enumerate() {
            fill(&mut scratch, first + offset, &mut gradient);
            let Some(fold) = fold else {
                add(&mut sum, &gradient);
                continue;
            };
            let sketch = &mut sketches[offset * m..(offset + 1) * m];
            let mut square = 0f64;
            for (number, (sum, piece)) in sum.chunks_mut(PIECE).zip(gradient.chunks(PIECE)).enumerate() {
                add(sum, piece);
                square += f64::from(squared_norm(piece));
                fold.add(number * PIECE, piece, sketch);
            }
            *norm = square as f32;
        }
        sum
    };
    let parts: Vec<_> = (squared_norms.chunks_mut(stretch).enumerate())
        .map(|(number, norms)| {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(norms.len() * m);
            rest = others;
            (number * stretch, own, norms)
        })
        .collect();
    let mut sums = parallel::map(parts, |(first, sketches, norms)| work(first, sketches, norms));
    let mut sum = sums.pop().unwrap_or_else(|| vec![0.0; parameters]);
    for part in sums {
        add(&mut sum, &part);
    }
    (sum, squared_norms)
}

/// `sum += values`.
pub(crate) fn add(sum: &mut [f32], values: &[f32]) {
    vectorized(
        #[inline(always)]
        || sum.iter_mut().zip(values).for_each(|(total, v)| *total += v),
    );
}

/// Folds the gradients of all uses of a layer in a pass. This is the way for everything that no fused op folded already:
/// layers used several times, other devices and dtypes, layers of the user's own.
pub(crate) fn fold_uses(uses: &[PerExample], fold: &Fold, batch: usize) -> Result<FoldedGradients> {
    let parameters = fold.inputs();
    let mut sketches = vec![0f32; batch * fold.outputs()];
    let mut squared_norms = vec![0f32; batch];
    if let [PerExample::Rows { .. }, ..] = uses {
        fold_rows(uses, fold, &mut sketches, &mut squared_norms)?;
        return Ok(FoldedGradients { sketches, squared_norms });
    }
    let uses: Vec<HostUse> = uses.iter().map(|one| HostUse::new(one, batch, parameters)).collect::<Result<_>>()?;
    let m = fold.outputs();
    let mut gradient = vec![0f32; parameters];
    for (example, (sketch, norm)) in sketches.chunks_exact_mut(m).zip(&mut squared_norms).enumerate() {
        gradient.fill(0.0);
        for one in &uses {
            one.add(example, &mut gradient);
        }
        *norm = squared_norm(&gradient);
        fold.add(0, &gradient, sketch);
    }
    Ok(FoldedGradients { sketches, squared_norms })
}

/// The f32 numbers of a tensor on any device.
pub(crate) fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    with_slice(&on_host(tensor)?, |values| Ok(values.to_vec()))
}

/// The tensor in main memory, contiguous and in f32: itself, if it is that already.
pub(crate) fn on_host(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()
}

/// One use's gradients in main memory.
enum HostUse {
    Outer { a: Vec<f32>, d: Vec<f32>, groups: usize, positions: usize, inputs: usize, outputs: usize, bias: bool },
    Dense { values: Vec<f32>, parameters: usize },
}

impl HostUse {
    fn new(one: &PerExample, batch: usize, parameters: usize) -> Result<Self> {
        let made = match one {
            PerExample::Outer { inputs, deltas, bias } => {
                let (ab, groups, positions, i) = with_groups(inputs)?;
                let (db, dg, dp, o) = with_groups(deltas)?;
                if (ab, groups, positions) != (db, dg, dp) || ab != batch {
                    bail!(
                        "per-example gradients of inputs {:?} and output gradients {:?} for a batch of {batch}",
                        inputs.shape(),
                        deltas.shape()
                    );
                }
                let found = groups * o * (i + usize::from(*bias));
                if found != parameters {
                    bail!("per-example gradients of {found} numbers for a layer of {parameters}");
                }
                Self::Outer {
                    a: host(inputs)?,
                    d: host(deltas)?,
                    groups,
                    positions,
                    inputs: i,
                    outputs: o,
                    bias: *bias,
                }
            }
            PerExample::Dense(values) => {
                if values.dims() != [batch, parameters] {
                    bail!(
                        "per-example gradients of shape {:?} for a batch of {batch} and {parameters} parameters",
                        values.shape()
                    );
                }
                Self::Dense { values: host(values)?, parameters }
            }
            PerExample::Rows { .. } => bail!("a layer gives either rows or whole gradients, not both"),
        };
        Ok(made)
    }

    fn add(&self, example: usize, gradient: &mut [f32]) {
        match self {
            Self::Dense { values, parameters } => {
                add(gradient, &values[example * parameters..(example + 1) * parameters]);
            }
            Self::Outer { a, d, groups, positions, inputs, outputs, bias } => {
                let (weights, biases) = gradient.split_at_mut(groups * outputs * inputs);
                for group in 0..*groups {
                    let place = example * groups + group;
                    let a = Matrix::new(&a[place * positions * inputs..], *positions, *inputs);
                    let deltas = &d[place * positions * outputs..(place + 1) * positions * outputs];
                    let d = Matrix::new(deltas, *positions, *outputs);
                    matmul(&mut weights[group * outputs * inputs..][..outputs * inputs], d.t(), a, true, 1);
                    if *bias {
                        add_rows(deltas, &mut biases[group * outputs..][..*outputs]);
                    }
                }
            }
        }
    }
}

/// Adds each row of `values` to `sum`.
pub(super) fn add_rows(values: &[f32], sum: &mut [f32]) {
    for row in values.chunks_exact(sum.len()) {
        add(sum, row);
    }
}

fn with_groups(tensor: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *tensor.dims() {
        [batch, positions, width] => Ok((batch, 1, positions, width)),
        [batch, groups, positions, width] => Ok((batch, groups, positions, width)),
        _ => bail!("per-example factors need 3 or 4 dimensions, not {:?}", tensor.shape()),
    }
}

/// Tables are long and an example touches few of their rows: the rows it touches are summed by id, and only they are folded.
fn fold_rows(uses: &[PerExample], fold: &Fold, sketches: &mut [f32], squared_norms: &mut [f32]) -> Result<()> {
    let m = fold.outputs();
    let batch = squared_norms.len();
    let mut parts = Vec::with_capacity(uses.len());
    for one in uses {
        let PerExample::Rows { ids, deltas, rows } = one else {
            bail!("a layer gives either rows or whole gradients, not both");
        };
        let (found, positions, width) = deltas.dims3()?;
        if found != batch || ids.dims() != [batch, positions] || rows * width != fold.inputs() {
            bail!("rows of shape {:?} at ids {:?} for a batch of {batch}", deltas.shape(), ids.shape());
        }
        let ids = ids.to_device(&Device::Cpu)?.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= *rows) {
            bail!("row {id} of a table of {rows}");
        }
        parts.push((ids, host(deltas)?, positions, width));
    }
    for (example, (sketch, norm)) in sketches.chunks_exact_mut(m).zip(squared_norms).enumerate() {
        let mut touched: Vec<(u32, &[f32])> = Vec::new();
        for (ids, deltas, positions, width) in &parts {
            let own = example * positions..(example + 1) * positions;
            touched.extend(
                ids[own.clone()].iter().copied().zip(deltas[own.start * width..own.end * width].chunks_exact(*width)),
            );
        }
        touched.sort_by_key(|(id, _)| *id);
        for same in touched.chunk_by(|a, b| a.0 == b.0) {
            let mut row = same[0].1.to_vec();
            for (_, more) in &same[1..] {
                add(&mut row, more);
            }
            *norm += squared_norm(&row);
            fold.add(same[0].0 as usize * row.len(), &row, sketch);
        }
    }
    Ok(())
}
