//! The rows of a block, column by column, as bytes that can be taken apart and put together again.

use crate::log::{BlockBuilder, BlockKind, Cells, Column, ColumnKey};
use crate::run::{Block, ReadError};
use crate::sketch::{Apart, APART_MAX};
use std::ops::Range;

/// A column of bytes.
pub(super) struct RawColumn {
    pub key: ColumnKey,
    pub cells: Cells,
    pub width: u32,
    pub bytes: Vec<u8>,
}

impl RawColumn {
    fn row_bytes(&self) -> usize {
        self.cells.row_bytes(self.width) as usize
    }

    /// The bytes of a row.
    pub fn row(&self, row: usize) -> &[u8] {
        let bytes = self.row_bytes();
        &self.bytes[row * bytes..(row + 1) * bytes]
    }
}

/// Numbers of a column of vectors that are kept apart.
pub(super) struct ApartColumn {
    /// The column of vectors.
    pub key: ColumnKey,
    slots: usize,
    numbers: Vec<Apart>,
}

impl ApartColumn {
    /// The numbers of a row. Empty slots are passed over.
    pub fn row(&self, row: usize) -> Vec<Apart> {
        let slots = self.numbers[row * self.slots..(row + 1) * self.slots].iter();
        slots.copied().filter(|apart| apart.value.to_bits() != 0).collect()
    }
}

/// The rows of a block.
pub(super) struct Rows {
    pub kind: BlockKind,
    pub count: usize,
    pub columns: Vec<RawColumn>,
    pub apart: Vec<ApartColumn>,
    pub worker: Option<u32>,
    /// First and last step of the header.
    pub first_step: u64,
    pub steps: Option<Vec<u64>>,
    pub epochs: Option<Vec<u32>>,
    pub examples: Option<Vec<u64>>,
}

impl Rows {
    /// Reads the rows that count.
    ///
    /// # Errors
    /// As [`Block::u8s`], and [`ReadError::Newer`] for a column that this version does not know.
    pub fn read(block: &Block) -> Result<Self, ReadError> {
        let kind = block.kind().ok_or_else(|| block.damaged("a block of no kind".into()))?;
        let mut rows = Self {
            kind,
            count: block.rows(),
            columns: Vec::new(),
            apart: Vec::new(),
            worker: block.worker(),
            first_step: block.steps().0,
            steps: block.has(Column::Step).then(|| block.u64s(Column::Step)).transpose()?,
            epochs: block.has(Column::Epoch).then(|| block.u32s(Column::Epoch)).transpose()?,
            examples: block.has(Column::Example).then(|| block.u64s(Column::Example)).transpose()?,
        };
        for (key, cells, width) in block.layout()? {
            let holds_apart = [Column::Input, Column::Delta, Column::Folded].into_iter().find_map(|vectors| {
                let (places, numbers) = vectors.apart()?;
                (key.column == places || key.column == numbers).then_some((vectors, key.column == places, numbers))
            });
            match holds_apart {
                // More than the builder takes are copied as they are.
                Some((vectors, is_places, numbers)) if width as usize <= APART_MAX => {
                    if is_places {
                        let places = block.u32s(key)?;
                        let values = block.f32s(ColumnKey { column: numbers, layer: key.layer })?;
                        let numbers = places.into_iter().zip(values).map(|(place, value)| Apart { place, value });
                        let numbers: Vec<Apart> = numbers.collect();
                        let slots = width as usize;
                        if numbers.len() != slots * rows.count {
                            return Err(block.damaged("numbers kept apart without their places".into()));
                        }
                        let key = ColumnKey { column: vectors, layer: key.layer };
                        rows.apart.push(ApartColumn { key, slots, numbers });
                    }
                }
                _ => {
                    let bytes = match key.column {
                        // Each worker numbers its probe sets itself.
                        Column::ProbeSet => {
                            let numbers = match kind {
                                BlockKind::ProbeSet => vec![block.united_set()?],
                                _ => block.u32s(key)?,
                            };
                            numbers.into_iter().flat_map(u32::to_le_bytes).collect()
                        }
                        _ => block.raw_bytes(key)?,
                    };
                    let column = RawColumn { key, cells, width, bytes };
                    if column.bytes.len() != column.row_bytes() * rows.count {
                        return Err(block.damaged(format!("column {:?} has another length", key.column)));
                    }
                    rows.columns.push(column);
                }
            }
        }
        Ok(rows)
    }

    /// Gives the probe sets other numbers.
    pub fn number_sets(&mut self, number: impl Fn(u32) -> u32) {
        let sets = self.columns.iter_mut().filter(|column| column.key.column == Column::ProbeSet);
        for bytes in sets.flat_map(|column| column.bytes.as_chunks_mut::<4>().0) {
            *bytes = number(u32::from_le_bytes(*bytes)).to_le_bytes();
        }
    }

    /// The rows without the column that says their bucket.
    pub fn without_bucket(mut self) -> Self {
        self.columns.retain(|column| column.key.column != Column::Bucket);
        self
    }

    /// Appends rows to a block, each with its bucket if they are in one. Returns `false`, and changes nothing, if the
    /// block holds rows with other columns.
    pub fn append(&self, builder: &mut BlockBuilder, rows: &[usize], bucket: Option<u32>) -> bool {
        let mut layout: Vec<(ColumnKey, Cells, u32)> =
            self.columns.iter().map(|column| (column.key, column.cells, column.width)).collect();
        layout.extend(bucket.map(|_| (Column::Bucket.into(), Cells::U32, 1)));
        if !builder.prepare(&layout) {
            return false;
        }
        for column in &self.columns {
            let to = builder.column(column.key, column.cells, column.width);
            rows.iter().for_each(|row| to.extend_from_slice(column.row(*row)));
        }
        if let Some(bucket) = bucket {
            builder.u32s(Column::Bucket, rows.iter().map(|_| bucket));
        }
        for (at, row) in rows.iter().enumerate() {
            for apart in &self.apart {
                let numbers = apart.row(*row);
                if !numbers.is_empty() {
                    builder.keep_apart(apart.key, at as u32, &numbers);
                }
            }
        }
        for row in rows {
            let step = self.steps.as_ref().map_or(0, |steps| steps[*row]);
            builder.advance(1, step, self.epochs.as_ref().map_or(0, |epochs| epochs[*row]));
        }
        true
    }

    /// All rows, by position.
    pub fn all(&self) -> Range<usize> {
        0..self.count
    }
}
