//! A block's columns: which there are, and where each lies.

use crate::log::{ColumnEntry, ColumnKey, ENTRY_BYTES, HEADER_BYTES};

/// The directory of a block, checked.
///
/// A block may have 65,535 columns and a run as many layers, so neither finding a column nor its place goes through all others.
#[derive(Debug)]
pub(super) struct Directory {
    entries: Vec<ColumnEntry>,
    /// Where the frame of each begins, counted from the start of the block.
    starts: Vec<u64>,
    /// Positions of the entries in the order of column and layer; of equal ones the first stands first.
    sorted: Vec<u16>,
}

impl Directory {
    /// Reads the bytes of a directory whose checksum is right, of a block of `block_bytes` bytes.
    pub(super) fn parse(bytes: &[u8], block_bytes: u64) -> Result<Self, String> {
        let entries: Result<Vec<_>, _> = bytes.chunks_exact(ENTRY_BYTES).map(ColumnEntry::parse).collect();
        let entries = entries.map_err(|e| e.0)?;
        let mut end = (HEADER_BYTES + bytes.len()) as u64;
        let mut starts = Vec::with_capacity(entries.len());
        for entry in &entries {
            starts.push(end);
            // At most 65,535 times 2^32.
            end += u64::from(entry.stored_bytes);
        }
        if end > block_bytes {
            return Err("the columns are longer than their block".into());
        }
        // The header counts them in 16 bits.
        let mut sorted: Vec<u16> = (0..entries.len()).map(|position| position as u16).collect();
        sorted.sort_by_key(|&position| key(&entries[usize::from(position)]));
        Ok(Self { entries, starts, sorted })
    }

    pub(super) fn entries(&self) -> &[ColumnEntry] {
        &self.entries
    }

    /// Where the frame of an entry begins, counted from the start of the block.
    pub(super) fn start(&self, position: usize) -> u64 {
        self.starts[position]
    }

    /// The first entry of a column and layer, with its position.
    pub(super) fn find(&self, wanted: ColumnKey) -> Option<(usize, &ColumnEntry)> {
        let wanted = (wanted.column as u16, wanted.layer);
        let at = self.sorted.partition_point(|&position| key(&self.entries[usize::from(position)]) < wanted);
        let position = usize::from(*self.sorted.get(at)?);
        let entry = &self.entries[position];
        (key(entry) == wanted).then_some((position, entry))
    }
}

fn key(entry: &ColumnEntry) -> (u16, u16) {
    (entry.column, entry.layer)
}
