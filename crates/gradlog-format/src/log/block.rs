//! Blocks: some rows, column by column, each column a frame of its own (FORMAT.md, "Block").

use super::codec::{self, DecodeError};
use super::column::{Cells, Column, ColumnKey};
use super::compress::{Codec, Compressor};
use super::planes;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io;

/// Bytes of a block's header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of one entry of a block's column directory.
pub const ENTRY_BYTES: usize = 24;
/// "GBLK", read as a little-endian u32. A block whose first word is 0 was never committed.
pub const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"GBLK");

/// The most bytes that a column may have once inflated: a reader refuses to allocate more.
pub const COLUMN_BYTES_MAX: u64 = 1 << 28;

/// The most bytes that all columns of a block may have once inflated.
pub const BLOCK_RAW_BYTES_MAX: u64 = 1 << 30;

/// The most rows that a block may have: as many as eight-byte numbers fit a column.
pub const ROWS_MAX: u32 = 1 << 25;
/// The most numbers that one row of a column may have.
pub const WIDTH_MAX: u32 = 1 << 24;
/// No zstd frame inflates to more than this many times its length: the shortest block that makes anything has 4 bytes
/// and makes at most 2^17 (RFC 8878, 3.1.1.2).
const ZSTD_RATIO_MAX: u64 = 1 << 15;

/// What the rows of a block are. Other kinds up to 0x7FFF are reserved for this format, kinds from 0x8000 are anyone's own
/// (FORMAT.md, "Kinds of block").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum BlockKind {
    /// One row for each example that a training pass visited.
    Visits = 1,
    /// One row for each optimizer step.
    Steps = 2,
    /// One row for each example that a probe pass visited.
    Probes = 3,
    /// One row for each stretch of passes that was dropped.
    Gaps = 4,
    /// The name of one probe set.
    ProbeSet = 5,
    /// One row with the totals of a run that was finished.
    End = 6,
    /// One row for each checkpoint: weights that were saved beside the log.
    Checkpoints = 8,
    /// One row for each example that was replayed at a checkpoint, after the training.
    Sweeps = 9,
}

impl BlockKind {
    pub fn from_code(code: u16) -> Option<Self> {
        const ALL: [BlockKind; 8] = [
            BlockKind::Visits,
            BlockKind::Steps,
            BlockKind::Probes,
            BlockKind::Gaps,
            BlockKind::ProbeSet,
            BlockKind::End,
            BlockKind::Checkpoints,
            BlockKind::Sweeps,
        ];
        ALL.into_iter().find(|kind| *kind as u16 == code)
    }
}

/// The fixed head of a block; the fields are in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHeader {
    pub magic: u32,
    pub kind: u16,
    pub columns: u16,
    pub rows: u32,
    pub reserved: u32,
    /// Whole length with header, directory, frames and padding; a multiple of 8.
    pub bytes: u64,
    /// Counts the blocks from 0, across segments.
    pub sequence: u64,
    pub first_step: u64,
    pub last_step: u64,
    pub first_epoch: u32,
    pub last_epoch: u32,
    pub directory_crc: u32,
    pub header_crc: u32,
}

impl BlockHeader {
    /// The bytes in the file, with a checksum that is right, whatever `header_crc` is.
    pub fn to_bytes(&self) -> Result<[u8; HEADER_BYTES], DecodeError> {
        let encoded = codec::encode(self)?;
        let mut bytes = [0u8; HEADER_BYTES];
        bytes.copy_from_slice(&encoded);
        let crc = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a header and checks its CRC; whether the block fits its segment is for the caller to check.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        let header: BlockHeader = codec::decode(bytes)?;
        if header.magic != BLOCK_MAGIC {
            return Err(DecodeError("no block begins here".into()));
        }
        if header.header_crc != crc32fast::hash(&bytes[..HEADER_BYTES - 4]) {
            return Err(DecodeError("the block header's checksum does not match".into()));
        }
        if header.kind == 0 || header.rows == 0 || header.rows > ROWS_MAX {
            return Err(DecodeError(format!("no block is of kind {} with {} rows", header.kind, header.rows)));
        }
        if header.first_step > header.last_step || header.first_epoch > header.last_epoch {
            return Err(DecodeError(format!(
                "a block from step {} to {} and epoch {} to {}, which end before they begin",
                header.first_step, header.last_step, header.first_epoch, header.last_epoch
            )));
        }
        Ok(header)
    }

    pub fn directory_bytes(&self) -> usize {
        usize::from(self.columns) * ENTRY_BYTES
    }
}

/// One entry of a block's column directory; the fields are in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnEntry {
    pub column: u16,
    pub layer: u16,
    pub cells: u8,
    pub codec: u8,
    pub reserved: u16,
    /// Numbers in one row.
    pub width: u32,
    pub stored_bytes: u32,
    pub raw_bytes: u32,
    /// CRC-32 of the stored bytes.
    pub crc: u32,
}

impl ColumnEntry {
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let entry: ColumnEntry = codec::decode(bytes)?;
        if entry.column == 0 || entry.width > WIDTH_MAX {
            return Err(DecodeError(format!(
                "no column is number {} with {} numbers a row",
                entry.column, entry.width
            )));
        }
        // No column is stored longer than it is, so this bounds what is asked for before a checksum can be looked at.
        if u64::from(entry.stored_bytes) > COLUMN_BYTES_MAX {
            return Err(DecodeError(format!(
                "a column of {} stored bytes, more than the format allows",
                entry.stored_bytes
            )));
        }
        Ok(entry)
    }

    pub fn cells(&self) -> Option<Cells> {
        Cells::from_code(self.cells)
    }

    /// The column's bytes, row after row: checks the CRC, inflates, and checks the length against `rows`.
    ///
    /// Never allocates more than the rows of a known type need, whatever the entry claims.
    pub fn inflate(&self, stored: Vec<u8>, rows: u32) -> Result<Vec<u8>, DecodeError> {
        let cells = self.cells().ok_or_else(|| DecodeError(format!("numbers of unknown type {}", self.cells)))?;
        let expected = cells.row_bytes(self.width).saturating_mul(u64::from(rows));
        if u64::from(self.raw_bytes) != expected {
            return Err(DecodeError(format!(
                "{} bytes for {rows} rows of {} numbers, which take {expected}",
                self.raw_bytes, self.width
            )));
        }
        if expected > COLUMN_BYTES_MAX {
            return Err(DecodeError(format!("a column of {expected} bytes, more than the format allows")));
        }
        if crc32fast::hash(&stored) != self.crc {
            return Err(DecodeError("the column's checksum does not match".into()));
        }
        let raw_bytes = self.raw_bytes as usize;
        let codec = Codec::from_code(self.codec);
        match codec.ok_or_else(|| DecodeError(format!("unknown compression {}", self.codec)))? {
            Codec::None if stored.len() == raw_bytes => Ok(stored),
            Codec::None => Err(DecodeError(format!("{} bytes where {raw_bytes} belong", stored.len()))),
            Codec::Zstd | Codec::Planes if expected > ZSTD_RATIO_MAX.saturating_mul(stored.len() as u64) => {
                Err(DecodeError(format!("{expected} bytes cannot come out of {}", stored.len())))
            }
            Codec::Zstd => unpack(&stored, raw_bytes),
            Codec::Planes if cells.number_bytes() == 1 => {
                Err(DecodeError(format!("planes of numbers of type {}, which have none", self.cells)))
            }
            Codec::Planes => {
                let planes = unpack(&stored, raw_bytes)?;
                let mut raw = vec![0; raw_bytes];
                planes::join(cells.number_bytes(), &planes, &mut raw);
                Ok(raw)
            }
        }
    }
}

/// What a zstd frame holds, if that is `raw_bytes` bytes.
///
/// The frame's own size field is not believed: the buffer is as long as the rows say and no longer.
fn unpack(stored: &[u8], raw_bytes: usize) -> Result<Vec<u8>, DecodeError> {
    let mut raw = Vec::with_capacity(raw_bytes);
    let written =
        inflate_into(stored, &mut raw).map_err(|e| DecodeError(format!("the column does not inflate: {e}")))?;
    if written != raw_bytes {
        return Err(DecodeError(format!("{written} bytes where {raw_bytes} belong")));
    }
    Ok(raw)
}

thread_local! {
    /// Making one takes longer than inflating a short column.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn inflate_into(stored: &[u8], raw: &mut Vec<u8>) -> io::Result<usize> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(stored, raw)
    })
}

struct Buffer {
    key: ColumnKey,
    cells: Cells,
    width: u32,
    bytes: Vec<u8>,
}

/// Collects rows, column by column, and turns them into the bytes of a block.
pub struct BlockBuilder {
    kind: BlockKind,
    columns: Vec<Buffer>,
    rows: u32,
    steps: Option<(u64, u64)>,
    epochs: Option<(u32, u32)>,
}

impl BlockBuilder {
    pub fn new(kind: BlockKind) -> Self {
        Self { kind, columns: Vec::new(), rows: 0, steps: None, epochs: None }
    }

    pub fn kind(&self) -> BlockKind {
        self.kind
    }

    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// First and last step of the rows, if there are any.
    pub fn steps(&self) -> Option<(u64, u64)> {
        self.steps
    }

    /// Bytes held, before compression.
    pub fn raw_bytes(&self) -> usize {
        self.columns.iter().map(|column| column.bytes.len()).sum()
    }

    /// Makes ready for rows with just these columns; `false` if those that are here have others and must be sealed first.
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

    /// Takes over the rows of `other`; `false`, and nothing is changed, if they have other columns than the rows that are here.
    pub fn absorb(&mut self, other: &mut BlockBuilder) -> bool {
        let keys: Vec<(ColumnKey, Cells, u32)> = other.columns.iter().map(|c| (c.key, c.cells, c.width)).collect();
        if !self.prepare(&keys) {
            return false;
        }
        for column in &mut other.columns {
            self.column(column.key, column.cells, column.width).append(&mut column.bytes);
        }
        self.rows += std::mem::take(&mut other.rows);
        self.steps = hull(self.steps, other.steps.take());
        self.epochs = hull(self.epochs, other.epochs.take());
        true
    }

    /// The buffer to append a column's numbers to, made on first use.
    pub fn column(&mut self, key: impl Into<ColumnKey>, cells: Cells, width: u32) -> &mut Vec<u8> {
        let key = key.into();
        let found = self.columns.iter().position(|c| c.key == key);
        let index = found.unwrap_or_else(|| {
            self.columns.push(Buffer { key, cells, width, bytes: Vec::new() });
            self.columns.len() - 1
        });
        &mut self.columns[index].bytes
    }

    pub fn u32s(&mut self, column: Column, values: impl IntoIterator<Item = u32>) {
        let buffer = self.column(column, Cells::U32, 1);
        buffer.extend(values.into_iter().flat_map(u32::to_le_bytes));
    }

    pub fn u64s(&mut self, column: Column, values: impl IntoIterator<Item = u64>) {
        let buffer = self.column(column, Cells::U64, 1);
        buffer.extend(values.into_iter().flat_map(u64::to_le_bytes));
    }

    pub fn f32s(&mut self, column: Column, values: impl IntoIterator<Item = f32>) {
        let buffer = self.column(column, Cells::F32, 1);
        buffer.extend(values.into_iter().flat_map(f32::to_le_bytes));
    }

    /// Appends a number that not every row has, for the row that is being made. A row without one holds NaN; a block of which no row
    /// has one lacks the column.
    pub fn optional_f32(&mut self, column: Column, value: Option<f32>) {
        let key = ColumnKey::from(column);
        if value.is_none() && self.rows == 0 {
            // The buffer of the block before.
            self.columns.retain(|held| held.key != key);
        }
        if value.is_none() && self.columns.iter().all(|held| held.key != key) {
            return;
        }
        let held = self.column(key, Cells::F32, 1).len() / 4;
        let missing = (self.rows as usize).saturating_sub(held);
        self.f32s(column, std::iter::repeat_n(f32::NAN, missing).chain([value.unwrap_or(f32::NAN)]));
    }

    /// Declares that `rows` rows were appended to every column, all of this step and epoch.
    pub fn advance(&mut self, rows: u32, step: u64, epoch: u32) {
        self.rows += rows;
        let (first, last) = self.steps.unwrap_or((step, step));
        self.steps = Some((first.min(step), last.max(step)));
        let (first, last) = self.epochs.unwrap_or((epoch, epoch));
        self.epochs = Some((first.min(epoch), last.max(epoch)));
    }

    /// Refuses what a reader would, before a row is touched.
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

    /// Returns the block's header, puts its body (directory, frames, padding) into `body` in place of what is there, and empties
    /// the builder.
    ///
    /// A column is stored compressed only where that is shorter.
    pub fn seal(
        &mut self,
        sequence: u64,
        compressor: &mut Compressor,
        body: &mut Vec<u8>,
    ) -> Result<[u8; HEADER_BYTES], DecodeError> {
        self.check_limits()?;
        let directory_bytes = self.columns.len() * ENTRY_BYTES;
        let mut directory = Vec::with_capacity(directory_bytes);
        body.clear();
        body.resize(directory_bytes, 0);
        for column in &mut self.columns {
            debug_assert_eq!(
                column.bytes.len() as u64,
                column.cells.row_bytes(column.width) * u64::from(self.rows),
                "{:?}",
                column.key
            );
            let start = body.len();
            let codec = (compressor.compress(column.cells, &column.bytes, body))
                .map_err(|e| DecodeError(format!("a column does not compress: {e}")))?;
            if codec == Codec::None {
                body.extend_from_slice(&column.bytes);
            }
            let stored = &body[start..];
            let too_long = |_| DecodeError("a column of 4 GiB or more".into());
            let entry = ColumnEntry {
                column: column.key.column as u16,
                layer: column.key.layer,
                cells: column.cells.code(),
                codec: codec.code(),
                reserved: 0,
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
            columns: u16::try_from(self.columns.len()).map_err(|_| DecodeError("65,536 columns or more".into()))?,
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
        // The next rows may have other columns; buffers that keep their columns keep their memory.
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
