//! Layers that are projected from both sides: `F_R G F_Cᵀ` in place of `G`.
//!
//! A layer's gradient is never made. With `positions · (R + C + rows · columns)` multiplications in place of `positions
//! · R · C`, this is what wide layers with few positions and layers on a device can afford.

mod scales;

pub(crate) use scales::SideScales;

use super::gradient::{add_rows, wide_squared_norm, HostUse, TouchedRows};
use super::per_example::{read_dimensions, PerExample};
use candle_core::{bail, DType, Device, Result, Tensor};
use gradlog_format::sketch::Fold;
use gradlog_kernels::matmul::{matmul, Matrix};
use scales::ScalesHere;
use std::sync::{Mutex, PoisonError};

/// The two projections of a layer.
pub(crate) struct Sides {
    rows: Fold,
    columns: Fold,
    /// Both as matrices, on the device where they were last asked for.
    made: Mutex<Option<(Tensor, Tensor)>>,
}

impl Sides {
    /// Of a weight `[shape.0, shape.1]`, to `rows` and `columns` numbers.
    pub(crate) fn new(
        (seed_rows, seed_columns): (u64, u64),
        shape: (usize, usize),
        (rows, columns): (usize, usize),
    ) -> Self {
        Self {
            rows: Fold::new(seed_rows, shape.0, rows),
            columns: Fold::new(seed_columns, shape.1, columns),
            made: Mutex::new(None),
        }
    }

    /// The sides of the weight.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows.inputs(), self.columns.inputs())
    }

    /// How many numbers stand for the gradient of the weight.
    pub(crate) fn numbers(&self) -> usize {
        self.rows.outputs() * self.columns.outputs()
    }

    /// Both projections as matrices, `[R, rows]` and `[C, columns]`: one ±1 in each row.
    pub(super) fn on_device(&self, device: &Device, dtype: DType) -> Result<(Tensor, Tensor)> {
        let mut held = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |(rows, _): &&(Tensor, Tensor)| rows.device().same_device(device) && rows.dtype() == dtype;
        if let Some(made) = held.as_ref().filter(fits) {
            return Ok(made.clone());
        }
        let matrix = |fold: &Fold| {
            let (inputs, outputs) = (fold.inputs(), fold.outputs());
            let mut values = vec![0f32; inputs * outputs];
            for (place, row) in values.chunks_exact_mut(outputs).enumerate() {
                fold.add(place, &[1.0], row);
            }
            Tensor::from_vec(values, (inputs, outputs), device)?.to_dtype(dtype)
        };
        let made = (matrix(&self.rows)?, matrix(&self.columns)?);
        *held = Some(made.clone());
        Ok(made)
    }
}

/// Whether the exact norm of a sum over `positions` is worth its cost, of a weight `[R, C]`. It takes `positions² (R +
/// C)` multiplications; forward and backward of the layer take `3 positions R C`, and a sixteenth of these is paid.
pub(crate) fn has_exact_norm(positions: usize, (rows, columns): (usize, usize)) -> bool {
    16 * positions * (rows + columns) <= 3 * rows * columns
}

/// What one example's uses of a layer leave.
pub(super) struct TwoSidedSum {
    /// `F_R G F_Cᵀ`, then the gradient of the other parameters.
    pub numbers: Vec<f32>,
    /// The squared norm of the gradient.
    pub squared_norm: f64,
    /// Whether it is that of the sketch.
    pub estimated: bool,
}

impl Sides {
    /// Refuses gradients of another shape than the weight's. A layer of the user's own may lay them out otherwise.
    pub(super) fn check(&self, one: &PerExample) -> Result<()> {
        let (rows, columns) = self.shape();
        let found = match one {
            PerExample::Outer { inputs, deltas, .. } => {
                let ((_, groups, _, inputs), (_, _, _, outputs)) = (read_dimensions(inputs)?, read_dimensions(deltas)?);
                (groups * outputs, inputs)
            }
            PerExample::Rows { deltas, rows, .. } => (*rows, deltas.dims3()?.2),
            PerExample::Joined(parts) => return parts.first().map_or(Ok(()), |weight| self.check(weight)),
            PerExample::Dense(values) if values.dims2()?.1 < rows * columns => (1, values.dims2()?.1),
            PerExample::Dense(_) => return Ok(()),
        };
        if found != (rows, columns) {
            bail!(
                "per-example gradients of {} x {} do not fit a weight of {rows} x {columns}, its first dimension against all \
                 others: set `Config::folding` to `Folding::Whole`, or lay them out so",
                found.0,
                found.1
            );
        }
        Ok(())
    }

    /// Sums what all uses give for `example`. `rest` is how many other parameters the layer has.
    pub(super) fn sum(&self, uses: &[HostUse], example: usize, rest: usize) -> TwoSidedSum {
        let mut numbers = vec![0f32; self.numbers() + rest];
        let mut exact = None;
        for one in uses {
            let (weight, others) = numbers.split_at_mut(self.numbers());
            exact = self.add(one, example, weight, others).filter(|_| uses.len() == 1);
        }
        let (weight, others) = numbers.split_at(self.numbers());
        let squared_norm = exact.unwrap_or_else(|| wide_squared_norm(weight)) + wide_squared_norm(others);
        TwoSidedSum { squared_norm, estimated: exact.is_none(), numbers }
    }

    /// Sums the rows of a table that one example touches.
    pub(super) fn sum_rows(&self, touched: &TouchedRows<'_>, scales: Option<&ScalesHere<'_>>) -> TwoSidedSum {
        let mut numbers = vec![0f32; self.numbers()];
        let kept = self.columns.outputs();
        let mut squared_norm = 0.0;
        for (id, row) in touched {
            let scaled = scales.map(|scales| scales.scale_row(*id as usize, row));
            let row = scaled.as_deref().unwrap_or(row);
            squared_norm += wide_squared_norm(row);
            self.add_row(*id as usize, &self.columns.apply(row), &mut numbers, kept);
        }
        TwoSidedSum { numbers, squared_norm, estimated: false }
    }

    /// The same uses with the weight's gradients scaled. Biases are left out.
    pub(super) fn scale_uses(&self, uses: &[HostUse], scales: &ScalesHere<'_>) -> Vec<HostUse> {
        uses.iter().map(|one| one.scale_weight(scales, self.shape())).collect()
    }

    /// Adds a row of the weight that is already folded: to the row where its number comes, with its sign.
    fn add_row(&self, row: usize, folded: &[f32], weight: &mut [f32], kept: usize) {
        let (bucket, sign) = self.rows.locate(row);
        let into = &mut weight[bucket * kept..][..kept];
        into.iter_mut().zip(folded).for_each(|(sum, value)| *sum += sign * value);
    }

    /// Adds one use. Returns the squared norm of the weight's gradient, if it is worth its cost.
    fn add(&self, one: &HostUse, example: usize, weight: &mut [f32], others: &mut [f32]) -> Option<f64> {
        let (kept_rows, kept_columns) = (self.rows.outputs(), self.columns.outputs());
        match one {
            HostUse::Outer { a, d, groups, positions, inputs, outputs, bias } => {
                let (groups, positions, inputs, outputs) = (*groups, *positions, *inputs, *outputs);
                let mut exact = (groups == 1 && has_exact_norm(positions, self.shape())).then_some(0.0);
                for group in 0..groups {
                    let place = example * groups + group;
                    let a = &a[place * positions * inputs..][..positions * inputs];
                    let d = &d[place * positions * outputs..][..positions * outputs];
                    let left = fold_each(&self.rows, group * outputs, d, outputs);
                    let right = fold_each(&self.columns, 0, a, inputs);
                    let left = Matrix::new(&left, positions, kept_rows);
                    matmul(weight, left.t(), Matrix::new(&right, positions, kept_columns), true, 1);
                    if let Some(sum) = &mut exact {
                        *sum += gram_products((d, outputs), (a, inputs), positions);
                    }
                    if *bias {
                        add_rows(d, &mut others[group * outputs..][..outputs]);
                    }
                }
                exact
            }
            HostUse::Dense { values, parameters } => {
                let own = &values[example * parameters..][..*parameters];
                let (rows, columns) = self.shape();
                let (own, rest) = own.split_at(rows * columns);
                for (row, values) in own.chunks_exact(columns.max(1)).enumerate() {
                    self.add_row(row, &self.columns.apply(values), weight, kept_columns);
                }
                others.iter_mut().zip(rest).for_each(|(sum, value)| *sum += value);
                Some(wide_squared_norm(own))
            }
            HostUse::Joined(parts) => {
                let (length, first) = parts.first()?;
                let exact = self.add(first, example, weight, others);
                // The first part may have a bias, and so more than the weight.
                let (rows, columns) = self.shape();
                let mut from = length.saturating_sub(rows * columns);
                for (length, part) in &parts[1..] {
                    part.add(example, &mut others[from..from + length]);
                    from += length;
                }
                exact
            }
        }
    }
}

impl HostUse {
    fn scale_weight(&self, scales: &ScalesHere<'_>, (rows, columns): (usize, usize)) -> Self {
        let times = |values: &[f32], by: &[f32]| -> Vec<f32> {
            let rows = values.chunks_exact(by.len().max(1));
            rows.flat_map(|row| row.iter().zip(by).map(|(value, by)| value * by)).collect()
        };
        match self {
            Self::Outer { a, d, groups, positions, inputs, outputs, .. } => {
                // Rows of the weight go through the groups: those of a group belong to its positions.
                let of_groups = d.chunks_exact((positions * outputs).max(1)).enumerate();
                let d = of_groups
                    .flat_map(|(number, d)| times(d, &scales.rows[number % groups * outputs..][..*outputs]))
                    .collect();
                Self::Outer {
                    a: times(a, scales.columns),
                    d,
                    groups: *groups,
                    positions: *positions,
                    inputs: *inputs,
                    outputs: *outputs,
                    bias: false,
                }
            }
            Self::Dense { values, parameters } => {
                let weight = values.chunks_exact((*parameters).max(1)).flat_map(|own| {
                    let rows = own[..rows * columns].chunks_exact(columns.max(1)).zip(scales.rows.iter());
                    rows.flat_map(|(row, by)| times(row, scales.columns).into_iter().map(move |value| value * by))
                });
                Self::Dense { values: weight.collect(), parameters: rows * columns }
            }
            Self::Joined(parts) => match parts.first() {
                Some((_, weight)) => weight.scale_weight(scales, (rows, columns)),
                None => Self::Joined(Vec::new()),
            },
        }
    }
}

/// Folds each of some rows of `width` numbers, whose coordinates begin at `first`.
fn fold_each(fold: &Fold, first: usize, rows: &[f32], width: usize) -> Vec<f32> {
    let kept = fold.outputs();
    let mut folded = vec![0f32; rows.len() / width.max(1) * kept];
    for (row, into) in rows.chunks_exact(width.max(1)).zip(folded.chunks_exact_mut(kept)) {
        fold.add(first, row, into);
    }
    folded
}

/// `Σ_{t,t'} ⟨δ_t, δ_t'⟩ ⟨a_t, a_t'⟩`.
fn gram_products((d, outputs): (&[f32], usize), (a, inputs): (&[f32], usize), positions: usize) -> f64 {
    // Numbers are scaled to at most 1, because squares of small ones are 0 in f32.
    let gram = |values: &[f32], width: usize| {
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let scale = if largest.is_normal() { 1.0 / largest } else { 1.0 };
        let scaled: Vec<f32> = values.iter().map(|value| value * scale).collect();
        let mut products = vec![0f32; positions * positions];
        let rows = Matrix::new(&scaled, positions, width);
        matmul(&mut products, rows, rows.t(), false, 1);
        (products, 1.0 / f64::from(scale).powi(2))
    };
    let ((d, of_d), (a, of_a)) = (gram(d, outputs), gram(a, inputs));
    let sum: f64 = d.iter().zip(&a).map(|(d, a)| f64::from(*d) * f64::from(*a)).sum();
    sum * of_d * of_a
}

#[cfg(test)]
mod tests;
