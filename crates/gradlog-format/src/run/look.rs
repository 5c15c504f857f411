//! What lies at a place of a segment: a block, the end, or something that is neither (FORMAT.md, "Recovery").

use super::block::Block;
use super::directory::Directory;
use super::file::{is_damage, is_lost, SegmentFile};
use crate::log::{BlockHeader, BLOCK_MAGIC, HEADER_BYTES};
use std::io;
use std::sync::Arc;

/// What lies at a place of a segment.
pub(super) enum Found {
    /// A block whose header and directory are sound.
    Block(Block),
    /// The end of the file, or zeros.
    End,
    /// Neither a block nor the end.
    Damage {
        what: String,
        /// The block's header, if it is sound and the block fits the file.
        header: Option<BlockHeader>,
        /// Whether a block looks like this while it is committed, or a segment while it is closed.
        transient: bool,
    },
    /// The system refused to read it.
    Refused {
        error: io::Error,
        /// As in [`Found::Damage`].
        header: Option<BlockHeader>,
    },
}

impl Found {
    fn damage(what: impl Into<String>) -> Self {
        Found::Damage { what: what.into(), header: None, transient: false }
    }

    fn transient(what: impl Into<String>) -> Self {
        Found::Damage { what: what.into(), header: None, transient: true }
    }
}

/// Looks at `offset` of `segment`. The sequence number is for the caller to check.
pub(super) fn look(segment: &Arc<SegmentFile>, offset: u64) -> Found {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Found::transient("the file ends here, and was longer a moment ago"),
        _ if is_damage(&error) => Found::damage(error.to_string()),
        _ => Found::Refused { error, header: None },
    };
    // The length is asked for each time: a recorder cuts a segment when it closes it.
    let left = match segment.bytes() {
        Ok(bytes) => bytes.saturating_sub(offset),
        Err(error) => return unreadable(error),
    };
    if left == 0 {
        return Found::End;
    }
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
        Err(error) => return Found::transient(error.0),
    };
    let smallest = (HEADER_BYTES + header.directory_bytes()) as u64;
    if header.bytes < smallest || header.bytes % 8 != 0 {
        return Found::damage(format!("a block cannot be {} bytes long", header.bytes));
    }
    if header.bytes > left {
        return Found::damage(format!("the file ends {left} bytes into a block of {}", header.bytes));
    }
    let mut bytes = vec![0u8; header.directory_bytes()];
    let what = match segment.read_at(&mut bytes, offset + HEADER_BYTES as u64) {
        Err(error) if is_damage(&error) => error.to_string(),
        Err(error) => return Found::Refused { error, header: Some(header) },
        Ok(()) if crc32fast::hash(&bytes) != header.directory_crc => {
            "the column directory's checksum does not match".into()
        }
        Ok(()) => match Directory::parse(&bytes, header.bytes) {
            Ok(directory) => {
                let directory = Arc::new(directory);
                let segment = segment.clone();
                return Found::Block(Block { segment, offset, header, directory, kept: None, united: None });
            }
            Err(what) => what,
        },
    };
    Found::Damage { what, header: Some(header), transient: false }
}

/// The most bytes that are searched at a time. A search begins with a page: the next block is often near.
const CHUNK_BYTES: usize = 1 << 20;
/// A device that cannot read one of its pages can often read the next.
const PAGE_BYTES: usize = 1 << 12;

/// The first place at or after `from` where a block header with a right checksum stands.
///
/// Looks only at multiples of 8, because blocks begin nowhere else. Passes over what is lost on the device.
///
/// # Errors
/// The error of the system if it refuses for another reason.
pub(super) fn find_block(segment: &SegmentFile, from: u64) -> io::Result<Option<u64>> {
    let end = segment.bytes()?;
    let Some(mut start) = from.checked_next_multiple_of(8) else { return Ok(None) };
    let mut chunk = Vec::new();
    while start.checked_add(HEADER_BYTES as u64).is_some_and(|least| least <= end) {
        // Holes hold no block. A recorder reserves space, and that is one until it is written to.
        match segment.next_data(start)? {
            Some(data) => start = start.max(data / 8 * 8),
            None => return Ok(None),
        }
        if start.checked_add(HEADER_BYTES as u64).is_none_or(|least| least > end) {
            return Ok(None);
        }
        chunk.resize((chunk.len() * 4).clamp(PAGE_BYTES, CHUNK_BYTES), 0);
        let have = (end - start).min(chunk.len() as u64) as usize;
        read_lost_as_zeros(segment, &mut chunk[..have], start)?;
        for (at, header) in chunk[..have].windows(HEADER_BYTES).enumerate().step_by(8) {
            if header[..4] == BLOCK_MAGIC.to_le_bytes() && parses(header) {
                return Ok(Some(start + at as u64));
            }
        }
        // The last 56 bytes may hold the beginning of a header.
        start += (have - HEADER_BYTES + 8) as u64 / 8 * 8;
    }
    Ok(None)
}

fn parses(header: &[u8]) -> bool {
    <&[u8; HEADER_BYTES]>::try_from(header).is_ok_and(|header| BlockHeader::parse(header).is_ok())
}

/// Fills `out` from `offset`, with zeros in place of pages that are lost.
fn read_lost_as_zeros(segment: &SegmentFile, out: &mut [u8], offset: u64) -> io::Result<()> {
    match segment.read_at(out, offset) {
        Err(error) if is_lost(&error) => {}
        read => return read,
    }
    for (page, out) in out.chunks_mut(PAGE_BYTES).enumerate() {
        match segment.read_at(out, offset + (page * PAGE_BYTES) as u64) {
            Err(error) if is_lost(&error) => out.fill(0),
            read => read?,
        }
    }
    Ok(())
}
