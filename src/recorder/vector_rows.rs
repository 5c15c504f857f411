//! Encodes rows of vectors into a block.

use gradlog_format::log::{BlockBuilder, Cells, Column, ColumnKey};
use gradlog_format::sketch::Encoding;

/// Encodes rows of vectors into a column of codes and a column of scales. Both are taken out of the block while they
/// grow.
pub(super) struct VectorRows {
    encoding: Encoding,
    width: u32,
    keys: (ColumnKey, ColumnKey),
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl VectorRows {
    pub(super) fn new(
        encoding: Encoding,
        width: u32,
        keys: (ColumnKey, ColumnKey),
        builder: &mut BlockBuilder,
    ) -> Self {
        let codes = std::mem::take(builder.column(keys.0, Cells::Vector(encoding), width));
        let scales = std::mem::take(builder.column(keys.1, Cells::Bf16, 1));
        Self { encoding, width, keys, codes, scales }
    }

    pub(super) fn push(&mut self, row: &[f32], flag: &mut u8) {
        let quantized = self.encoding.encode(row, &mut self.codes);
        self.scales.extend(quantized.scale.to_le_bytes());
        if !quantized.finite {
            *flag |= Column::FLAG_NOT_FINITE;
        }
    }

    pub(super) fn finish(self, builder: &mut BlockBuilder) {
        *builder.column(self.keys.0, Cells::Vector(self.encoding), self.width) = self.codes;
        *builder.column(self.keys.1, Cells::Bf16, 1) = self.scales;
    }
}
