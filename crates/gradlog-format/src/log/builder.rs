//! Builds the bytes of a block from its rows, column by column.

use super::block::{
    BlockHeader, BlockKind, ColumnEntry, BLOCK_MAGIC, BLOCK_RAW_BYTES_MAX, COLUMN_BYTES_MAX, ENTRY_BYTES, HEADER_BYTES,
    ROWS_MAX, WIDTH_MAX,
};
use super::codec::{self, DecodeError};
use super::column::{Cells, Column, ColumnKey};
use super::compress::{Codec, Compressor};
use crate::sketch::{Apart, APART_MAX};
use gradlog_kernels::stage::{self, Stage};

#[derive(Debug)]
struct Buffer {
    key: ColumnKey,
    cells: Cells,
    width: u32,
    bytes: Vec<u8>,
}

/// A number of one row of a column of vectors that is kept apart.
#[derive(Debug, Clone, Copy)]
struct ApartRow {
    /// The column of vectors.
    key: ColumnKey,
    row: u32,
    apart: Apart,
}

/// Collects rows column by column. [`LogWriter::append`](super::LogWriter::append) writes them as a block.
///
/// Append one value of each row to every column, then call [`BlockBuilder::advance`] for these rows.
#[derive(Debug)]
pub struct BlockBuilder {
    kind: BlockKind,
    columns: Vec<Buffer>,
    /// In the order of rows within each column.
    apart: Vec<ApartRow>,
    rows: u32,
    steps: Option<(u64, u64)>,
    epochs: Option<(u32, u32)>,
}

impl BlockBuilder {
    /// A block without rows.
    pub fn new(kind: BlockKind) -> Self {
        Self { kind, columns: Vec::new(), apart: Vec::new(), rows: 0, steps: None, epochs: None }
    }

    /// What the rows are.
    pub fn kind(&self) -> BlockKind {
        self.kind
    }

    /// How many rows were declared by [`BlockBuilder::advance`].
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The least and the greatest step of the rows, or `None` if there are no rows.
    pub fn steps(&self) -> Option<(u64, u64)> {
        self.steps
    }

    /// Bytes held, before compression.
    pub fn raw_bytes(&self) -> usize {
        let apart = self.apart.len() * std::mem::size_of::<ApartRow>();
        self.columns.iter().map(|column| column.bytes.len()).sum::<usize>() + apart
    }

    /// Prepares for rows with exactly these columns.
    ///
    /// Returns `false` if the block holds rows with other columns. Write them first.
    pub fn prepare(&mut self, keys: &[(ColumnKey, Cells, u32)]) -> bool {
        let same = keys.len() == self.columns.len()
            && keys.iter().all(|&(key, cells, width)| {
                self.columns.iter().any(|c| c.key == key && c.cells == cells && c.width == width)
            });
        if !same && self.rows == 0 {
            let empty =
                |&(key, cells, width): &(ColumnKey, Cells, u32)| Buffer { key, cells, width, bytes: Vec::new() };
            self.columns = keys.iter().map(empty).collect();
            return true;
        }
        same
    }

    /// Moves the rows of `other` to the end of this block.
    ///
    /// Returns `false`, and changes nothing, if the block holds rows with other columns.
    pub fn absorb(&mut self, other: &mut BlockBuilder) -> bool {
        let keys: Vec<(ColumnKey, Cells, u32)> = other.columns.iter().map(|c| (c.key, c.cells, c.width)).collect();
        if !self.prepare(&keys) {
            return false;
        }
        for column in &mut other.columns {
            self.column(column.key, column.cells, column.width).append(&mut column.bytes);
        }
        let rows = self.rows;
        self.apart.extend(other.apart.drain(..).map(|kept| ApartRow { row: kept.row + rows, ..kept }));
        self.rows += std::mem::take(&mut other.rows);
        self.steps = hull(self.steps, other.steps.take());
        self.epochs = hull(self.epochs, other.epochs.take());
        true
    }

    /// The buffer of a column, made on first use. Append the bytes of `width` numbers of type `cells` for each row.
    pub fn column(&mut self, key: impl Into<ColumnKey>, cells: Cells, width: u32) -> &mut Vec<u8> {
        let key = key.into();
        let found = self.columns.iter().position(|c| c.key == key);
        let index = found.unwrap_or_else(|| {
            self.columns.push(Buffer { key, cells, width, bytes: Vec::new() });
            self.columns.len() - 1
        });
        &mut self.columns[index].bytes
    }

    /// Keeps numbers of a row apart, for the column `key` of vectors. `row` counts from the first row that
    /// [`BlockBuilder::advance`] has not declared yet. Of more than [`APART_MAX`] numbers the rest is left out.
    pub fn keep_apart(&mut self, key: impl Into<ColumnKey>, row: u32, numbers: &[Apart]) {
        let (key, row) = (key.into(), self.rows + row);
        self.apart.extend(numbers.iter().take(APART_MAX).map(|&apart| ApartRow { key, row, apart }));
    }

    /// Makes columns of the numbers kept apart: as many to a row as the row with most of them has.
    fn fill_apart_columns(&mut self) -> Vec<Buffer> {
        let kept = std::mem::take(&mut self.apart);
        let mut keys: Vec<ColumnKey> = Vec::new();
        for one in &kept {
            if !keys.contains(&one.key) {
                keys.push(one.key);
            }
        }
        let rows = self.rows as usize;
        let mut columns = Vec::with_capacity(2 * keys.len());
        for key in keys {
            let Some((places, values)) = key.column.apart() else { continue };
            let own = || kept.iter().filter(|one| one.key == key && (one.row as usize) < rows);
            let mut counts = vec![0usize; rows];
            own().for_each(|one| counts[one.row as usize] += 1);
            let width = counts.iter().copied().max().unwrap_or(0);
            let empty = vec![0u8; 4 * width * rows];
            let (mut places_bytes, mut values_bytes) = (empty.clone(), empty);
            counts.fill(0);
            for one in own() {
                let slot = &mut counts[one.row as usize];
                let at = 4 * (one.row as usize * width + *slot);
                places_bytes[at..at + 4].copy_from_slice(&one.apart.place.to_le_bytes());
                values_bytes[at..at + 4].copy_from_slice(&one.apart.value.to_le_bytes());
                *slot += 1;
            }
            let made =
                |column, cells, bytes| Buffer { key: ColumnKey { column, ..key }, cells, width: width as u32, bytes };
            columns.push(made(places, Cells::U32, places_bytes));
            columns.push(made(values, Cells::F32, values_bytes));
        }
        columns
    }

    /// Appends one number to a column for each row.
    pub fn u32s(&mut self, column: Column, values: impl IntoIterator<Item = u32>) {
        let buffer = self.column(column, Cells::U32, 1);
        buffer.extend(values.into_iter().flat_map(u32::to_le_bytes));
    }

    /// Appends one number to a column for each row.
    pub fn u64s(&mut self, column: Column, values: impl IntoIterator<Item = u64>) {
        let buffer = self.column(column, Cells::U64, 1);
        buffer.extend(values.into_iter().flat_map(u64::to_le_bytes));
    }

    /// Appends one number to a column for each row.
    pub fn f32s(&mut self, column: Column, values: impl IntoIterator<Item = f32>) {
        let buffer = self.column(column, Cells::F32, 1);
        buffer.extend(values.into_iter().flat_map(f32::to_le_bytes));
    }

    /// Appends a number that not every row has, for the row that is being made. A row without one holds NaN. A block in
    /// which no row has one lacks the column.
    pub fn optional_f32(&mut self, column: Column, value: Option<f32>) {
        if let Some(missing) = self.missing(column, Cells::F32, value.is_none()) {
            self.f32s(column, std::iter::repeat_n(f32::NAN, missing).chain([value.unwrap_or(f32::NAN)]));
        }
    }

    /// Appends a number to a column whose rows may lack it: `None` is 0, and a column of nothing else is left out.
    pub fn told_u8(&mut self, column: Column, value: Option<u8>) {
        if let Some(missing) = self.missing(column, Cells::U8, value.is_none()) {
            let numbers = std::iter::repeat_n(0, missing).chain([value.unwrap_or(0)]);
            self.column(column, Cells::U8, 1).extend(numbers);
        }
    }

    /// As [`BlockBuilder::told_u8`].
    pub fn told_u64(&mut self, column: Column, value: Option<u64>) {
        if let Some(missing) = self.missing(column, Cells::U64, value.is_none()) {
            self.u64s(column, std::iter::repeat_n(0, missing).chain([value.unwrap_or(0)]));
        }
    }

    /// How many rows of an optional column are missing before the next one. `None` if the column is not needed yet.
    fn missing(&mut self, column: Column, cells: Cells, is_none: bool) -> Option<usize> {
        let key = ColumnKey::from(column);
        if is_none && self.rows == 0 {
            // The buffer of the block before.
            self.columns.retain(|held| held.key != key);
        }
        if is_none && self.columns.iter().all(|held| held.key != key) {
            return None;
        }
        let held = self.column(key, cells, 1).len() / cells.row_bytes(1).max(1) as usize;
        Some((self.rows as usize).saturating_sub(held))
    }

    /// Declares that `rows` rows of this step and epoch were appended to every column.
    pub fn advance(&mut self, rows: u32, step: u64, epoch: u32) {
        self.rows += rows;
        let (first, last) = self.steps.unwrap_or((step, step));
        self.steps = Some((first.min(step), last.max(step)));
        let (first, last) = self.epochs.unwrap_or((epoch, epoch));
        self.epochs = Some((first.min(epoch), last.max(epoch)));
    }

    /// Refuses a block that a reader would refuse, before anything is changed.
    fn check_limits(&self) -> Result<(), DecodeError> {
        if self.rows > ROWS_MAX {
            return Err(DecodeError(format!("{} rows in one block", self.rows)));
        }
        let bytes: u64 = self.columns.iter().map(|column| column.bytes.len() as u64).sum();
        if bytes > BLOCK_RAW_BYTES_MAX {
            return Err(DecodeError(format!(
                "{bytes} bytes in one block: one pass records too much, make it of fewer examples"
            )));
        }
        for column in &self.columns {
            if column.bytes.len() as u64 > COLUMN_BYTES_MAX || column.width > WIDTH_MAX {
                return Err(DecodeError(format!(
                    "{:?} with {} numbers a row and {} bytes in one block",
                    column.key,
                    column.width,
                    column.bytes.len()
                )));
            }
        }
        Ok(())
    }

    /// Returns the block's header. Replaces the contents of `body` by its body: directory, frames, padding. Removes the
    /// rows from the builder.
    ///
    /// A column is stored compressed only if that is shorter.
    #[doc(hidden)]
    pub fn seal(
        &mut self,
        sequence: u64,
        compressor: &mut Compressor,
        body: &mut Vec<u8>,
    ) -> Result<[u8; HEADER_BYTES], DecodeError> {
        self.check_limits()?;
        let mut apart = self.fill_apart_columns();
        let columns = self.columns.len() + apart.len();
        let directory_bytes = columns * ENTRY_BYTES;
        let mut directory = Vec::with_capacity(directory_bytes);
        body.clear();
        body.resize(directory_bytes, 0);
        for column in self.columns.iter_mut().chain(&mut apart) {
            debug_assert_eq!(
                column.bytes.len() as u64,
                column.cells.row_bytes(column.width) * u64::from(self.rows),
                "{:?}",
                column.key
            );
            stage::enter(Stage::Code);
            let start = body.len();
            let codec = (compressor.compress(column.cells, &column.bytes, body))
                .map_err(|e| DecodeError(format!("a column does not compress: {e}")))?;
            if codec == Codec::None {
                body.extend_from_slice(&column.bytes);
            }
            stage::enter(Stage::Write);
            let stored = &body[start..];
            let too_long = |_| DecodeError("a column of 4 GiB or more".into());
            let entry = ColumnEntry {
                column: column.key.column as u16,
                layer: column.key.layer,
                cells: column.cells.code(),
                codec: codec.code(),
                amends: column.key.column.amends(),
                width: column.width,
                stored_bytes: u32::try_from(stored.len()).map_err(too_long)?,
                raw_bytes: u32::try_from(column.bytes.len()).map_err(too_long)?,
                crc: crc32fast::hash(stored),
            };
            directory.extend(codec::encode(&entry)?);
            column.bytes.clear();
        }
        body[..directory_bytes].copy_from_slice(&directory);
        let directory_crc = crc32fast::hash(&directory);
        body.resize((HEADER_BYTES + body.len()).next_multiple_of(8) - HEADER_BYTES, 0);
        let (first_step, last_step) = self.steps.take().unwrap_or_default();
        let (first_epoch, last_epoch) = self.epochs.take().unwrap_or_default();
        let header = BlockHeader {
            magic: BLOCK_MAGIC,
            kind: self.kind as u16,
            columns: u16::try_from(columns).map_err(|_| DecodeError("65,536 columns or more".into()))?,
            rows: std::mem::take(&mut self.rows),
            reserved: 0,
            bytes: (HEADER_BYTES + body.len()) as u64,
            sequence,
            first_step,
            last_step,
            first_epoch,
            last_epoch,
            directory_crc,
            header_crc: 0,
        };
        stage::enter(Stage::Other);
        // A column that the next rows have too keeps its memory.
        header.to_bytes()
    }
}

/// The range that spans both.
fn hull<T: Ord>(a: Option<(T, T)>, b: Option<(T, T)>) -> Option<(T, T)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}
