//! Encodes rows of vectors into a block.

use gradlog_format::log::{BlockBuilder, Cells, Column, ColumnKey};
use gradlog_format::sketch::{choose_apart, rotate, Apart, Encoding, Magnitudes, Projection, Rest, Rounding};
use gradlog_kernels::stage::{self, Stage};

/// How the vectors of one column are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VectorColumn {
    pub values: ColumnKey,
    pub scales: ColumnKey,
    pub encoding: Encoding,
    pub width: u32,
}

impl VectorColumn {
    /// Of a column of layer `layer`; [`gradlog_format::log::NO_LAYER`] for the folded one.
    pub(super) fn new(column: Column, layer: u16, (encoding, width): (Encoding, u32)) -> Self {
        let scale = match column {
            Column::Input => Column::InputScale,
            Column::Delta => Column::DeltaScale,
            _ => Column::FoldedScale,
        };
        let key = |column| ColumnKey { column, layer };
        Self { values: key(column), scales: key(scale), encoding, width }
    }

    /// The columns that it takes, without those of numbers kept apart.
    pub(super) fn keys(self) -> impl Iterator<Item = (ColumnKey, Cells, u32)> {
        let rounding = self.rounding().map(|key| (key, Cells::U8, 2));
        [(self.values, Cells::Vector(self.encoding), self.width), (self.scales, Cells::Bf16, 1)]
            .into_iter()
            .chain(rounding)
    }

    /// Where it is stored what rounding at random left open.
    fn rounding(self) -> Option<ColumnKey> {
        let rounds = matches!(self.encoding, Encoding::Q8 | Encoding::Q4);
        let column = self.values.column.rounding().filter(|_| rounds)?;
        Some(ColumnKey { column, ..self.values })
    }
}

/// Buffers that are used again from row to row.
#[derive(Debug, Default)]
pub(super) struct RowScratch {
    apart: Vec<Apart>,
    rest: Vec<f32>,
    folded: Vec<f32>,
    projected: Vec<f32>,
}

/// Encodes rows of vectors into columns of codes, of scales and of what rounding left open. They are taken out of the
/// block while they grow. Numbers to be kept apart go to the block at once.
pub(super) struct VectorRows {
    column: VectorColumn,
    row: u32,
    codes: Vec<u8>,
    scales: Vec<u8>,
    rounding: Vec<u8>,
}

impl VectorRows {
    pub(super) fn new(column: VectorColumn, builder: &mut BlockBuilder) -> Self {
        let codes = std::mem::take(builder.column(column.values, Cells::Vector(column.encoding), column.width));
        let scales = std::mem::take(builder.column(column.scales, Cells::Bf16, 1));
        let rounding = column.rounding().map(|key| std::mem::take(builder.column(key, Cells::U8, 2)));
        Self { column, row: 0, codes, scales, rounding: rounding.unwrap_or_default() }
    }

    /// Appends a vector, or its projection. `seed` decides the roundings.
    pub(super) fn push(
        &mut self,
        (row, magnitudes): (&[f32], &Magnitudes),
        projection: Option<&Projection>,
        seed: u64,
        scratch: &mut RowScratch,
        builder: &mut BlockBuilder,
    ) -> bool {
        let RowScratch { apart, rest, folded, projected } = scratch;
        let kind = if projection.is_some() { Rest::Rotated } else { Rest::Rounded };
        let left = self.take_apart((row, magnitudes), kind, (apart, rest), builder);
        match projection {
            None if apart.is_empty() => self.encode(left, magnitudes.largest(), seed),
            None => self.encode(left, self.largest(left), seed),
            Some(projection) => {
                stage::enter(Stage::Project);
                projected.clear();
                projection.apply(left, folded, projected);
                self.encode(projected, self.largest(projected), seed)
            }
        }
    }

    /// Rotates a folded vector and appends it. Its numbers may change.
    pub(super) fn push_folded(
        &mut self,
        row: &mut [f32],
        scratch: &mut RowScratch,
        builder: &mut BlockBuilder,
    ) -> bool {
        if self.keeps_apart() {
            stage::enter(Stage::Apart);
            choose_apart(row, &Magnitudes::of(row), Rest::Rotated, &mut scratch.apart);
            scratch.apart.iter().for_each(|apart| row[apart.place as usize] = 0.0);
            builder.keep_apart(self.column.values, self.row, &scratch.apart);
        }
        stage::enter(Stage::Project);
        let width = self.column.width as usize;
        rotate(row, width);
        let largest = self.largest(&row[..width]);
        self.encode(&row[..width], largest, 0)
    }

    /// Floats need no exact copies of large numbers: their rounding is relative.
    fn keeps_apart(&self) -> bool {
        !matches!(self.column.encoding, Encoding::F32 | Encoding::F16)
    }

    /// Keeps large numbers apart. Returns the rest.
    fn take_apart<'a>(
        &self,
        (row, magnitudes): (&'a [f32], &Magnitudes),
        kind: Rest,
        (apart, rest): (&mut Vec<Apart>, &'a mut Vec<f32>),
        builder: &mut BlockBuilder,
    ) -> &'a [f32] {
        stage::enter(Stage::Apart);
        apart.clear();
        if self.keeps_apart() {
            choose_apart(row, magnitudes, kind, apart);
        }
        if apart.is_empty() {
            return row;
        }
        rest.clear();
        rest.extend_from_slice(row);
        apart.iter().for_each(|apart| rest[apart.place as usize] = 0.0);
        builder.keep_apart(self.column.values, self.row, apart);
        rest
    }

    /// The largest magnitude of a vector, if its encoding asks for it.
    fn largest(&self, row: &[f32]) -> f32 {
        match self.column.encoding {
            Encoding::Q8 | Encoding::Q4 => Magnitudes::of(row).largest(),
            _ => 0.0,
        }
    }

    /// Appends a vector of the column's width with this largest magnitude. Returns whether it was finite.
    fn encode(&mut self, row: &[f32], largest: f32, seed: u64) -> bool {
        stage::enter(Stage::Round);
        let quantized = self.column.encoding.encode_stochastic_up_to(row, largest, seed, &mut self.codes);
        self.scales.extend(quantized.scale.to_le_bytes());
        if self.column.rounding().is_some() {
            let Rounding { spread, nonzero } = quantized.rounding;
            self.rounding.extend([spread, nonzero]);
        }
        self.row += 1;
        quantized.finite
    }

    pub(super) fn finish(self, builder: &mut BlockBuilder) {
        let column = self.column;
        *builder.column(column.values, Cells::Vector(column.encoding), column.width) = self.codes;
        *builder.column(column.scales, Cells::Bf16, 1) = self.scales;
        if let Some(key) = column.rounding() {
            *builder.column(key, Cells::U8, 2) = self.rounding;
        }
    }
}
