//! Writes a run anew with its visits sorted by buckets of examples (FORMAT.md, "Buckets"). The original stays as it is.
//!
//! One pass reads the run. Rows collect in a buffer for each bucket; when the buffers together are full, the longest
//! are written as blocks behind what their bucket has so far. So memory does not depend on the length of the run. Each
//! bucket is a file that becomes a segment. At the end blocks get their numbers and the manifest is written, everything
//! is read back and compared with what was read, and the folder gets its name.

mod digest;
mod error;
mod files;
mod rows;
mod sort;

pub use error::CompactError;

use super::buckets::{Buckets, OrderFacts, BUCKETS_MAX};
use super::handle::Run;
use super::recover::{copy_checkpoints, new_id};
use crate::log::{sync_folder, BlockKind, Column, Manifest, MANIFEST_FILE};
use digest::Digest;
use files::Folder;
use rows::Rows;
use sort::Sorter;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// How a run is compacted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactOptions {
    /// Into how many buckets, at most [`BUCKETS_MAX`].
    pub buckets: u32,
    /// The bytes of rows that are held at most, before compression. Buffers grow by doubling, so memory may be twice
    /// that. At least 1 MiB.
    pub memory_bytes: usize,
    /// What the order of the visits says.
    pub facts: OrderFacts,
}

impl CompactOptions {
    /// This many buckets, 256 MiB of rows, and nothing known of the order.
    pub fn new(buckets: u32) -> Self {
        Self { buckets, memory_bytes: 256 << 20, facts: OrderFacts::default() }
    }
}

/// What [`Run::compact`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Visits that were written. Those that a resumption superseded are not.
    pub visits: u64,
    /// Rows of sweeps.
    pub sweeps: u64,
    /// Blocks that were written.
    pub blocks: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Visits that the original had dropped while it was recorded.
    pub dropped: u64,
}

/// The numbers of the probe sets in the new run, in the order of their names there. Those of a run of several workers
/// are in another order.
#[derive(Default)]
struct SetNumbers(Vec<u32>);

impl SetNumbers {
    /// Takes the next number for a set. Returns `false` if it has one.
    fn begin(&mut self, set: u32) -> bool {
        let is_new = !self.0.contains(&set);
        self.0.extend(is_new.then_some(set));
        is_new
    }

    /// The number of a set that has one.
    fn number(&self, set: u32) -> u32 {
        self.0.iter().position(|known| *known == set).map_or(u32::MAX, |number| number as u32)
    }
}

impl Run {
    /// Writes the run anew at `to`, sorted by buckets of examples. `progress` is called with the bytes of each block
    /// that is read, and of each that is read back.
    ///
    /// A call whose process dies leaves a folder `.NAME.compacting` beside `to`. The next call for the same `to`
    /// deletes it and starts over.
    ///
    /// # Errors
    /// [`CompactError`]; then nothing is at `to`. Damage is an error: recover the run first.
    ///
    /// # Cost
    /// Reads the run once, writes it once, and reads what it wrote twice: its checksums, then its rows. Memory:
    /// `memory_bytes` of rows, up to twice, and a few blocks; of several workers two blocks of each.
    pub fn compact(
        &self,
        to: impl AsRef<Path>,
        options: &CompactOptions,
        mut progress: impl FnMut(u64),
    ) -> Result<CompactReport, CompactError> {
        let to = to.as_ref();
        if options.buckets == 0 || options.buckets > BUCKETS_MAX {
            return Err(CompactError::Buckets { given: options.buckets });
        }
        self.refuse_compacted("another compaction")?;
        if to.symlink_metadata().is_ok() {
            return Err(CompactError::Exists { path: to.to_owned() });
        }
        if self.lock_is_held()? {
            return Err(CompactError::BeingWritten { path: self.dir().to_owned() });
        }
        let folder = Folder::begin(to)?;
        let (mut read, mut report) = (Digest::default(), CompactReport::default());
        let is_finished = self.copy(&folder, options, (&mut read, &mut report), &mut progress)?;
        self.finish(&folder, options, is_finished, &mut report)?;
        let written = Run::open_one(&folder.path)?;
        copy_checkpoints(&folder.path, self).map_err(|error| CompactError::Checkpoints(error.to_string()))?;
        written.read_back(&read, &mut progress).map_err(|why| CompactError::Unsound { path: to.to_owned(), why })?;
        folder.rename(to)?;
        Ok(report)
    }

    /// Copies the rows: visits and sweeps into buckets, all others in front of them. Says whether the run was finished.
    fn copy(
        &self,
        folder: &Folder,
        options: &CompactOptions,
        (read, report): (&mut Digest, &mut CompactReport),
        progress: &mut impl FnMut(u64),
    ) -> Result<bool, CompactError> {
        let mut sorter = Sorter::new(folder, options);
        let (mut is_finished, mut sets) = (false, SetNumbers::default());
        let several = !self.parts().is_empty();
        let mut scan = self.scan();
        for block in scan.by_ref() {
            progress(block.bytes());
            match block.kind() {
                Some(BlockKind::End) => {
                    is_finished = true;
                    continue;
                }
                Some(kind) => {
                    is_finished &= !block.reopens_run();
                    // Of several workers, the rows of a higher rank are later ones.
                    if several && kind == BlockKind::Sweeps {
                        continue;
                    }
                    // Each worker names its sets. A set that several name is one set of the run.
                    if kind == BlockKind::ProbeSet && !sets.begin(block.united_set()?) {
                        continue;
                    }
                    let mut rows = Rows::read(&block)?;
                    rows.number_sets(|set| sets.number(set));
                    read.add(&rows);
                    match kind {
                        BlockKind::Visits => {
                            report.visits += rows.count as u64;
                            sorter.add_visits(rows)?;
                        }
                        BlockKind::Sweeps => {
                            report.sweeps += rows.count as u64;
                            sorter.add_sweeps(rows)?;
                        }
                        _ => {
                            if kind == BlockKind::Gaps {
                                let dropped = block.u64s(Column::Dropped)?;
                                report.dropped = dropped.into_iter().fold(report.dropped, u64::saturating_add);
                            }
                            sorter.add_common(&rows)?;
                        }
                    }
                }
                None => return Err(CompactError::UnknownKind { path: self.dir().to_owned(), kind: block.header.kind }),
            }
        }
        if let Some(damage) = scan.damage()? {
            return Err(CompactError::Damaged(damage.clone()));
        }
        for part in self.parts() {
            let mut scan = part.part_scan();
            for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Sweeps)) {
                let rows = Rows::read(&block)?;
                read.add(&rows);
                report.sweeps += rows.count as u64;
                sorter.add_sweeps(rows)?;
            }
            scan.damage()?;
        }
        sorter.finish()?;
        Ok(is_finished)
    }

    /// Numbers the blocks, and writes the segment behind all buckets and the manifest.
    fn finish(
        &self,
        folder: &Folder,
        options: &CompactOptions,
        is_finished: bool,
        report: &mut CompactReport,
    ) -> Result<(), CompactError> {
        let run_id = new_id();
        let mut sequence = 0;
        let mut first_blocks = Vec::with_capacity(options.buckets as usize + 1);
        for segment in 0..=options.buckets {
            sequence = folder.seal_segment(segment, run_id, sequence, &mut report.bytes)?;
            first_blocks.push(sequence);
        }
        if is_finished {
            folder.write_end(options.buckets + 1, (report.visits, report.dropped))?;
        }
        report.blocks = folder.seal_segment(options.buckets + 1, run_id, sequence, &mut report.bytes)?;
        let source = self.manifest().run_id;
        let buckets = Buckets { source, first_blocks, facts: options.facts };
        let mut manifest = Manifest { run_id, worker: None, ..self.manifest().clone() };
        let id: String = source.iter().map(|byte| format!("{byte:02x}")).collect();
        let (count, version) = (options.buckets, env!("CARGO_PKG_VERSION"));
        manifest.notes.push(("compacted".into(), format!("from run {id} by gradlog {version}, in {count} buckets")));
        let encode = |error: crate::log::DecodeError| CompactError::Write(error.into());
        manifest.extensions.push(buckets.to_extension().map_err(encode)?);
        manifest.extensions.sort_by_key(|field| field.tag);
        let (path, bytes) = (folder.path.join(MANIFEST_FILE), manifest.to_bytes().map_err(encode)?);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            sync_folder(&path)
        };
        write().map_err(|error| CompactError::Folder { action: "write", path: path.clone(), error })
    }

    /// Reads a compacted run and compares it with what was to be written.
    fn read_back(&self, expected: &Digest, progress: &mut impl FnMut(u64)) -> Result<(), String> {
        let report = self.verify_with(&mut *progress).map_err(|error| error.to_string())?;
        if let Some(damage) = report.damage {
            return Err(damage.to_string());
        }
        let mut found = Digest::default();
        let mut scan = self.scan();
        for block in scan.by_ref() {
            if block.kind() != Some(BlockKind::End) {
                found.add(&Rows::read(&block).map_err(|error| error.to_string())?.without_bucket());
            }
        }
        if let Some(damage) = scan.damage().map_err(|error| error.to_string())? {
            return Err(damage.to_string());
        }
        match found == *expected {
            true => Ok(()),
            false => Err(format!("{found} were read back of {expected}")),
        }
    }
}
