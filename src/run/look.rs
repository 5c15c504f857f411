//! What lies at a place of a segment: a block, the end, or something that is neither (FORMAT.md, "Recovery").

use super::block::{Block, SegmentFile};
use crate::log::{BlockHeader, ColumnEntry, BLOCK_MAGIC, ENTRY_BYTES, HEADER_BYTES};
use std::io;
use std::sync::Arc;

/// What lies at a place of a segment.
pub(super) enum Found {
    /// A block whose header and directory are sound.
    Block(Block),
    /// The end of the file, or zeros.
    End,
    /// Neither of the two.
    Damage {
        what: String,
        /// The block's header, where that at least is sound and the file holds as much as it says.
        header: Option<BlockHeader>,
        /// Whether a block that is just being committed, or a segment that is just being closed, can look like this.
        passing: bool,
    },
}

impl Found {
    fn damage(what: impl Into<String>) -> Self {
        Found::Damage { what: what.into(), header: None, passing: false }
    }

    fn passing(what: impl Into<String>) -> Self {
        Found::Damage { what: what.into(), header: None, passing: true }
    }
}

/// Looks at `offset` of `segment`. The sequence number is for the caller to check.
pub(super) fn look(segment: &Arc<SegmentFile>, offset: u64) -> Found {
    // The length is asked for each time: a recorder cuts a segment when it closes it.
    let left = match segment.file.metadata() {
        Ok(about) => about.len().saturating_sub(offset),
        Err(error) => return Found::damage(error.to_string()),
    };
    if left == 0 {
        return Found::End;
    }
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Found::passing("the file ends here, and was longer a moment ago"),
        _ => Found::damage(error.to_string()),
    };
    let mut bytes = [0u8; HEADER_BYTES];
    let have = left.min(HEADER_BYTES as u64) as usize;
    if let Err(error) = segment.read_at(&mut bytes[..have], offset) {
        return unreadable(error);
    }
    if bytes[..have.min(4)].iter().all(|b| *b == 0) {
        return Found::End;
    }
    if have < HEADER_BYTES {
        return Found::damage("the file ends within a block header");
    }
    let header = match BlockHeader::parse(&bytes) {
        Ok(header) => header,
        Err(error) => return Found::passing(error.0),
    };
    let smallest = (HEADER_BYTES + header.directory_bytes()) as u64;
    if header.bytes < smallest || header.bytes % 8 != 0 {
        return Found::damage(format!("a block cannot be {} bytes long", header.bytes));
    }
    if header.bytes > left {
        return Found::damage(format!("the file ends {left} bytes into a block of {}", header.bytes));
    }
    match directory(segment, offset, &header) {
        Ok(entries) => Found::Block(Block {
            segment: segment.clone(),
            offset,
            header,
            entries: Arc::new(entries),
            kept: None,
            united: None,
        }),
        Err(what) => Found::Damage { what, header: Some(header), passing: false },
    }
}

fn directory(segment: &SegmentFile, offset: u64, header: &BlockHeader) -> Result<Vec<ColumnEntry>, String> {
    let mut directory = vec![0u8; header.directory_bytes()];
    segment.read_at(&mut directory, offset + HEADER_BYTES as u64).map_err(|e| e.to_string())?;
    if crc32fast::hash(&directory) != header.directory_crc {
        return Err("the column directory's checksum does not match".into());
    }
    let entries: Result<Vec<_>, _> = directory.chunks_exact(ENTRY_BYTES).map(ColumnEntry::parse).collect();
    let entries = entries.map_err(|e| e.0)?;
    let frames: u64 = entries.iter().map(|e| u64::from(e.stored_bytes)).sum();
    if (HEADER_BYTES + directory.len()) as u64 + frames > header.bytes {
        return Err("the columns are longer than their block".into());
    }
    Ok(entries)
}

/// How much is searched at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// A device that cannot read one of its pages can often read the next.
const PAGE_BYTES: usize = 1 << 12;

/// The first place at or after `from` where a block header with a right checksum stands.
///
/// Only multiples of 8 are looked at, for blocks begin nowhere else. What cannot be read is passed over.
pub(super) fn find_block(segment: &SegmentFile, from: u64) -> Option<u64> {
    let end = segment.file.metadata().ok()?.len();
    let mut start = from.checked_next_multiple_of(8)?;
    let mut chunk = vec![0u8; end.saturating_sub(start).min(CHUNK_BYTES as u64) as usize];
    while start.checked_add(HEADER_BYTES as u64)? <= end {
        let have = (end - start).min(chunk.len() as u64) as usize;
        read_what_can_be_read(segment, &mut chunk[..have], start);
        for (at, header) in chunk[..have].windows(HEADER_BYTES).enumerate().step_by(8) {
            if header[..4] == BLOCK_MAGIC.to_le_bytes() && parses(header) {
                return Some(start + at as u64);
            }
        }
        // The last 56 bytes may hold the beginning of a header.
        start += (have - HEADER_BYTES + 8) as u64 / 8 * 8;
    }
    None
}

fn parses(header: &[u8]) -> bool {
    <&[u8; HEADER_BYTES]>::try_from(header).is_ok_and(|header| BlockHeader::parse(header).is_ok())
}

fn read_what_can_be_read(segment: &SegmentFile, out: &mut [u8], offset: u64) {
    if segment.read_at(out, offset).is_ok() {
        return;
    }
    for (page, out) in out.chunks_mut(PAGE_BYTES).enumerate() {
        if segment.read_at(out, offset + (page * PAGE_BYTES) as u64).is_err() {
            out.fill(0);
        }
    }
}
