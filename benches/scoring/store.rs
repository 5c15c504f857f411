//! Rows into blocks and blocks into a run, as the recorder does it.

use anyhow::Result;
use gradlog_format::log::{BlockBuilder, Cells, Column, ColumnKey, LayerRecord, LogWriter, Manifest, WriterOptions};
use gradlog_format::sketch::{Encoding, SketchConfig};
use std::path::Path;

/// The recorder's defaults: when a block is sealed.
const BLOCK_ROWS: u32 = 4096;
const BLOCK_BYTES: usize = 4 << 20;

pub struct Store(LogWriter);

impl Store {
    pub fn create(dir: &Path, layers: Vec<LayerRecord>) -> Result<Self> {
        let manifest = Manifest {
            run_id: [5; 16],
            created_ms: 0,
            version: env!("CARGO_PKG_VERSION").into(),
            seed: 0,
            sketch: SketchConfig::default(),
            layers,
            untapped: Vec::new(),
            model_parameters: None,
            notes: Vec::new(),
            worker: None,
            extensions: Vec::new(),
        };
        let options = WriterOptions { segment_bytes: 64 << 20, zstd_level: 1 };
        Ok(Self(LogWriter::create(dir, &manifest, options)?))
    }

    /// Writes the block if it is full, or `now`.
    pub fn seal(&mut self, block: &mut BlockBuilder, now: bool) -> Result<()> {
        if now || block.rows() >= BLOCK_ROWS || block.raw_bytes() >= BLOCK_BYTES {
            self.0.append(block)?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<()> {
        Ok(self.0.finish()?)
    }
}

pub fn vector(block: &mut BlockBuilder, column: Column, layer: u16, encoding: Encoding, values: &[f32]) {
    let scales = if column == Column::Input { Column::InputScale } else { Column::DeltaScale };
    let codes = block.column(ColumnKey { column, layer }, Cells::Vector(encoding), values.len() as u32);
    let scale = encoding.encode(values, codes).scale;
    block.column(ColumnKey { column: scales, layer }, Cells::Bf16, 1).extend(scale.to_le_bytes());
}
