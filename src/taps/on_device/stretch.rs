//! Whole gradients in stretches, so that a device never holds more than a bounded part of them.

use crate::taps::per_example::{read_sizes, FactorSizes, PerExample};
use candle_core::{bail, DType, Result, Tensor};
use std::ops::Range;

/// The most numbers of a gradient that are made at a time for one example.
const LENGTH: usize = 1 << 20;
/// The most numbers that are made at a time for some examples: 64 MiB in f32.
const NUMBERS: usize = 1 << 24;

/// How many examples are made at a time, of stretches of `length` numbers.
pub(super) fn examples_at_once(length: usize) -> usize {
    (NUMBERS / length.max(1)).max(1)
}

/// A stretch of the gradients of all examples, which is made when it is asked for.
pub(super) enum Piece {
    /// `Σ_t δ_t ⊗ a_t`: `[batch, groups, positions, outputs]` and `[batch, groups, positions, inputs]`.
    Product { deltas: Tensor, inputs: Tensor },
    /// `Σ_t δ_t`.
    Sum(Tensor),
    /// `[batch, numbers]`.
    Given(Tensor),
}

impl Piece {
    /// `[examples, numbers]`, f32. Products of halves are rounded to halves, as those of candle's own backward are.
    pub(super) fn make(&self, examples: Range<usize>) -> Result<Tensor> {
        let of = |t: &Tensor| t.narrow(0, examples.start, examples.len())?.contiguous();
        let wide = |t: Tensor| t.to_dtype(DType::F32);
        match self {
            Self::Product { deltas, inputs } => {
                let product = of(deltas)?.transpose(2, 3)?.matmul(&of(&inputs.to_dtype(deltas.dtype())?)?)?;
                wide(product.flatten_from(1)?)
            }
            Self::Sum(deltas) => wide(of(deltas)?)?.sum(2)?.flatten_from(1),
            Self::Given(values) => wide(of(values)?),
        }
    }
}

/// The stretches of what one use gives, in order, with their places in the layer's gradient of `parameters` numbers.
pub(super) fn stretches(one: &PerExample, batch: usize, parameters: usize) -> Result<Vec<(Range<usize>, Piece)>> {
    let mut found = Vec::new();
    add(one, 0, batch, &mut found)?;
    let end = found.last().map_or(0, |(range, _)| range.end);
    if end != parameters {
        bail!("per-example gradients of {end} elements do not fit a layer of {parameters} parameters");
    }
    Ok(found)
}

fn add(one: &PerExample, first: usize, batch: usize, found: &mut Vec<(Range<usize>, Piece)>) -> Result<()> {
    match one {
        PerExample::Outer { inputs, deltas, bias } => {
            let (inputs, deltas, sizes) = factors(inputs, deltas, batch)?;
            let FactorSizes { groups, inputs: width, outputs, .. } = sizes;
            // Groups lie one after another, so that outputs can be cut where there is one.
            let rows = if groups == 1 { (LENGTH / width.max(1)).clamp(1, outputs.max(1)) } else { outputs };
            let mut begin = 0;
            while begin < outputs {
                let end = (begin + rows).min(outputs);
                let cut = if rows == outputs { deltas.clone() } else { deltas.narrow(3, begin, end - begin)? };
                let at = first + begin * width;
                let length = groups * (end - begin) * width;
                found.push((at..at + length, Piece::Product { deltas: cut, inputs: inputs.clone() }));
                begin = end;
            }
            if *bias {
                let at = first + groups * outputs * width;
                found.push((at..at + groups * outputs, Piece::Sum(deltas)));
            }
        }
        PerExample::Dense(values) => {
            let (found_batch, numbers) = values.dims2()?;
            if found_batch != batch {
                bail!("per-example gradients of shape {:?} do not fit a batch of {batch}", values.shape());
            }
            let mut begin = 0;
            while begin < numbers {
                let length = LENGTH.min(numbers - begin);
                found.push((first + begin..first + begin + length, Piece::Given(values.narrow(1, begin, length)?)));
                begin += length;
            }
        }
        PerExample::Joined(parts) => {
            for part in parts {
                if matches!(part, PerExample::Joined(_)) {
                    bail!("a part of `PerExample::Joined` cannot be joined itself");
                }
                let at = found.last().map_or(first, |(range, _)| range.end);
                add(part, at, batch, found)?;
            }
        }
        PerExample::Rows { .. } => {
            bail!("`per_example` must return either rows or whole gradients for all uses of a layer")
        }
    }
    Ok(())
}

/// The factors with a dimension for groups, and their sizes.
pub(super) fn factors(inputs: &Tensor, deltas: &Tensor, batch: usize) -> Result<(Tensor, Tensor, FactorSizes)> {
    let sizes = read_sizes(inputs, deltas, batch)?;
    let with_groups = |t: &Tensor| if t.rank() == 3 { t.unsqueeze(1) } else { Ok(t.clone()) };
    Ok((with_groups(inputs)?, with_groups(deltas)?, sizes))
}
