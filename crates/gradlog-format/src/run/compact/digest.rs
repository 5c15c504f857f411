//! Whether two runs hold the same rows, in whatever order.

use super::rows::Rows;
use crate::log::BlockKind;
use crate::sketch::draw;
use std::collections::BTreeMap;
use std::fmt;

/// Counts and sums of hashes of rows. A sum does not depend on the order of the rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Digest(BTreeMap<u16, (u64, u64)>);

impl Digest {
    pub fn add(&mut self, rows: &Rows) {
        let (count, sum) = self.0.entry(rows.kind as u16).or_default();
        *count += rows.count as u64;
        for row in rows.all() {
            // A sum over columns, which may stand in any order.
            let mut hash = 0u64;
            for column in &rows.columns {
                let key = u64::from(column.key.column as u16) << 16 | u64::from(column.key.layer);
                let bytes = column.row(row);
                let content = u64::from(crc32fast::hash(bytes)) << 32 | bytes.len() as u64;
                hash = hash.wrapping_add(draw(draw(1, key), content));
            }
            for apart in &rows.apart {
                let key = u64::from(apart.key.column as u16) << 16 | u64::from(apart.key.layer);
                for number in apart.row(row) {
                    let content = u64::from(number.place) << 32 | u64::from(number.value.to_bits());
                    hash = hash.wrapping_add(draw(draw(2, key), content));
                }
            }
            *sum = sum.wrapping_add(draw(3, hash));
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |(kind, (count, sum)): (&u16, &(u64, u64))| match BlockKind::from_code(*kind) {
            Some(kind) => format!("{count} rows of {kind:?} with checksum {sum:016x}"),
            None => format!("{count} rows"),
        };
        f.write_str(&self.0.iter().map(kind).collect::<Vec<_>>().join(", "))
    }
}
