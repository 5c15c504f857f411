//! The targets of a loss: whether they fit, and their numbers in main memory.

use super::classifier::{Sizes, Targets};
use super::loss::Number;
use super::outputs::to_f32;
use candle_core::{bail, DType, Device, Result, Tensor};
use num_traits::Float;

pub(super) fn read_numbers<T: Number>(tensor: &Tensor) -> Result<Vec<T>> {
    tensor.detach().to_device(&Device::Cpu)?.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1()
}

/// The sizes of logits whose targets are class numbers, or probabilities in the logits' shape. Refuses targets and a
/// mask that do not fit. It looks at shapes and types alone.
pub(super) fn check_targets(
    logits: &Tensor,
    target: &Tensor,
    ignored: Option<i64>,
    mask: Option<&Tensor>,
) -> Result<Sizes> {
    let is_soft = target.dtype().is_float() && matches!(target.rank(), 2 | 3);
    let sizes = match (logits.dims(), target.dims()) {
        (&[b, c], &[tb]) if b == tb => Sizes { batch: b, positions: 1, classes: c, is_sequence: false },
        (&[b, t, c], &[tb, tt]) if (b, t) == (tb, tt) => Sizes { batch: b, positions: t, classes: c, is_sequence: true },
        (&[b, c], own) if is_soft && own == [b, c] => {
            Sizes { batch: b, positions: 1, classes: c, is_sequence: false }
        }
        (&[b, t, c], own) if is_soft && own == [b, t, c] => {
            Sizes { batch: b, positions: t, classes: c, is_sequence: true }
        }
        (z, t) => bail!(
            "logits [batch, classes] take class numbers [batch] or probabilities [batch, classes], and logits [batch, positions, \
             classes] take [batch, positions] or [batch, positions, classes], not {z:?} with {t:?} {:?}: probabilities are floats, \
             class numbers are integers; for another loss give its values to `pass.losses`, and logits with such targets to \
             `pass.logits`",
            target.dtype()
        ),
    };
    if target.rank() < logits.rank() {
        check_integers(target)?;
        if let Some(mask) = mask.filter(|mask| mask.dims() != target.dims()) {
            bail!("a mask of shape {:?} does not fit targets of shape {:?}", mask.shape(), target.shape())
        }
        return Ok(sizes);
    }
    if ignored.is_some() {
        bail!("`pass.ignore_index` marks class numbers, and these targets are probabilities: use `pass.mask`");
    }
    if let Some(mask) = mask.filter(|mask| mask.dims() != &logits.dims()[..logits.rank() - 1]) {
        bail!(
            "a mask of shape {:?} does not fit logits of shape {:?}: give a number for each prediction",
            mask.shape(),
            logits.shape()
        )
    }
    Ok(sizes)
}

/// Reads the targets of logits.
pub(super) fn read_targets<T: Number>(
    logits: &Tensor,
    target: &Tensor,
    ignored: Option<i64>,
    mask: Option<&Tensor>,
) -> Result<(Targets<T>, Sizes)> {
    let sizes = check_targets(logits, target, ignored, mask)?;
    if target.rank() < logits.rank() {
        return Ok((Targets::Classes(read_labels(target, ignored, mask)?), sizes));
    }
    let counted = mask.map(read_mask).transpose()?;
    Ok((Targets::Shares { shares: read_numbers(target)?, counted }, sizes))
}

/// Which positions count.
fn read_mask(mask: &Tensor) -> Result<Vec<bool>> {
    let numbers = read_numbers::<f32>(mask)?;
    refuse_mask(&numbers)?;
    Ok(numbers.into_iter().map(|number| number == 1.0).collect())
}

/// The class numbers; `None` at positions without a target.
pub(super) fn read_labels(target: &Tensor, ignored: Option<i64>, mask: Option<&Tensor>) -> Result<Vec<Option<u32>>> {
    let numbers = target.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    let counted = mask.map(read_mask).transpose()?;
    let label = |(place, number): (usize, &i64)| {
        if Some(*number) == ignored || counted.as_ref().is_some_and(|counted| !counted[place]) {
            return Ok(None);
        }
        refuse_label(*number).map(Some)
    };
    numbers.iter().enumerate().map(label).collect()
}

pub(super) fn check_integers(target: &Tensor) -> Result<()> {
    if !target.dtype().is_int() {
        bail!("class numbers must be integers, not {:?}: convert the targets", target.dtype());
    }
    Ok(())
}

/// Refuses a mask with other numbers than 0 and 1.
pub(super) fn refuse_mask<T: Float>(numbers: &[T]) -> Result<()> {
    let Some(bad) = numbers.iter().find(|number| **number != T::zero() && **number != T::one()) else { return Ok(()) };
    bail!(
        "a number of the mask is {}, and a mask has 0 for what does not count and 1 for what does: weigh examples with \
         `pass.weights`, and positions by losses of your own with `pass.losses`",
        to_f32(*bad)
    )
}

/// The class of a class number that can be one.
pub(super) fn refuse_label(number: i64) -> Result<u32> {
    match u32::try_from(number) {
        Ok(label) => Ok(label),
        Err(_) => {
            bail!("label {number} is no class number: labels count from 0; mark positions without one with `pass.ignore_index`")
        }
    }
}

/// Refuses a target of binary cross entropy that is no probability.
pub(super) fn refuse_share<T: Float>(target: T) -> Result<()> {
    if target >= T::zero() && target <= T::one() {
        return Ok(());
    }
    bail!(
        "a target is {}, and binary cross entropy takes targets of 0 to 1: convert them, or give your own losses to \
         `pass.losses`",
        to_f32(target)
    )
}
