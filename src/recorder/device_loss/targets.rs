//! Class numbers and masks on the device: which positions count, and what is wrong with the targets.
//!
//! A wrong target makes the loss NaN, because targets are judged only where their numbers are read. So no step goes on
//! quietly with a wrong class.

use super::ops::{as_type, choose, compute_type, own_copy, poison_unless_zero};
use crate::recorder::classifier::{refuse_large_label, Sizes, Targets};
use crate::recorder::targets::{read_targets, refuse_label, refuse_mask};
use candle_core::{DType, Result, Tensor};

/// The class of each position.
pub(super) struct Classes {
    /// `[rows, 1]`, in range everywhere.
    pub class: Tensor,
    /// 1 at positions that count, `[rows, 1]`; `None` if all count.
    pub counted: Option<Tensor>,
    /// 0, or NaN at positions whose target is wrong, `[rows, 1]`; `None` for targets that were checked.
    pub poison: Option<Tensor>,
    /// What [`judge`] reads: the class numbers as they were given, and the numbers of the mask if there is one.
    pub parts: Vec<Tensor>,
}

/// 1 where the mask is 1, else 0, and NaN where it is neither.
pub(super) fn read_mask(mask: &Tensor, rows: usize, dtype: DType) -> Result<(Tensor, Tensor, Tensor)> {
    let given = as_type(mask, dtype)?.reshape((rows, 1))?;
    let counted = given.eq(1.0)?.to_dtype(dtype)?;
    let poison = poison_unless_zero(&(&given - &counted)?)?;
    Ok((given, counted, poison))
}

impl Classes {
    /// Reads class numbers where the logits are. Targets on another device are checked in main memory.
    pub(super) fn new(
        logits: &Tensor,
        target: &Tensor,
        ignored: Option<i64>,
        mask: Option<&Tensor>,
        sizes: Sizes,
    ) -> Result<Self> {
        let (rows, dtype) = (sizes.batch * sizes.positions, compute_type(logits.dtype()));
        let near = |tensor: &Tensor| tensor.device().same_device(logits.device());
        if !near(target) || mask.is_some_and(|mask| !near(mask)) {
            return Self::from_main_memory(logits, target, ignored, mask, rows, dtype);
        }
        let given = target.detach().to_dtype(DType::I64)?.contiguous()?.reshape((rows, 1))?;
        let class = given.clamp(0i64, sizes.classes as i64 - 1)?;
        let mut outside = (&given - &class)?.to_dtype(dtype)?;
        let mut parts = vec![given.to_dtype(dtype)?];
        let mut counted = ignored.map(|ignored| given.ne(ignored)?.to_dtype(dtype)).transpose()?;
        let mut poison = None;
        if let Some(mask) = mask {
            let (numbers, by_mask, wrong) = read_mask(mask, rows, dtype)?;
            counted = Some(match counted {
                Some(counted) => (counted * by_mask)?,
                None => by_mask,
            });
            (poison, parts) = (Some(wrong), [parts, vec![numbers]].concat());
        }
        if let Some(counted) = &counted {
            outside = (outside * counted)?;
        }
        let wrong = poison_unless_zero(&outside)?;
        let poison = match poison {
            Some(poison) => (poison + wrong)?,
            None => wrong,
        };
        Ok(Self { class, counted, poison: Some(poison), parts })
    }

    fn from_main_memory(
        logits: &Tensor,
        target: &Tensor,
        ignored: Option<i64>,
        mask: Option<&Tensor>,
        rows: usize,
        dtype: DType,
    ) -> Result<Self> {
        let (targets, sizes) = read_targets::<f32>(logits, target, ignored, mask)?;
        targets.check(sizes).map_err(candle_core::Error::msg)?;
        let Targets::Classes(numbers) = targets else { candle_core::bail!("class numbers are integers") };
        let device = logits.device();
        let classes: Vec<u32> = numbers.iter().map(|class| class.unwrap_or(0)).collect();
        let counted: Vec<f32> = numbers.iter().map(|class| f32::from(u8::from(class.is_some()))).collect();
        let class = Tensor::from_vec(classes, (rows, 1), device)?;
        let all = counted.iter().all(|counted| *counted == 1.0);
        let upload = |counted: Vec<f32>| Tensor::from_vec(counted, (rows, 1), device)?.to_dtype(dtype);
        let counted = if all { None } else { Some(upload(counted)?) };
        Ok(Self { parts: vec![class.to_dtype(dtype)?], class, counted, poison: None })
    }

    /// The logits `[rows, classes]`, to be overwritten: zeros at positions that do not count, where they may be
    /// anything.
    pub(super) fn counted_logits(&self, logits: &Tensor, sizes: Sizes) -> Result<Tensor> {
        counted_rows(logits, self.counted.as_ref(), sizes)
    }
}

/// A copy of `[batch, positions, classes]` as `[rows, classes]`, with zeros at positions that do not count.
pub(super) fn counted_rows(tensor: &Tensor, counted: Option<&Tensor>, sizes: Sizes) -> Result<Tensor> {
    let dtype = compute_type(tensor.dtype());
    let shape = (sizes.batch * sizes.positions, sizes.classes);
    let Some(counted) = counted else { return own_copy(tensor, dtype)?.reshape(shape) };
    let given = as_type(tensor, dtype)?.reshape(shape)?;
    choose(&counted.ne(0.0)?.broadcast_as(shape)?, &given, &given.zeros_like()?)
}

/// The class of each position, `None` where it does not count, of what [`Classes::parts`] held.
///
/// # Errors
/// What is wrong with the targets, in the words of targets in main memory.
pub(super) fn judge(numbers: &[Vec<f64>], counted: Option<&Vec<f64>>, classes: usize) -> Result<Vec<Option<u32>>> {
    if let Some(mask) = numbers.get(1) {
        refuse_mask(mask)?;
    }
    let counts = |place: usize| counted.is_none_or(|counted| counted[place] != 0.0);
    let label = |(place, number): (usize, &f64)| match counts(place) {
        true => refuse_label(*number as i64).map(Some),
        false => Ok(None),
    };
    let labels = numbers[0].iter().enumerate().map(label).collect::<Result<Vec<_>>>()?;
    refuse_large_label(&labels, classes).map_err(candle_core::Error::msg)?;
    Ok(labels)
}
