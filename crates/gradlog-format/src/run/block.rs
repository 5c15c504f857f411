//! One block of a run, and its columns on demand.

use super::directory::Directory;
use super::error::{io_error, Damage, Newer, ReadError};
use super::file::{is_damage, SegmentFile};
use super::spare::Spare;
use super::vectors::{Origin, Vectors};
use crate::log::{BlockHeader, BlockKind, Cells, Column, ColumnEntry, ColumnKey, HEADER_BYTES};
use half::bf16;
use std::ops::Range;
use std::sync::Arc;

/// A block of rows, whose header and directory are intact. Columns are read, checked and inflated when they are asked
/// for.
#[derive(Debug, Clone)]
pub struct Block {
    pub(super) segment: Arc<SegmentFile>,
    pub(super) offset: u64,
    pub(super) header: BlockHeader,
    pub(super) directory: Arc<Directory>,
    /// How many of its rows count, where the rest is superseded.
    pub(super) kept: Option<usize>,
    /// Its place in a run of several workers, if it is in one.
    pub(super) united: Option<United>,
}

/// What a block is in a run that several workers recorded.
#[derive(Debug, Clone)]
pub(super) struct United {
    /// Number of the block in the whole run.
    pub sequence: u64,
    /// The worker that wrote it, if one did.
    pub rank: Option<u32>,
    /// For each probe set of its part, the number in the whole run.
    pub sets: Arc<Vec<u32>>,
    /// Directory and frames of a block that is in no file.
    pub made: Option<Arc<Vec<u8>>>,
}

/// The size of one column of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ColumnSize {
    /// The column's number in the file. [`Column::from_code`] gives its meaning.
    pub column: u16,
    /// The layer that the column belongs to, or [`NO_LAYER`](crate::log::NO_LAYER).
    pub layer: u16,
    /// Bytes on disk.
    pub stored_bytes: u64,
    /// Bytes once inflated.
    pub inflated_bytes: u64,
}

impl Block {
    /// What the rows are, or `None` for a kind that a newer version added.
    pub fn kind(&self) -> Option<BlockKind> {
        BlockKind::from_code(self.header.kind)
    }

    /// Whether a replay recorded the rows. Their steps are those of checkpoints, and do not rise from block to block.
    pub fn is_replayed(&self) -> bool {
        match self.kind() {
            Some(BlockKind::Sweeps) => true,
            Some(BlockKind::Probes) => self.has(Column::Mode),
            _ => false,
        }
    }

    /// Whether this is a block of kind Probes with rows of curvature, which are no probes.
    pub fn is_curvature(&self) -> bool {
        self.kind() == Some(BlockKind::Probes) && self.has(Column::CurvatureWeight)
    }

    /// Whether this is a block of kind Probes whose gradients are multiplied by a preconditioner. They are those of
    /// other rows once more.
    pub fn is_preconditioned(&self) -> bool {
        self.kind() == Some(BlockKind::Probes) && self.has(Column::Preconditioner)
    }

    /// Whether a block like this after an End block means that a recorder resumed the run.
    pub fn reopens_run(&self) -> bool {
        // Recorders and replays both name probe sets. The rows that follow the name tell which it was. A kind that this
        // version does not know says nothing of the training: a tool may have added it.
        !matches!(self.kind(), None | Some(BlockKind::End | BlockKind::ProbeSet | BlockKind::Cards))
            && !self.is_replayed()
    }

    /// The worker that wrote the block and its number there. Unlike [`Block::sequence`] it never changes as the run
    /// grows.
    pub fn identity(&self) -> (Option<u32>, u64) {
        (self.worker(), self.header.sequence)
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.kept.unwrap_or(self.header.rows as usize)
    }

    /// Whether all rows in the file count. If a resumption took some of them again, the least and the greatest step and
    /// epoch may be those of rows that do not.
    pub fn is_whole(&self) -> bool {
        self.kept.is_none()
    }

    /// Number of the block in its run, from 0.
    pub fn sequence(&self) -> u64 {
        self.united.as_ref().map_or(self.header.sequence, |united| united.sequence)
    }

    /// The rank of the worker that wrote the rows, in a run of several workers. `None` for steps, which are merged from
    /// all, and in a run of one recorder.
    pub fn worker(&self) -> Option<u32> {
        self.united.as_ref().and_then(|united| united.rank)
    }

    /// Length on disk in bytes.
    pub fn bytes(&self) -> u64 {
        self.header.bytes
    }

    /// The least and the greatest step of the rows, superseded ones included.
    pub fn steps(&self) -> (u64, u64) {
        (self.header.first_step, self.header.last_step)
    }

    /// The greatest step of the rows that count, or `None` if no row counts.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub fn last_step(&self) -> Result<Option<u64>, ReadError> {
        match self.kept {
            None => Ok(Some(self.header.last_step)),
            Some(0) => Ok(None),
            Some(_) => Ok(self.u64s(Column::Step)?.into_iter().max()),
        }
    }

    /// The least and the greatest epoch of the rows, superseded ones included.
    pub fn epochs(&self) -> (u32, u32) {
        (self.header.first_epoch, self.header.last_epoch)
    }

    /// Whether the block has this column.
    pub fn has(&self, key: impl Into<ColumnKey>) -> bool {
        self.entry(key.into()).is_some()
    }

    /// How many numbers a row of this column has, or `None` if the block has no such column.
    pub fn width(&self, key: impl Into<ColumnKey>) -> Option<usize> {
        self.entry(key.into()).map(|(_, entry)| entry.width as usize)
    }

    /// The numbers of the layers for which the block has this column, ascending.
    pub fn layers(&self, column: Column) -> impl Iterator<Item = u16> + '_ {
        self.directory.layers(column)
    }

    /// The size of each column, in the order of the file.
    pub fn sizes(&self) -> impl Iterator<Item = ColumnSize> + '_ {
        self.directory.entries().iter().map(|entry| ColumnSize {
            column: entry.column,
            layer: entry.layer,
            stored_bytes: u64::from(entry.stored_bytes),
            inflated_bytes: u64::from(entry.raw_bytes),
        })
    }

    /// A column of bytes, one per row. For [`Column::Name`] and [`Column::Text`] these are the bytes of the text.
    ///
    /// # Errors
    /// [`ReadError::Absent`] if the block has no such column, [`ReadError::Damaged`] if its bytes are not what was
    /// written, [`ReadError::Newer`] if a newer version wrote its numbers in a way that this one does not know,
    /// [`ReadError::Io`] if the file system refuses.
    pub fn u8s(&self, key: impl Into<ColumnKey>) -> Result<Vec<u8>, ReadError> {
        Ok(self.raw(key.into(), 1)?.to_vec())
    }

    /// A column of 32-bit integers.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub fn u32s(&self, key: impl Into<ColumnKey>) -> Result<Vec<u32>, ReadError> {
        let key = key.into();
        let raw = self.raw(key, 2)?;
        let numbers = raw.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        match &self.united {
            // Each worker numbers its probe sets itself.
            Some(united) if key.column == Column::ProbeSet => {
                Ok(numbers.map(|set| united.sets.get(set as usize).copied().unwrap_or(u32::MAX)).collect())
            }
            _ => Ok(numbers.collect()),
        }
    }

    /// A column of 64-bit integers.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub fn u64s(&self, key: impl Into<ColumnKey>) -> Result<Vec<u64>, ReadError> {
        Ok(words(&self.raw(key.into(), 3)?).collect())
    }

    /// A column of floats.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub fn f32s(&self, key: impl Into<ColumnKey>) -> Result<Vec<f32>, ReadError> {
        let raw = self.raw(key.into(), 4)?;
        Ok(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// A column of vectors with their scales, the numbers that are kept apart, and what rounding left open. `origin`
    /// says what the vectors are made of.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub fn vectors(&self, values: ColumnKey, origin: Origin) -> Result<Vectors, ReadError> {
        let (_, entry) = self.entry(values).ok_or_else(|| self.absent(values))?;
        let encoding = match entry.cells() {
            Some(Cells::Vector(encoding)) => encoding,
            Some(_) => return Err(self.damaged(format!("column {} holds no vectors", entry.column))),
            None => return Err(self.newer(entry)),
        };
        let Some(column) = values.column.scales() else {
            return Err(self.damaged(format!("column {} is not one of vectors", entry.column)));
        };
        let scales = ColumnKey { column, ..values };
        let width = entry.width as usize;
        let codes = self.raw(values, entry.cells)?;
        let raw_scales = self.raw(scales, 5)?;
        let scales: Vec<bf16> = raw_scales.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect();
        if scales.len() != self.rows() {
            return Err(self.damaged(format!("{} scales for {} rows", scales.len(), self.rows())));
        }
        let mut vectors = Vectors::new(encoding, width, codes, scales, origin);
        if let Some((places, numbers)) = values.column.apart() {
            let (places, numbers) = (ColumnKey { column: places, ..values }, ColumnKey { column: numbers, ..values });
            if self.has(places) || self.has(numbers) {
                let kept = vectors.keep_apart(self.u32s(places)?, self.f32s(numbers)?);
                kept.map_err(|what| self.damaged(format!("column {}: {what}", values.column as u16)))?;
            }
        }
        if let Some(rounding) = values.column.rounding().map(|column| ColumnKey { column, ..values }) {
            if self.has(rounding) {
                let kept = vectors.keep_rounding(self.u8s(rounding)?);
                kept.map_err(|what| self.damaged(format!("column {}: {what}", rounding.column as u16)))?;
            }
        }
        Ok(vectors)
    }

    /// Says that the vectors of these columns will be read soon, with all that belongs to them. A run that is far away
    /// fetches them at once, and not one after another.
    pub fn announce(&self, vectors: impl IntoIterator<Item = ColumnKey>) {
        let Some(file) = self.segment.to_announce() else { return };
        if self.united.as_ref().is_some_and(|united| united.made.is_some()) {
            return;
        }
        let with_others = |values: ColumnKey| {
            let (places, numbers) = values.column.apart().unzip();
            let columns = [Some(values.column), values.column.scales(), places, numbers, values.column.rounding()];
            columns.into_iter().flatten().map(move |column| ColumnKey { column, ..values })
        };
        let entries = vectors.into_iter().flat_map(with_others).filter_map(|key| self.entry(key));
        let mut ranges: Vec<Range<u64>> = entries
            .map(|(position, entry)| {
                let start = self.offset.saturating_add(self.directory.start(position));
                start..start.saturating_add(u64::from(entry.stored_bytes))
            })
            .collect();
        ranges.sort_by_key(|range| range.start);
        file.announce(&ranges);
    }

    /// Reads, checks and inflates every column. Columns of a newer version are checked, too.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] for the first column that is not what was written, [`ReadError::Io`] if the file system
    /// refuses.
    pub fn check(&self) -> Result<(), ReadError> {
        for (index, entry) in self.directory.entries().iter().enumerate() {
            let bytes = self.inflate(index)?;
            if self.kind().is_some() && self.unreadable(entry).is_none() {
                self.check_range(entry, &bytes)?;
            }
        }
        Ok(())
    }

    /// Checks that steps and epochs are those of the header, and that steps do not fall from row to row. A reader skips
    /// blocks by their headers.
    fn check_range(&self, entry: &ColumnEntry, bytes: &[u8]) -> Result<(), ReadError> {
        let (name, (first, last), numbers): (_, _, Vec<u64>) = match Column::from_code(entry.column) {
            Some(Column::Step) => ("step", self.steps(), words(bytes).collect()),
            Some(Column::Epoch) => {
                let (first, last) = self.epochs();
                let numbers = bytes.chunks_exact(4).map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                ("epoch", (u64::from(first), u64::from(last)), numbers.collect())
            }
            _ => return Ok(()),
        };
        if let Some(outside) = numbers.iter().find(|number| !(first..=last).contains(number)) {
            return Err(self.damaged(format!("a row of {name} {outside} in a block of {name}s {first} to {last}")));
        }
        if name == "step" && !numbers.is_sorted() {
            return Err(self.damaged("steps that fall from row to row".into()));
        }
        Ok(())
    }

    /// Of how many columns a newer version wrote the numbers in a way that this one does not know. Columns that this
    /// version does not know at all do not count, unless they change others.
    pub fn newer_columns(&self) -> u64 {
        let known = self.directory.entries().iter().filter(|entry| Column::from_code(entry.column).is_some());
        known.filter(|entry| self.unreadable(entry).is_some()).count() as u64
    }

    /// Number and name of the probe set, in a block of kind ProbeSet. In a run of several workers, it is the number in
    /// the worker's part.
    ///
    /// # Errors
    /// As [`Block::u8s`]. A name that is no UTF-8 is damage.
    pub fn probe_set(&self) -> Result<(u32, String), ReadError> {
        let name = String::from_utf8(self.u8s(Column::Name)?);
        let name = name.map_err(|_| self.damaged("the name of a probe set is no UTF-8".into()))?;
        let raw = self.raw(Column::ProbeSet.into(), 2)?;
        match raw.as_chunks::<4>().0 {
            [number] => Ok((u32::from_le_bytes(*number), name)),
            numbers => Err(self.damaged(format!("{} probe sets in one block", numbers.len()))),
        }
    }

    /// The columns with their types and widths.
    ///
    /// # Errors
    /// [`ReadError::Newer`] for a column that this version does not know, or of a type that it does not know.
    pub(super) fn layout(&self) -> Result<Vec<(ColumnKey, Cells, u32)>, ReadError> {
        let known = |entry: &ColumnEntry| {
            let column = Column::from_code(entry.column).filter(|_| self.unreadable(entry).is_none());
            match (column, entry.cells()) {
                (Some(column), Some(cells)) => Ok((ColumnKey { column, layer: entry.layer }, cells, entry.width)),
                _ => Err(self.newer(entry)),
            }
        };
        self.directory.entries().iter().map(known).collect()
    }

    /// The bytes of a column, of the rows that count.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub(super) fn raw_bytes(&self, key: ColumnKey) -> Result<Vec<u8>, ReadError> {
        let (_, entry) = self.entry(key).ok_or_else(|| self.absent(key))?;
        Ok(self.raw(key, entry.cells)?.to_vec())
    }

    /// The number of the probe set that a block of kind ProbeSet names, in the whole run.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub(super) fn united_set(&self) -> Result<u32, ReadError> {
        let (own, _) = self.probe_set()?;
        Ok(self.united.as_ref().and_then(|united| united.sets.get(own as usize).copied()).unwrap_or(own))
    }

    fn entry(&self, key: ColumnKey) -> Option<(usize, &ColumnEntry)> {
        self.directory.find(key)
    }

    fn raw(&self, key: ColumnKey, cells: u8) -> Result<Spare, ReadError> {
        let (index, entry) = self.entry(key).ok_or_else(|| self.absent(key))?;
        if self.unreadable(entry).is_some() {
            return Err(self.newer(entry));
        }
        if entry.cells != cells {
            return Err(self.damaged(format!("column {} has numbers of type {}", entry.column, entry.cells)));
        }
        let mut bytes = self.inflate(index)?;
        if let Some(kept) = self.kept {
            bytes.truncate(bytes.len() / self.header.rows.max(1) as usize * kept);
        }
        Ok(bytes)
    }

    fn inflate(&self, index: usize) -> Result<Spare, ReadError> {
        let entry = &self.directory.entries()[index];
        // The scan checked that the frames fit the block and the block fits the file. So this allocates at most the
        // file.
        let mut stored = Spare::new(entry.stored_bytes as usize);
        let start = self.directory.start(index);
        match self.united.as_ref().and_then(|united| united.made.as_deref()) {
            Some(body) => {
                let from = start as usize - HEADER_BYTES;
                match body.get(from..from + stored.len()) {
                    Some(frame) => stored.copy_from_slice(frame),
                    None => return Err(self.damaged("a frame behind the end of its block".into())),
                }
            }
            None => {
                let place = self.offset.saturating_add(start);
                self.segment.read_at(&mut stored, place).map_err(|error| match is_damage(&error) {
                    true => self.damaged(format!("column {}: {error}", entry.column)),
                    false => io_error(&self.segment.path)(error),
                })?;
            }
        }
        if entry.cells().is_none() && crc32fast::hash(&stored) == entry.crc {
            return Ok(stored); // intact, of a type that a newer version added
        }
        match entry.inflate_into(&stored, self.header.rows, Spare::new) {
            Ok(inflated) => Ok(inflated.unwrap_or(stored)),
            Err(error) => Err(self.damaged(format!("column {}: {error}", entry.column))),
        }
    }

    /// Why this version cannot know what the numbers of a column mean, if it cannot.
    fn unreadable(&self, entry: &ColumnEntry) -> Option<String> {
        if entry.cells().is_none() {
            return Some(format!("numbers of type {}", entry.cells));
        }
        let amending = self.directory.unknown_amendment(entry)?;
        Some(format!("column {amending}, which changes what it means"))
    }

    fn newer(&self, entry: &ColumnEntry) -> ReadError {
        let name = Column::from_code(entry.column).map_or(entry.column.to_string(), |column| format!("{column:?}"));
        let what = self.unreadable(entry).unwrap_or_default();
        let path = self.segment.path.clone();
        ReadError::Newer(Newer { path, block: Some(self.sequence()), what: format!("its column {name} has {what}") })
    }

    fn absent(&self, key: ColumnKey) -> ReadError {
        ReadError::Absent(format!("the run does not hold {:?}", key.column))
    }

    /// The block with the rows that a later resumption superseded.
    pub fn with_superseded_rows(self) -> Self {
        Self { kept: None, ..self }
    }

    /// Bytes of all its columns once inflated, according to the directory.
    pub fn inflated_bytes(&self) -> u64 {
        self.directory.entries().iter().map(|entry| u64::from(entry.raw_bytes)).sum()
    }

    /// An error that says that this block is damaged. `what` says how.
    pub fn damaged(&self, what: String) -> ReadError {
        ReadError::Damaged(Damage {
            path: self.segment.path.clone(),
            offset: self.offset,
            block: Some(self.sequence()),
            what,
        })
    }
}

/// 64-bit integers.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
}
