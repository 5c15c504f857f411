//! A block's columns: which there are, and where each lies.

use crate::log::{
    Column, ColumnEntry, ColumnKey, AMENDS_ALL, AMENDS_VECTORS, BLOCK_RAW_BYTES_MAX, ENTRY_BYTES, HEADER_BYTES,
};

/// The directory of a block, checked.
///
/// A block may have 65,535 columns. So finding a column, or its place, takes no pass over all others.
#[derive(Debug)]
pub(super) struct Directory {
    entries: Vec<ColumnEntry>,
    /// Where the frame of each begins, counted from the start of the block.
    starts: Vec<u64>,
    /// Positions of the entries in the order of column and layer; of equal ones the first stands first.
    sorted: Vec<u16>,
    /// Positions of the columns that this version does not know and that amend others. Mostly none.
    amending: Vec<u16>,
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
        // A few bytes of zstd can say much, and some readers hold several columns of a block at once.
        let raw: u64 = entries.iter().map(|entry| u64::from(entry.raw_bytes)).sum();
        if raw > BLOCK_RAW_BYTES_MAX {
            return Err(format!("the columns inflate to {raw} bytes, more than the format allows"));
        }
        // The header counts them in 16 bits.
        let mut sorted: Vec<u16> = (0..entries.len()).map(|position| position as u16).collect();
        sorted.sort_by_key(|&position| key(&entries[usize::from(position)]));
        let unknown = |entry: &ColumnEntry| entry.amends != 0 && Column::from_code(entry.column).is_none();
        let amending = (0..entries.len()).filter(|&position| unknown(&entries[position]));
        let amending = amending.map(|position| position as u16).collect();
        Ok(Self { entries, starts, sorted, amending })
    }

    /// The first column that this version does not know and that amends this one.
    pub(super) fn unknown_amendment(&self, entry: &ColumnEntry) -> Option<u16> {
        let column = Column::from_code(entry.column);
        let amends = |other: &&ColumnEntry| match other.amends {
            AMENDS_ALL => true,
            AMENDS_VECTORS => column.is_some_and(Column::is_of_gradient),
            column => (column, other.layer) == key(entry),
        };
        let amending = self.amending.iter().map(|&position| &self.entries[usize::from(position)]);
        amending.filter(|other| key(other) != key(entry)).find(amends).map(|other| other.column)
    }

    pub(super) fn entries(&self) -> &[ColumnEntry] {
        &self.entries
    }

    /// Where the frame of an entry begins, counted from the start of the block.
    pub(super) fn start(&self, position: usize) -> u64 {
        self.starts[position]
    }

    /// The layers that have this column, ascending.
    pub(super) fn layers(&self, column: Column) -> impl Iterator<Item = u16> + '_ {
        let code = column as u16;
        let from = self.sorted.partition_point(|&position| self.entries[usize::from(position)].column < code);
        let entries = self.sorted[from..].iter().map(|&position| &self.entries[usize::from(position)]);
        let layers = entries.take_while(move |entry| entry.column == code).map(|entry| entry.layer);
        layers.scan(None, |last, layer| Some((last.replace(layer) != Some(layer)).then_some(layer))).flatten()
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
