//! What a gradient that is projected from both sides is multiplied by, for a second sketch or for a norm.

use super::Sides;
use crate::taps::placed::Placed;
use candle_core::{DType, Device, Result, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// The weight's gradient is multiplied by an outer product, the rest number by number.
#[derive(Debug, Clone)]
pub(crate) struct SideScales {
    rows: Placed<f32>,
    columns: Placed<f32>,
    rest: Placed<f32>,
    /// On the device where they were last asked for.
    made: Arc<Mutex<Option<ScaledSides>>>,
}

/// In main memory.
pub(in crate::taps) struct ScalesHere<'a> {
    pub rows: &'a [f32],
    pub columns: &'a [f32],
    pub rest: &'a [f32],
}

/// `diag(rows) F_Rᵀ` and `diag(columns) F_Cᵀ` as matrices, `[R, rows]` and `[C, columns]`.
///
/// Both are divided by the largest scale, because scales of one over a root of small numbers may leave the range of
/// halves. `factor` is the product of the two divisors, `[1]` in f32.
#[derive(Debug, Clone)]
pub(in crate::taps) struct ScaledSides {
    pub rows: Tensor,
    pub columns: Tensor,
    pub factor: Tensor,
}

impl ScalesHere<'_> {
    /// A row of the weight's gradient, scaled.
    pub(super) fn scale_row(&self, row: usize, values: &[f32]) -> Vec<f32> {
        let by = self.rows[row];
        values.iter().zip(self.columns).map(|(value, column)| value * column * by).collect()
    }
}

impl SideScales {
    /// Of the weight's rows and columns, and of the layer's other parameters.
    pub(crate) fn new(rows: Placed<f32>, columns: Placed<f32>, rest: Placed<f32>) -> Self {
        Self { rows, columns, rest, made: Arc::default() }
    }

    /// Bytes of main memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.rows.get().len() + self.columns.get().len() + self.rest.get().len())
    }

    /// In main memory. This waits for the device that they were made on.
    pub(in crate::taps) fn read(&self) -> Result<ScalesHere<'_>> {
        Ok(ScalesHere { rows: self.rows.read()?, columns: self.columns.read()?, rest: self.rest.read()? })
    }

    /// Those of the rows, `[R]`, and of the columns, `[C]`.
    pub(in crate::taps) fn on(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        Ok((self.rows.on(device)?, self.columns.on(device)?))
    }

    /// Those of the layer's other parameters.
    pub(in crate::taps) fn rest_on(&self, device: &Device) -> Result<Tensor> {
        self.rest.on(device)
    }

    /// The layer's projections of scaled gradients.
    pub(in crate::taps) fn project(&self, sides: &Sides, device: &Device, dtype: DType) -> Result<ScaledSides> {
        let mut held = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |made: &&ScaledSides| made.rows.device().same_device(device) && made.rows.dtype() == dtype;
        if let Some(made) = held.as_ref().filter(fits) {
            return Ok(made.clone());
        }
        let scaled = |matrix: &Tensor, scales: &Tensor| {
            let largest = scales.max_keepdim(0)?.maximum(f64::from(f32::MIN_POSITIVE))?;
            let scales = scales.broadcast_div(&largest)?.unsqueeze(1)?;
            Ok::<_, candle_core::Error>((
                matrix.to_dtype(DType::F32)?.broadcast_mul(&scales)?.to_dtype(dtype)?,
                largest,
            ))
        };
        let ((rows, columns), scales) = (sides.on_device(device, dtype)?, self.on(device)?);
        let ((rows, of_rows), (columns, of_columns)) = (scaled(&rows, &scales.0)?, scaled(&columns, &scales.1)?);
        let made = ScaledSides { rows, columns, factor: (of_rows * of_columns)? };
        *held = Some(made.clone());
        Ok(made)
    }
}
