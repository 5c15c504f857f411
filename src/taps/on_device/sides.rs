//! Layers that are projected from both sides: positions are short vectors before they are multiplied.

use super::norms::{gram, squares, squares_of_products, wide};
use super::stretch::{factors, stretches};
use super::{roots, DeviceSketch};
use crate::taps::per_example::{FactorSizes, PerExample};
use crate::taps::shared_fold::LazyFold;
use crate::taps::two_sided::{has_exact_norm, SideScales, Sides};
use candle_core::{bail, DType, Device, Result, Tensor};

/// As [`super::sketch`], of a layer that is projected from both sides.
pub(super) fn sketch(
    uses: &[PerExample],
    (fold, sides): (&LazyFold, &Sides),
    metric: Option<&SideScales>,
    batch: usize,
) -> Result<DeviceSketch> {
    uses.iter().try_for_each(|one| sides.check(one))?;
    let project = |scales| Projected { sides, scales, made: None, squares: None, is_exact: Vec::new() };
    let mut plain = project(None);
    let mut scaled = fold.scales().or(metric).map(|scales| project(Some(scales)));
    let mut rest: Option<Tensor> = None;
    for one in uses {
        plain.add(one, batch)?;
        scaled.as_mut().map_or(Ok(()), |scaled| scaled.add(one, batch))?;
        if let Some(own) = make_rest(one, sides, batch)? {
            rest = Some(rest.map_or(Ok(own.clone()), |rest| rest + &own)?);
        }
    }
    let estimated = !plain.has_norm();
    let (row, norms) = plain.finish(fold, rest.as_ref())?;
    let Some(scaled) = scaled else { return Ok(DeviceSketch { rows: row, norms, in_metric: None, estimated }) };
    let (second, of_scaled) = scaled.finish(fold, rest.as_ref())?;
    let rows = if fold.scales().is_some() { Tensor::cat(&[row, second], 1)? } else { row };
    Ok(DeviceSketch { rows, norms, in_metric: metric.map(|_| of_scaled), estimated })
}

/// What all uses have given so far of the weight's gradient `G`, as it is or scaled.
struct Projected<'a> {
    sides: &'a Sides,
    scales: Option<&'a SideScales>,
    /// `F_R G F_Cᵀ`, `[batch, rows · columns]`.
    made: Option<Tensor>,
    /// The squared norm of `G`, if it was had exactly and from one use.
    squares: Option<Tensor>,
    /// For each use, whether its norm is exact.
    is_exact: Vec<bool>,
}

impl Projected<'_> {
    fn add(&mut self, one: &PerExample, batch: usize) -> Result<()> {
        match one {
            PerExample::Outer { inputs, deltas, .. } => {
                let (inputs, deltas, sizes) = factors(inputs, deltas, batch)?;
                let FactorSizes { groups, positions, outputs, .. } = sizes;
                let (rows, columns, factor) = self.matrices(inputs.device(), inputs.dtype())?;
                let mut made = None;
                for group in 0..groups {
                    let of_group = |t: &Tensor| t.narrow(1, group, 1)?.squeeze(1)?.contiguous();
                    let (a, d) = (of_group(&inputs)?, of_group(&deltas)?);
                    let rows = rows.narrow(0, group * outputs, outputs)?;
                    let product = project(&d, &rows)?.transpose(1, 2)?.contiguous()?.matmul(&project(&a, &columns)?)?;
                    made = Some(made.map_or(Ok(product.clone()), |sum: Tensor| sum + &product)?);
                }
                let is_exact = groups == 1 && has_exact_norm(positions, self.sides.shape());
                if is_exact {
                    let (d, a) = self.scale(deltas.squeeze(1)?, inputs.squeeze(1)?)?;
                    self.squares = Some(squares_of_products(&d, &a)?);
                }
                self.is_exact.push(is_exact);
                self.add_weight(made, factor)
            }
            PerExample::Rows { ids, deltas, .. } => self.add_rows(ids, deltas, batch),
            PerExample::Dense(values) => {
                let (found, numbers) = values.dims2()?;
                let (rows, columns) = self.sides.shape();
                if found != batch || numbers < rows * columns {
                    bail!("per-example gradients of shape {:?} do not fit a batch of {batch}", values.shape());
                }
                let weight = values.narrow(1, 0, rows * columns)?.to_dtype(DType::F32)?.contiguous()?;
                let whole = weight.reshape((batch, rows, columns))?;
                let whole = match self.scales {
                    Some(scales) => {
                        let (of_rows, of_columns) = scales.on(values.device())?;
                        whole.broadcast_mul(&of_rows.unsqueeze(1)?)?.broadcast_mul(&of_columns)?
                    }
                    None => whole,
                };
                let (left, right) = self.sides.on_device(values.device(), DType::F32)?;
                let narrow = project(&whole, &right)?.transpose(1, 2)?.contiguous()?;
                self.squares = Some(squares(&whole)?);
                self.is_exact.push(true);
                self.add_weight(Some(project(&narrow, &left)?.transpose(1, 2)?.contiguous()?), None)
            }
            PerExample::Joined(parts) => match parts.first() {
                Some(weight) => self.add(weight, batch),
                None => bail!("`PerExample::Joined` has no part"),
            },
        }
    }

    /// Adds the rows of a table that examples touch.
    fn add_rows(&mut self, ids: &Tensor, deltas: &Tensor, batch: usize) -> Result<()> {
        let (found, positions, _) = deltas.dims3()?;
        if found != batch || ids.dims() != [batch, positions] {
            bail!("rows of shape {:?} at ids of shape {:?} do not fit a batch of {batch}", deltas.shape(), ids.shape());
        }
        let (rows, columns, factor) = self.matrices(deltas.device(), deltas.dtype())?;
        let ids = ids.contiguous()?;
        let chosen = rows.index_select(&ids.flatten_all()?, 0)?.reshape((batch, positions, ()))?;
        let right = project(&deltas.contiguous()?, &columns)?;
        let left = chosen.to_dtype(DType::F32)?.transpose(1, 2)?.contiguous()?;
        self.add_weight(Some(left.matmul(&right)?), factor)?;
        let is_exact = has_exact_norm(positions, self.sides.shape());
        if is_exact {
            let same = ids.unsqueeze(1)?.broadcast_eq(&ids.unsqueeze(2)?)?;
            let mut own = match self.scales {
                Some(scales) => {
                    let (of_rows, of_columns) = scales.on(deltas.device())?;
                    let products = gram(&deltas.to_dtype(DType::F32)?.broadcast_mul(&of_columns)?)?;
                    let of_rows = of_rows.index_select(&ids.flatten_all()?, 0)?.reshape((batch, positions, 1))?;
                    products.broadcast_mul(&of_rows.to_dtype(wide(deltas.device()))?.sqr()?)?
                }
                None => gram(deltas)?,
            };
            own = (&own * same.to_dtype(own.dtype())?)?;
            self.squares = Some(own.flatten_from(1)?.sum(1)?);
        }
        self.is_exact.push(is_exact);
        Ok(())
    }

    /// Both projections as matrices, and what their product is still to be multiplied by.
    fn matrices(&self, device: &Device, dtype: DType) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        match self.scales {
            Some(scales) => {
                let made = scales.project(self.sides, device, dtype)?;
                Ok((made.rows, made.columns, Some(made.factor)))
            }
            None => self.sides.on_device(device, dtype).map(|(rows, columns)| (rows, columns, None)),
        }
    }

    /// Both factors of a gradient, scaled if they are to be.
    fn scale(&self, deltas: Tensor, inputs: Tensor) -> Result<(Tensor, Tensor)> {
        let Some(scales) = self.scales else { return Ok((deltas, inputs)) };
        let (rows, columns) = scales.on(deltas.device())?;
        let scale = |values: Tensor, by: &Tensor| values.to_dtype(DType::F32)?.broadcast_mul(by);
        Ok((scale(deltas, &rows)?, scale(inputs, &columns)?))
    }

    fn add_weight(&mut self, made: Option<Tensor>, factor: Option<Tensor>) -> Result<()> {
        let Some(made) = made else { return Ok(()) };
        let mut made = made.flatten_from(1)?;
        if let Some(factor) = factor {
            made = made.broadcast_mul(&factor)?;
        }
        self.made = Some(self.made.take().map_or(Ok(made.clone()), |sum| sum + &made)?);
        Ok(())
    }

    fn has_norm(&self) -> bool {
        self.is_exact == [true]
    }

    /// The sketch `[batch, buckets]`, and the norm `[batch]` in f32, with the gradients of the other parameters.
    fn finish(self, fold: &LazyFold, rest: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let has_norm = self.has_norm();
        let Some(made) = self.made else { bail!("a layer without gradients was to be sketched") };
        let weight = match self.squares.filter(|_| has_norm) {
            Some(squares) => squares,
            None => squares(&made)?,
        };
        let rest = match (rest, self.scales) {
            (Some(rest), Some(scales)) => Some(rest.broadcast_mul(&scales.rest_on(rest.device())?)?),
            (rest, _) => rest.cloned(),
        };
        let (all, total) = match &rest {
            Some(rest) => (Tensor::cat(&[&made, rest], 1)?, (weight + squares(rest)?)?),
            None => (made, weight),
        };
        let own = fold.plain();
        if all.dim(1)? != own.inputs() || self.sides.numbers() > own.inputs() {
            bail!("gradients of {} numbers do not fit a fold of {}", all.dim(1)?, own.inputs());
        }
        Ok((fold.tables().get(own, 0..own.inputs(), all.device())?.apply(&all)?, roots(&total)?))
    }
}

/// The gradients of a use's other parameters, one after another.
fn make_rest(one: &PerExample, sides: &Sides, batch: usize) -> Result<Option<Tensor>> {
    let mut rest = Vec::new();
    match one {
        PerExample::Outer { deltas, bias: true, inputs } => {
            let (_, deltas, _) = factors(inputs, deltas, batch)?;
            rest.push(deltas.to_dtype(DType::F32)?.sum(2)?.flatten_from(1)?);
        }
        PerExample::Joined(parts) => {
            let Some((weight, others)) = parts.split_first() else { bail!("`PerExample::Joined` has no part") };
            rest.extend(make_rest(weight, sides, batch)?);
            for part in others {
                let length = part.elements()?;
                for (_, piece) in stretches(part, batch, length)? {
                    rest.push(piece.make(0..batch)?);
                }
            }
        }
        PerExample::Dense(values) => {
            let (rows, columns) = sides.shape();
            let others = values.dim(1)?.saturating_sub(rows * columns);
            if others > 0 {
                rest.push(values.narrow(1, rows * columns, others)?.to_dtype(DType::F32)?.contiguous()?);
            }
        }
        PerExample::Outer { .. } | PerExample::Rows { .. } => {}
    }
    (!rest.is_empty()).then(|| Tensor::cat(&rest, 1)).transpose()
}

/// `[batch, positions, width]` times `[width, numbers]`, f32. The product of half-precision tensors is rounded to their
/// precision once, which is far finer than what the log keeps of it.
fn project(values: &Tensor, side: &Tensor) -> Result<Tensor> {
    let (batch, positions, width) = values.dims3()?;
    let flat = values.reshape((batch * positions, width))?;
    flat.matmul(&side.to_dtype(values.dtype())?)?.reshape((batch, positions, ()))?.to_dtype(DType::F32)
}
