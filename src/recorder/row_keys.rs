//! Which columns the rows of a pass have, and how their vectors are stored.

use super::message::{Batch, PassKind};
use super::rows::RowMaker;
use super::sketcher::LayerSketcher;
use super::vector_rows::VectorColumn;
use gradlog_format::log::{Cells, Column, ColumnKey, NO_LAYER};
use gradlog_format::sketch::Form;

type Keys = Vec<(ColumnKey, Cells, u32)>;

/// Whether the rows are probes. They are few, so they get a finer encoding. Sweeps are as many as visits.
fn is_probe(kind: PassKind) -> bool {
    matches!(kind, PassKind::Probe { .. })
}

impl RowMaker {
    /// The columns that the rows of `batch` will have.
    pub(super) fn keys(&self, batch: &Batch) -> Keys {
        let mut keys: Keys = Vec::new();
        let mut plain = |column: Column, cells: Cells| keys.push((column.into(), cells, 1));
        plain(Column::Example, Cells::U64);
        plain(Column::Step, Cells::U64);
        plain(Column::Epoch, Cells::U32);
        plain(Column::Coefficient, Cells::F32);
        plain(Column::Flags, Cells::U8);
        match batch.kind {
            PassKind::Training => {
                plain(Column::LearningRate, Cells::F32);
                plain(Column::Clip, Cells::F32);
            }
            PassKind::Probe { .. } => plain(Column::ProbeSet, Cells::U32),
            PassKind::Sweep => plain(Column::LearningRate, Cells::F32),
        }
        if batch.is_preconditioned() {
            plain(Column::Preconditioner, Cells::U8);
        }
        if batch.curvature.is_some() {
            plain(Column::CurvatureWeight, Cells::F32);
        }
        if batch.replayed.is_some() {
            plain(Column::Mode, Cells::U8);
        }
        if batch.outputs.scored.is_some() {
            plain(Column::PredictionScore, Cells::U8);
            plain(Column::ScoredClass, Cells::U32);
        }
        for (column, values) in batch.outputs.float_columns() {
            if values.is_some() {
                plain(column, Cells::F32);
            }
        }
        for (column, values) in batch.outputs.integer_columns() {
            if values.is_some() {
                plain(column, Cells::U32);
            }
        }
        if !batch.layers.is_empty() {
            plain(Column::SquaredNorm, Cells::F32);
        }
        if batch.has_norms_in_metric() {
            plain(Column::PreconditionedSquaredNorm, Cells::F32);
        }
        let mut folded = false;
        for gradients in &batch.layers {
            if gradients.form() == Form::Folded {
                folded = true;
                continue;
            }
            let own = &self.layers[gradients.layer];
            let layer = gradients.layer as u16;
            keys.extend(self.side_column(own, layer, Column::Input, batch.kind).keys());
            keys.extend(self.side_column(own, layer, Column::Delta, batch.kind).keys());
        }
        if folded {
            keys.extend(self.folded_column(batch.kind).keys());
        }
        keys
    }

    /// How one side of a factored layer is stored.
    pub(super) fn side_column(
        &self,
        layer: &LayerSketcher,
        number: u16,
        column: Column,
        kind: PassKind,
    ) -> VectorColumn {
        let (projection, width) = match column {
            Column::Input => (&layer.input, layer.record.inputs),
            _ => (&layer.delta, layer.record.outputs),
        };
        let stored = projection.as_ref().map_or(width, |projection| projection.kept() as u32);
        let encoding = self.sketch.encoding_of(stored, projection.is_some(), is_probe(kind));
        VectorColumn::new(column, number, (encoding, stored))
    }

    /// How the folded vector is stored.
    pub(super) fn folded_column(&self, kind: PassKind) -> VectorColumn {
        let width = self.shared_fold.width() as u32;
        VectorColumn::new(Column::Folded, NO_LAYER, (self.sketch.encoding_of(width, true, is_probe(kind)), width))
    }
}
