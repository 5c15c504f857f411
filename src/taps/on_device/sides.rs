//! Layers that are projected from both sides: positions are short vectors before they are multiplied.

use super::norms::{gram, squares, squares_of_products};
use super::stretch::{factors, stretches};
use super::DeviceSketch;
use crate::taps::per_example::{FactorSizes, PerExample};
use crate::taps::shared_fold::LazyFold;
use crate::taps::two_sided::{has_exact_norm, Sides};
use candle_core::{bail, DType, Result, Tensor};

/// As [`super::sketch`], of a layer that is projected from both sides.
pub(super) fn sketch(uses: &[PerExample], fold: &LazyFold, sides: &Sides, batch: usize) -> Result<DeviceSketch> {
    let mut sum = Sum { made: None, squares: None, rest: None, positions: Vec::new() };
    uses.iter().try_for_each(|one| sides.check(one))?;
    for one in uses {
        sum.add(one, sides, batch)?;
    }
    sum.finish(fold, sides)
}

/// What all uses have given so far.
struct Sum {
    /// `F_R G F_Cᵀ`, `[batch, rows · columns]`.
    made: Option<Tensor>,
    /// The squared norm of `G`, if it was had exactly and from one use.
    squares: Option<Tensor>,
    /// The gradient of the other parameters, `[batch, ..]`.
    rest: Option<Tensor>,
    /// For each use, whether its norm is exact.
    positions: Vec<bool>,
}

impl Sum {
    fn add(&mut self, one: &PerExample, sides: &Sides, batch: usize) -> Result<()> {
        let rest = self.add_use(one, sides, batch)?;
        if rest.is_empty() {
            return Ok(());
        }
        let rest = Tensor::cat(&rest, 1)?;
        self.rest = Some(self.rest.take().map_or(Ok(rest.clone()), |sum| sum + &rest)?);
        Ok(())
    }

    /// Adds the weight's gradient of one use. Returns those of the other parameters, one after another.
    fn add_use(&mut self, one: &PerExample, sides: &Sides, batch: usize) -> Result<Vec<Tensor>> {
        let mut rest = Vec::new();
        match one {
            PerExample::Outer { inputs, deltas, bias } => {
                let (inputs, deltas, sizes) = factors(inputs, deltas, batch)?;
                let FactorSizes { groups, positions, outputs, .. } = sizes;
                let (rows, columns) = sides.on_device(inputs.device(), inputs.dtype())?;
                let mut made = None;
                for group in 0..groups {
                    let of_group = |t: &Tensor| t.narrow(1, group, 1)?.squeeze(1)?.contiguous();
                    let (a, d) = (of_group(&inputs)?, of_group(&deltas)?);
                    let rows = rows.narrow(0, group * outputs, outputs)?;
                    let product = project(&d, &rows)?.transpose(1, 2)?.contiguous()?.matmul(&project(&a, &columns)?)?;
                    made = Some(made.map_or(Ok(product.clone()), |sum: Tensor| sum + &product)?);
                }
                let is_exact = groups == 1 && has_exact_norm(positions, sides.shape());
                if is_exact {
                    self.squares = Some(squares_of_products(&deltas.squeeze(1)?, &inputs.squeeze(1)?)?);
                }
                self.positions.push(is_exact);
                self.add_weight(made)?;
                if *bias {
                    rest.push(deltas.to_dtype(DType::F32)?.sum(2)?.flatten_from(1)?);
                }
            }
            PerExample::Rows { ids, deltas, .. } => {
                let (found, positions, _) = deltas.dims3()?;
                if found != batch || ids.dims() != [batch, positions] {
                    bail!(
                        "rows of shape {:?} at ids of shape {:?} do not fit a batch of {batch}",
                        deltas.shape(),
                        ids.shape()
                    );
                }
                let (rows, columns) = sides.on_device(deltas.device(), deltas.dtype())?;
                let ids = ids.contiguous()?;
                let chosen = rows.index_select(&ids.flatten_all()?, 0)?.reshape((batch, positions, ()))?;
                let right = project(&deltas.contiguous()?, &columns)?;
                let left = chosen.to_dtype(DType::F32)?.transpose(1, 2)?.contiguous()?;
                self.add_weight(Some(left.matmul(&right)?))?;
                let is_exact = has_exact_norm(positions, sides.shape());
                if is_exact {
                    let same = ids.unsqueeze(1)?.broadcast_eq(&ids.unsqueeze(2)?)?;
                    let products = gram(deltas)?;
                    let own = (&products * same.to_dtype(products.dtype())?)?;
                    self.squares = Some(own.flatten_from(1)?.sum(1)?);
                }
                self.positions.push(is_exact);
            }
            PerExample::Dense(values) => {
                let (found, numbers) = values.dims2()?;
                let (rows, columns) = sides.shape();
                if found != batch || numbers < rows * columns {
                    bail!("per-example gradients of shape {:?} do not fit a batch of {batch}", values.shape());
                }
                let weight = values.narrow(1, 0, rows * columns)?.to_dtype(DType::F32)?.contiguous()?;
                let (left, right) = sides.on_device(values.device(), DType::F32)?;
                let whole = weight.reshape((batch, rows, columns))?;
                let narrow = project(&whole, &right)?.transpose(1, 2)?.contiguous()?;
                self.add_weight(Some(project(&narrow, &left)?.transpose(1, 2)?.contiguous()?))?;
                self.squares = Some(squares(&whole)?);
                self.positions.push(true);
                if numbers > rows * columns {
                    let others = values.narrow(1, rows * columns, numbers - rows * columns)?;
                    rest.push(others.to_dtype(DType::F32)?.contiguous()?);
                }
            }
            PerExample::Joined(parts) => {
                let Some((weight, others)) = parts.split_first() else { bail!("`PerExample::Joined` has no part") };
                rest = self.add_use(weight, sides, batch)?;
                for part in others {
                    let length = part.elements()?;
                    for (_, piece) in stretches(part, batch, length)? {
                        rest.push(piece.make(0..batch)?);
                    }
                }
            }
        }
        Ok(rest)
    }

    fn add_weight(&mut self, made: Option<Tensor>) -> Result<()> {
        let Some(made) = made else { return Ok(()) };
        let made = made.flatten_from(1)?;
        self.made = Some(self.made.take().map_or(Ok(made.clone()), |sum| sum + &made)?);
        Ok(())
    }

    fn finish(self, fold: &LazyFold, sides: &Sides) -> Result<DeviceSketch> {
        let Some(made) = self.made else { bail!("a layer without gradients was to be sketched") };
        let is_exact = self.positions == [true];
        let weight = match self.squares.filter(|_| is_exact) {
            Some(squares) => squares,
            None => squares(&made)?,
        };
        let all = match &self.rest {
            Some(rest) => Tensor::cat(&[&made, rest], 1)?,
            None => made,
        };
        let own = fold.get();
        if all.dim(1)? != own.inputs() || sides.numbers() > own.inputs() {
            bail!("gradients of {} numbers do not fit a fold of {}", all.dim(1)?, own.inputs());
        }
        let total = match &self.rest {
            Some(rest) => (weight + squares(rest)?)?,
            None => weight,
        };
        let rows = fold.tables().get(own, 0..own.inputs(), all.device())?.apply(&all)?;
        Ok(DeviceSketch { rows, norms: total.sqrt()?.to_dtype(DType::F32)?, estimated: !is_exact })
    }
}

/// `[batch, positions, width]` times `[width, numbers]`, f32. The product of half-precision tensors is rounded to their
/// precision once, which is far finer than what the log keeps of it.
fn project(values: &Tensor, side: &Tensor) -> Result<Tensor> {
    let (batch, positions, width) = values.dims3()?;
    let flat = values.reshape((batch * positions, width))?;
    flat.matmul(&side.to_dtype(values.dtype())?)?.reshape((batch, positions, ()))?.to_dtype(DType::F32)
}
