//! Blocks: rows stored column by column, each column in a frame of its own (FORMAT.md, "Block"). This file reads them.

use super::codec::{self, DecodeError};
use super::column::Cells;
use super::compress::Codec;
use super::planes;
use gradlog_kernels::rans::Decoder;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io;
use zstd::zstd_safe::find_frame_compressed_size;

/// Bytes of a block's header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of one entry of a block's column directory.
pub const ENTRY_BYTES: usize = 24;
/// "GBLK", read as a little-endian u32. A block whose first word is 0 was never committed.
pub const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"GBLK");

/// The most bytes that a column may have once inflated. A reader refuses to allocate more.
pub const COLUMN_BYTES_MAX: u64 = 1 << 28;

/// The most bytes that all columns of a block may have once inflated.
pub const BLOCK_RAW_BYTES_MAX: u64 = 1 << 30;

/// The most rows that a block may have: a column of eight-byte numbers has room for no more.
pub const ROWS_MAX: u32 = 1 << 25;
/// The most numbers that one row of a column may have.
pub const WIDTH_MAX: u32 = 1 << 24;
/// In [`ColumnEntry::amends`]: the column amends all vectors of the block, with their scales.
pub const AMENDS_VECTORS: u16 = 0xFFFE;
/// In [`ColumnEntry::amends`]: the column amends all others of the block.
pub const AMENDS_ALL: u16 = 0xFFFF;
/// No frame inflates to more than this many times its length. The shortest block of zstd with output has 4 bytes, and
/// makes at most 2^17 (RFC 8878, 3.1.1.2). A byte takes at least log2(4096 / 4095) bits of rANS, a 22,700th of it.
const RATIO_MAX: u64 = 1 << 15;

/// What the rows of a block are (FORMAT.md, "Kinds of block").
///
/// The discriminants are the numbers in the file. Other numbers up to 0x7FFF are reserved for this format. Programs may
/// use numbers from 0x8000 for kinds of their own; readers skip them.
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
    /// One row for each series of passes that was not recorded.
    Gaps = 4,
    /// The name of one probe set.
    ProbeSet = 5,
    /// One row with the totals of a run that was finished.
    End = 6,
    /// One row for each checkpoint, that is, weights saved beside the log.
    Checkpoints = 8,
    /// One row for each training example that a replay took through the model at a checkpoint.
    Sweeps = 9,
    /// One row for each change of what trains a layer: its learning rate relative to the step's, or whether its
    /// parameters change at all.
    LayerRates = 10,
    /// One row for each check of recorded gradients.
    Checks = 11,
    /// One row for each example of which a guard told something, and one for each divergence of the loss.
    Events = 12,
    /// One row for each example that was described: a thumbnail, a text or a row.
    Cards = 13,
}

impl BlockKind {
    /// The kind of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u16) -> Option<Self> {
        const ALL: [BlockKind; 12] = [
            BlockKind::Visits,
            BlockKind::Steps,
            BlockKind::Probes,
            BlockKind::Gaps,
            BlockKind::ProbeSet,
            BlockKind::End,
            BlockKind::Checkpoints,
            BlockKind::Sweeps,
            BlockKind::LayerRates,
            BlockKind::Checks,
            BlockKind::Events,
            BlockKind::Cards,
        ];
        ALL.into_iter().find(|kind| *kind as u16 == code)
    }
}

/// The header of a block. The fields are in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHeader {
    /// [`BLOCK_MAGIC`].
    pub magic: u32,
    /// The number of a [`BlockKind`].
    pub kind: u16,
    /// How many columns the directory lists.
    pub columns: u16,
    /// How many rows each column has.
    pub rows: u32,
    /// Zero.
    pub reserved: u32,
    /// Length of the whole block with header, directory, frames and padding. A multiple of 8.
    pub bytes: u64,
    /// Number of the block in its run, counted from 0 across segments.
    pub sequence: u64,
    /// The least optimizer step of the rows.
    pub first_step: u64,
    /// The greatest optimizer step of the rows.
    pub last_step: u64,
    /// The least epoch of the rows.
    pub first_epoch: u32,
    /// The greatest epoch of the rows.
    pub last_epoch: u32,
    /// CRC-32 of the directory.
    pub directory_crc: u32,
    /// CRC-32 of the 60 bytes before it.
    pub header_crc: u32,
}

impl BlockHeader {
    /// The bytes in the file. The checksum is computed; `header_crc` is ignored.
    pub fn to_bytes(&self) -> Result<[u8; HEADER_BYTES], DecodeError> {
        let encoded = codec::encode(self)?;
        let mut bytes = [0u8; HEADER_BYTES];
        bytes.copy_from_slice(&encoded);
        let crc = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a header and checks its CRC. The caller checks that the block fits its segment.
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

    /// Length of the directory that follows the header.
    pub fn directory_bytes(&self) -> usize {
        usize::from(self.columns) * ENTRY_BYTES
    }
}

/// One entry of a block's column directory. The fields are in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnEntry {
    /// The number of a [`Column`](super::Column).
    pub column: u16,
    /// The layer that the column belongs to, or [`NO_LAYER`](super::NO_LAYER).
    pub layer: u16,
    /// The code of a [`Cells`].
    pub cells: u8,
    /// The code of the compression.
    pub codec: u8,
    /// 0, or the column that this one amends: see `AMENDS_VECTORS` and FORMAT.md, "Columns that amend others".
    pub amends: u16,
    /// Numbers in one row.
    pub width: u32,
    /// Length of the frame in the file.
    pub stored_bytes: u32,
    /// Length of the column once inflated.
    pub raw_bytes: u32,
    /// CRC-32 of the stored bytes.
    pub crc: u32,
}

impl ColumnEntry {
    /// Reads an entry and checks it against the limits of the format.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let entry: ColumnEntry = codec::decode(bytes)?;
        if entry.column == 0 || entry.width > WIDTH_MAX {
            return Err(DecodeError(format!(
                "no column is number {} with {} numbers a row",
                entry.column, entry.width
            )));
        }
        if entry.cells == 0 {
            return Err(DecodeError(format!("column {} has numbers of type 0, which is none", entry.column)));
        }
        // A column is never stored longer than it is. This bounds the allocation before a checksum can be checked.
        if u64::from(entry.stored_bytes) > COLUMN_BYTES_MAX {
            return Err(DecodeError(format!(
                "a column of {} stored bytes, more than the format allows",
                entry.stored_bytes
            )));
        }
        Ok(entry)
    }

    /// The type of the numbers, or `None` for one that a newer version added.
    pub fn cells(&self) -> Option<Cells> {
        Cells::from_code(self.cells)
    }

    /// The column's bytes, row after row. Checks the CRC, inflates, and checks the length against `rows`.
    ///
    /// Never allocates more than `rows` rows of a known type need, whatever the entry claims.
    pub fn inflate(&self, stored: Vec<u8>, rows: u32) -> Result<Vec<u8>, DecodeError> {
        let inflated = self.inflate_into(&stored, rows, |length| vec![0; length])?;
        Ok(inflated.unwrap_or(stored))
    }

    /// As [`ColumnEntry::inflate`], into a buffer that `buffer` makes of the length that it is given. `None` if the
    /// column is stored as it is.
    pub(crate) fn inflate_into<B: std::ops::DerefMut<Target = [u8]>>(
        &self,
        stored: &[u8],
        rows: u32,
        buffer: impl Fn(usize) -> B,
    ) -> Result<Option<B>, DecodeError> {
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
        if crc32fast::hash(stored) != self.crc {
            return Err(DecodeError("the column's checksum does not match".into()));
        }
        let raw_bytes = self.raw_bytes as usize;
        let codec = Codec::from_code(self.codec);
        match codec.ok_or_else(|| DecodeError(format!("unknown compression {}", self.codec)))? {
            Codec::None if stored.len() == raw_bytes => Ok(None),
            Codec::None => Err(DecodeError(format!("{} bytes where {raw_bytes} belong", stored.len()))),
            Codec::Zstd | Codec::Planes | Codec::Rans if expected > RATIO_MAX.saturating_mul(stored.len() as u64) => {
                Err(DecodeError(format!("{expected} bytes cannot come out of {}", stored.len())))
            }
            Codec::Zstd => {
                let mut raw = buffer(raw_bytes);
                unpack(stored, &mut raw)?;
                Ok(Some(raw))
            }
            Codec::Planes if cells.number_bytes() == 1 => {
                Err(DecodeError(format!("planes of numbers of type {}, which have none", self.cells)))
            }
            Codec::Planes => {
                let (mut planes, mut raw) = (buffer(raw_bytes), buffer(raw_bytes));
                unpack(stored, &mut planes)?;
                planes::join(cells.number_bytes(), &planes, &mut raw);
                Ok(Some(raw))
            }
            Codec::Rans => {
                let mut raw = buffer(raw_bytes);
                RANS.with_borrow_mut(|decoder| decoder.decode(stored, &mut raw))
                    .map_err(|e| DecodeError(format!("the column does not inflate: {e}")))?;
                Ok(Some(raw))
            }
        }
    }
}

/// Writes the contents of a zstd frame into `raw`, if they are as long.
///
/// The frame's own size field is ignored. The buffer is exactly as long as the number of rows requires. zstd itself
/// would take several frames for one, and pass over frames that it is told to skip. Other decoders read the first only.
fn unpack(stored: &[u8], raw: &mut [u8]) -> Result<(), DecodeError> {
    if window_bytes(stored).is_some_and(|bytes| bytes > COLUMN_BYTES_MAX) {
        return Err(DecodeError("the column's zstd frame has a larger window than the format allows".into()));
    }
    if find_frame_compressed_size(stored).is_ok_and(|bytes| bytes != stored.len()) {
        return Err(DecodeError("more follows the column's zstd frame".into()));
    }
    let written = decompress(stored, raw).map_err(|e| DecodeError(format!("the column does not inflate: {e}")))?;
    if written != raw.len() {
        return Err(DecodeError(format!("{written} bytes where {} belong", raw.len())));
    }
    Ok(())
}

/// The window that a zstd frame asks for, if it does (RFC 8878, 3.1.1.1.2). Otherwise its content is the window.
fn window_bytes(frame: &[u8]) -> Option<u64> {
    let (descriptor, window) = (*frame.get(4)?, *frame.get(5)?);
    let base = 1u64 << (10 + (window >> 3));
    (descriptor & 0x20 == 0).then_some(base + base / 8 * u64::from(window & 7))
}

thread_local! {
    /// To make one takes longer than to inflate a short column.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    static RANS: RefCell<Decoder> = RefCell::new(Decoder::default());
}

fn decompress(stored: &[u8], raw: &mut [u8]) -> io::Result<usize> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(stored, raw)
    })
}
