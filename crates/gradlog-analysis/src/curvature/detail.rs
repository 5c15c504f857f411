//! What the methods need to know of a visit beside its gradient.

use crate::rows::column;
use crate::vectors::walk::VisitDetail;
use gradlog_format::log::Column;
use gradlog_format::run::{Block, ReadError};

/// What the model made of a visit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outputs {
    pub loss: f32,
    /// The probability of the label, if that was recorded.
    pub confidence: Option<f32>,
    pub prediction: Option<u32>,
}

/// The columns of a block that these are in.
pub(super) struct OutputColumns {
    losses: Vec<f32>,
    confidences: Option<Vec<f32>>,
    predictions: Option<Vec<Option<u32>>>,
}

impl VisitDetail for Outputs {
    type Columns = OutputColumns;

    fn read(block: &Block) -> Result<OutputColumns, ReadError> {
        Ok(OutputColumns {
            losses: column::f32s(block, Column::Loss)?,
            confidences: column::optional(block, Column::Confidence, column::f32s)?,
            predictions: column::classes(block, Column::Prediction)?,
        })
    }

    fn new(columns: &OutputColumns, row: usize) -> Self {
        Self {
            loss: columns.losses[row],
            confidence: columns.confidences.as_ref().map(|confidences| confidences[row]),
            prediction: columns.predictions.as_ref().and_then(|predictions| predictions[row]),
        }
    }
}
