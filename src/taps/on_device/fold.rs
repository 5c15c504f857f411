//! A fold by candle's ops: numbers are gathered into their buckets, signed and added.

use candle_core::{DType, Device, Result, Tensor};
use gradlog_format::sketch::Fold;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A fold of some coordinates, on a device.
#[derive(Debug)]
pub(in crate::taps) struct DeviceFold {
    /// Which coordinate comes where, `[rows · buckets]`.
    sources: Tensor,
    /// Its sign, `[rows · buckets]`.
    signs: Tensor,
    buckets: usize,
}

impl DeviceFold {
    pub(super) fn new(fold: &Fold, range: Range<usize>, device: &Device) -> Result<Self> {
        let table = fold.table(range);
        let length = table.sources.len();
        Ok(Self {
            sources: Tensor::from_vec(table.sources, length, device)?,
            signs: Tensor::from_vec(table.signs, length, device)?,
            buckets: table.outputs,
        })
    }

    /// `[batch, coordinates]` to `[batch, buckets]`, f32.
    pub(super) fn apply(&self, values: &Tensor) -> Result<Tensor> {
        let values = values.to_dtype(DType::F32)?.contiguous()?;
        let batch = values.dim(0)?;
        let gathered = values.index_select(&self.sources, 1)?.broadcast_mul(&self.signs)?;
        gathered.reshape((batch, self.sources.elem_count() / self.buckets, self.buckets))?.sum(1)
    }
}

/// The tables of one layer's fold, made at first use: 8 bytes for each parameter, on the device.
#[derive(Debug, Default)]
pub(in crate::taps) struct FoldTables(Mutex<Vec<(Range<usize>, Arc<DeviceFold>)>>);

impl FoldTables {
    /// The table of the coordinates `range` of `fold`. A layer is folded on one device for as long as it lives.
    pub(super) fn get(&self, fold: &Fold, range: Range<usize>, device: &Device) -> Result<Arc<DeviceFold>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held.iter().find(|(own, made)| *own == range && made.signs.device().same_device(device));
        if let Some((_, made)) = found {
            return Ok(made.clone());
        }
        let made = Arc::new(DeviceFold::new(fold, range.clone(), device)?);
        held.push((range, made.clone()));
        Ok(made)
    }
}
