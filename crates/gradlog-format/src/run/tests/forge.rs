//! Bytes made by hand from FORMAT.md, with checksums that match, for what the writer would never write.

use super::manifest;
use crate::log::{BlockKind, Column};
use std::path::Path;

/// A column as its directory entry describes it, true or not.
#[derive(Clone)]
pub(super) struct Forged {
    pub column: u16,
    pub layer: u16,
    pub cells: u8,
    pub codec: u8,
    pub amends: u16,
    pub width: u32,
    pub raw_bytes: u32,
    pub stored: Vec<u8>,
}

impl Forged {
    /// A column of one uncompressed number a row.
    pub(super) fn plain(column: u16, cells: u8, stored: Vec<u8>) -> Self {
        let raw_bytes = stored.len() as u32;
        Self { column, layer: 0xFFFF, cells, codec: 0, amends: 0, width: 1, raw_bytes, stored }
    }
}

/// The columns, and zeros for those that a block of this kind must have and that are not among them.
fn complete(kind: u16, rows: u32, columns: &[Forged]) -> Vec<Forged> {
    let required: &[(Column, u8)] = match BlockKind::from_code(kind) {
        Some(BlockKind::Visits) => &[(Column::Example, 3), (Column::Step, 3), (Column::Epoch, 2)],
        Some(BlockKind::Probes) => {
            &[(Column::Example, 3), (Column::Step, 3), (Column::Epoch, 2), (Column::ProbeSet, 2)]
        }
        Some(BlockKind::Steps) => &[(Column::Step, 3), (Column::Epoch, 2)],
        Some(BlockKind::Gaps) => &[(Column::Step, 3), (Column::Epoch, 2), (Column::Dropped, 3)],
        Some(BlockKind::End) => &[(Column::Visits, 3), (Column::Dropped, 3)],
        _ => &[],
    };
    let lacking = required.iter().filter(|(column, _)| columns.iter().all(|other| other.column != *column as u16));
    let zeros = |(column, cells): &(Column, u8)| {
        let bytes = if *cells == 3 { 8 } else { 4 };
        let raw = vec![0u8; rows as usize * bytes];
        // Many zeros are few bytes of zstd.
        let stored = if raw.len() > 1 << 12 { zstd::bulk::compress(&raw, 1).unwrap() } else { raw.clone() };
        let codec = u8::from(stored.len() < raw.len());
        Forged { codec, raw_bytes: raw.len() as u32, ..Forged::plain(*column as u16, *cells, stored) }
    };
    columns.iter().cloned().chain(lacking.map(zeros)).collect()
}

/// The bytes of a block, complete for its kind. The closure may change the header before it is sealed with its
/// checksum.
pub(super) fn block_with(
    kind: u16,
    sequence: u64,
    rows: u32,
    columns: &[Forged],
    change: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    // More would take long to write.
    let columns = if rows <= 1 << 16 { complete(kind, rows, columns) } else { columns.to_vec() };
    bare_block_with(kind, sequence, rows, &columns, change)
}

/// The bytes of a block of these columns and no others.
pub(super) fn bare_block(kind: u16, sequence: u64, rows: u32, columns: &[Forged]) -> Vec<u8> {
    bare_block_with(kind, sequence, rows, columns, |_| {})
}

fn bare_block_with(
    kind: u16,
    sequence: u64,
    rows: u32,
    columns: &[Forged],
    change: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut directory = Vec::new();
    for c in columns {
        directory.extend(c.column.to_le_bytes());
        directory.extend(c.layer.to_le_bytes());
        directory.extend([c.cells, c.codec]);
        directory.extend(c.amends.to_le_bytes());
        directory.extend(c.width.to_le_bytes());
        directory.extend((c.stored.len() as u32).to_le_bytes());
        directory.extend(c.raw_bytes.to_le_bytes());
        directory.extend(crc32fast::hash(&c.stored).to_le_bytes());
    }
    let directory_crc = crc32fast::hash(&directory);
    let mut body = directory;
    for c in columns {
        body.extend(&c.stored);
    }
    body.resize(body.len().next_multiple_of(8), 0);
    let mut header = b"GBLK".to_vec();
    header.extend(kind.to_le_bytes());
    header.extend((columns.len() as u16).to_le_bytes());
    header.extend(rows.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    header.extend((64 + body.len() as u64).to_le_bytes());
    header.extend(sequence.to_le_bytes());
    header.extend([0u8; 24]);
    header.extend(directory_crc.to_le_bytes());
    change(&mut header);
    header.extend(crc32fast::hash(&header).to_le_bytes());
    assert_eq!(header.len(), 64);
    header.extend(body);
    header
}

pub(super) fn block(kind: u16, sequence: u64, rows: u32, columns: &[Forged]) -> Vec<u8> {
    block_with(kind, sequence, rows, columns, |_| {})
}

/// The twelve bytes at the head of a file of this version and kind.
pub(super) fn prefix(version: u16, kind: u16) -> Vec<u8> {
    let mut bytes = b"\x89GLOG\r\n\x1a".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes
}

/// The bytes of segment 0 with these blocks.
pub(super) fn segment(version: u16, blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = prefix(version, 2);
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(manifest().run_id);
    bytes.resize(60, 0);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(blocks.iter().flatten());
    bytes
}

/// A manifest file around these bytes.
pub(super) fn manifest_file(version: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = prefix(version, 1);
    bytes.extend((payload.len() as u32).to_le_bytes());
    let crc = crc32fast::hash(&[&bytes, payload].concat());
    bytes.extend(crc.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// A run of one segment with these blocks.
pub(super) fn run(blocks: &[Vec<u8>]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &segment(1, blocks));
    dir
}

/// Writes the test manifest, and `segment` as segment 0.
pub(super) fn put(dir: &Path, segment: &[u8]) {
    std::fs::write(dir.join("manifest"), manifest().to_bytes().unwrap()).unwrap();
    std::fs::write(dir.join("segment-00000.glog"), segment).unwrap();
}
