//! Writes a sound run from a damaged one (FORMAT.md, "Salvage").
//!
//! Blocks are copied as they are, under new sequence numbers. So what a newer version wrote into them survives. The new
//! run appears only when it is complete and synced, and has been read back.

use super::block::Block;
use super::checkpoint::{Checkpoint, CheckpointFault};
use super::error::{Damage, ReadError};
use super::handle::Run;
use super::lost::Lost;
use super::place::Held;
use super::probe_sets::SetNumbers;
use super::salvage::{sets_needed, Piece, Salvage};
use super::survey::Survey;
use super::verify::VerifyReport;
use crate::log::{check_size_limit, checkpoint_path, make_folder, sync_folder, worker_folder};
use crate::log::{BlockBuilder, BlockKind, Cells, Column, LogError, LogWriter, Totals, WriterOptions, HEADER_BYTES};
use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The longest segment of the new run. It is shorter if the run is.
const SEGMENT_BYTES_MAX: u64 = 32 << 20;

/// Why no run was recovered. Nothing is left where the new run was to be.
///
/// The text of an error includes its cause, so `source()` is always `None`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// Something is in the way.
    #[error("{path} is there already: give the name of a new folder")]
    Exists {
        /// Where the new run was to be.
        path: PathBuf,
    },
    /// A recorder writes to the damaged run.
    #[error("{path} is being written by a recorder: recover it when the recorder has ended; until then all committed blocks can be read")]
    BeingWritten {
        /// The damaged run.
        path: PathBuf,
    },
    /// The damaged run cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new run cannot be written.
    #[error("{0}; nothing was left there: make room, or give another folder")]
    Write(LogError),
    /// The new run cannot be written.
    #[error("cannot {action} {path}: {error}; nothing was left there: make room, or give another folder")]
    Folder {
        /// What was being done.
        action: &'static str,
        /// To which folder.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The new run does not read back as it was written.
    #[error("what was written for {path} does not read back: {why}; nothing was left there. If the disk is sound, please report this")]
    Unsound {
        /// Where the new run was to be.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl From<LogError> for RecoverError {
    fn from(error: LogError) -> Self {
        RecoverError::Write(error)
    }
}

/// What [`Run::recover`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoverReport {
    /// What was found in the damaged run.
    pub survey: Survey,
    /// What the new run holds, as it was read back.
    pub written: VerifyReport,
    /// Probe sets whose names are lost. They are called `lost-name-N` now.
    pub unnamed_probe_sets: u32,
}

impl Run {
    /// Writes all readable blocks of this run, also those behind damage, into a new run in the folder `to`. Reads the
    /// new run back.
    ///
    /// A lost stretch becomes a gap if its number of visits is known. So an analysis of the new run says what is
    /// missing. `to` must not exist. It appears when the new run is complete.
    ///
    /// # Errors
    /// [`RecoverError`], and then nothing is left at `to`. A loss is not an error: the report says what is lost.
    pub fn recover(&self, to: impl AsRef<Path>) -> Result<RecoverReport, RecoverError> {
        self.recover_with(to, |_| {})
    }

    /// As [`Run::recover`]. Calls `progress` with the bytes of each block twice: when the block is found and when it is
    /// copied.
    ///
    /// # Errors
    /// As [`Run::recover`].
    pub fn recover_with(
        &self,
        to: impl AsRef<Path>,
        mut progress: impl FnMut(u64),
    ) -> Result<RecoverReport, RecoverError> {
        let to = to.as_ref();
        if to.symlink_metadata().is_ok() {
            return Err(RecoverError::Exists { path: to.to_owned() });
        }
        self.refuse_compacted("a recovery")?;
        if self.lock_is_held()? {
            return Err(RecoverError::BeingWritten { path: self.dir().to_owned() });
        }
        let partial = Partial::create(to)?;
        if self.parts().is_empty() {
            let survey = self.survey_with(&mut progress)?;
            let unnamed = Copier::new(self, &survey, &partial.path)?.copy_all(&mut progress)?;
            copy_checkpoints(&partial.path, self)?;
            let written = read_back(&partial.path, to, &survey)?;
            partial.rename(to)?;
            return Ok(RecoverReport { survey, written, unnamed_probe_sets: unnamed });
        }
        // Each worker's part is recovered alone.
        let mut whole = Survey { uncounted_visits: Some(0), ..Survey::default() };
        let mut unnamed = 0;
        for part in self.parts() {
            let survey = part.survey_with(&mut progress)?;
            let folder = worker_folder(&partial.path, part.manifest().worker.map_or(0, |worker| worker.rank));
            unnamed += Copier::new(part, &survey, &folder)?.copy_all(&mut progress)?;
            copy_checkpoints(&folder, part)?;
            read_back(&folder, to, &survey)?;
            whole.merge(survey);
        }
        let written = Run::open(&partial.path)?.verify()?;
        partial.rename(to)?;
        Ok(RecoverReport { survey: whole, written, unnamed_probe_sets: unnamed })
    }
}

/// Copies the checkpoints that the new run names and whose files match the log. The others are lost in both runs.
pub(super) fn copy_checkpoints(written: &Path, from: &Run) -> Result<(), RecoverError> {
    for checkpoint in Run::open(written)?.checkpoints()? {
        let to = checkpoint.path.clone();
        let (path, place) = (checkpoint_path(from.dir(), checkpoint.step), Held(from.place().clone()));
        let source = Checkpoint { path, place, ..checkpoint };
        let (Ok(()), Some(folder)) = (source.check(), to.parent()) else { continue };
        let copy = || -> io::Result<()> {
            make_folder(folder)?;
            check_size_limit(source.bytes)?;
            let mut file = File::create(&to)?;
            source.read_chunks(|chunk| file.write_all(chunk).map_err(Uncopied::Write))?;
            file.sync_all()?;
            sync_folder(&to)
        };
        copy().map_err(|error| RecoverError::Folder { action: "copy a checkpoint to", path: to.clone(), error })?;
    }
    Ok(())
}

/// Why a checkpoint that was intact a moment ago was not copied.
enum Uncopied {
    Fault(CheckpointFault),
    Write(io::Error),
}

impl From<CheckpointFault> for Uncopied {
    fn from(fault: CheckpointFault) -> Self {
        Uncopied::Fault(fault)
    }
}

impl From<Uncopied> for io::Error {
    fn from(uncopied: Uncopied) -> Self {
        match uncopied {
            Uncopied::Fault(fault) => io::Error::other(fault.to_string()),
            Uncopied::Write(error) => error,
        }
    }
}

/// Reads the new run back.
fn read_back(written: &Path, to: &Path, survey: &Survey) -> Result<VerifyReport, RecoverError> {
    let unsound = |why: String| RecoverError::Unsound { path: to.to_owned(), why };
    let report = Run::open(written)?.verify()?;
    if let Some(Damage { what, block, .. }) = &report.damage {
        return Err(unsound(format!("block {block:?}: {what}")));
    }
    let (expected, found) = (survey.before.visits + survey.behind.visits, report.visits + report.superseded);
    if expected != found {
        return Err(unsound(format!("it has {found} visits, and {expected} were to be copied")));
    }
    Ok(report)
}

/// Writes the new run.
struct Copier<'a> {
    run: &'a Run,
    survey: &'a Survey,
    writer: LogWriter,
    sets: SetNumbers,
    unnamed: u32,
    /// Blocks that are lost so far. At most this many names of probe sets are lost.
    lost_blocks: u64,
    damaged: bool,
    /// The first place that does not say how many visits it held.
    first_uncounted: Option<usize>,
}

impl<'a> Copier<'a> {
    fn new(run: &'a Run, survey: &'a Survey, dir: &Path) -> Result<Self, RecoverError> {
        let mut manifest = run.manifest().clone();
        if !survey.is_whole() {
            let id: String = manifest.run_id.iter().map(|byte| format!("{byte:02x}")).collect();
            let places = survey.lost.iter().filter(|lost| !lost.is_nothing()).count();
            let visits = survey.lost_visits().map_or("an unknown number of".to_owned(), |visits| visits.to_string());
            let places = if places == 1 { "1 place".to_owned() } else { format!("{places} places") };
            let note = format!("from run {id} by gradlog {}: {visits} visits lost, in {places}", version());
            manifest.notes.push(("recovered".into(), note));
        }
        // The two runs number their blocks differently. A new id keeps their segments apart.
        manifest.run_id = new_id();
        let segment_bytes = survey.bytes.saturating_add(1 << 16).min(SEGMENT_BYTES_MAX);
        let writer = LogWriter::create(dir, &manifest, WriterOptions { segment_bytes, zstd_level: 1 })?;
        Ok(Self {
            run,
            survey,
            writer,
            sets: SetNumbers::default(),
            unnamed: 0,
            lost_blocks: 0,
            damaged: false,
            first_uncounted: survey.first_uncounted(),
        })
    }

    /// Copies everything and closes the new run. Returns how many probe sets lost their names.
    fn copy_all(mut self, progress: &mut impl FnMut(u64)) -> Result<u32, RecoverError> {
        let mut place = 0;
        for piece in Salvage::new(self.run)? {
            match piece? {
                Piece::Block(block) => {
                    self.copy_block(&block)?;
                    progress(block.bytes());
                }
                Piece::Lost(lost) => {
                    self.write_gap(place, &lost)?;
                    place += 1;
                }
                Piece::Resumed(step) => self.writer.mark_resumed(step)?,
            }
        }
        self.writer.begin_resumed()?;
        self.writer.finish()?;
        Ok(self.unnamed)
    }

    /// Writes a gap for the lost stretch number `place`, if its number of visits is known.
    fn write_gap(&mut self, place: usize, lost: &Lost) -> Result<(), RecoverError> {
        self.lost_blocks = self.lost_blocks.saturating_add(lost.blocks.unwrap_or(0));
        self.damaged |= !lost.is_nothing();
        // A count that is known only for several stretches together goes to the first of them.
        let uncounted = (self.first_uncounted == Some(place)).then_some(self.survey.uncounted_visits);
        let visits = lost.visits.or(uncounted.flatten()).unwrap_or(0);
        if visits == 0 {
            return Ok(());
        }
        Ok(self.writer.append_gap(lost.first_step, lost.first_epoch, visits)?)
    }

    /// Copies a block, after the names that its probe sets lack.
    fn copy_block(&mut self, block: &Block) -> Result<(), RecoverError> {
        let mut held = Totals::default();
        if let Some(below) = sets_needed(block) {
            self.name_sets(below)?;
            self.sets.next += u32::from(block.kind() == Some(BlockKind::ProbeSet));
        }
        match block.kind() {
            Some(BlockKind::Visits) => held.visits = block.rows() as u64,
            Some(BlockKind::Gaps) => {
                held.dropped = block.u64s(Column::Dropped)?.into_iter().fold(0, u64::saturating_add)
            }
            // The old totals are wrong here: this End block is made anew from what was copied.
            Some(BlockKind::End) if self.damaged => return Ok(self.writer.append_end()?),
            _ => {}
        }
        let mut unreadable = None;
        let appended = self.writer.append_sealed(&block.header, |at, out| {
            block.segment.read_at(out, block.offset + HEADER_BYTES as u64 + at).map_err(|error| {
                let kind = error.kind();
                unreadable = Some(error);
                kind.into()
            })
        });
        match unreadable {
            Some(error) => Err(ReadError::Io { path: block.segment.path.clone(), error }.into()),
            None => {
                appended?;
                self.writer.count(held);
                Ok(())
            }
        }
    }

    /// Makes up names for the probe sets below number `below` that have none, if enough blocks are lost for that.
    fn name_sets(&mut self, below: u32) -> Result<(), RecoverError> {
        for number in self.sets.make_up(below, self.lost_blocks).unwrap_or_default() {
            let name = format!("lost-name-{number}");
            let mut set = BlockBuilder::new(BlockKind::ProbeSet);
            set.u32s(Column::ProbeSet, [number]);
            set.column(Column::Name, Cells::U8, name.len() as u32).extend(name.bytes());
            set.advance(1, 0, 0);
            self.writer.append(&mut set)?;
            self.unnamed += 1;
        }
        Ok(())
    }
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// A random run id.
pub(super) fn new_id() -> [u8; 16] {
    // Each `RandomState` has random keys of its own.
    let random = || RandomState::new().build_hasher().finish().to_le_bytes();
    let mut id = [0u8; 16];
    id[..8].copy_from_slice(&random());
    id[8..].copy_from_slice(&random());
    id
}

/// The folder of the new run under a temporary name, next to its final place. It is deleted unless it is renamed.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn create(to: &Path) -> Result<Self, RecoverError> {
        let failed = |path: &Path, error| RecoverError::Folder { action: "make", path: path.to_owned(), error };
        let name = to.file_name().ok_or_else(|| failed(to, io::Error::other("this is not the name of a folder")))?;
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}.partial", std::process::id()));
        let path = to.with_file_name(partial);
        if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        }
        std::fs::create_dir(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { path })
    }

    /// Gives the folder its final name.
    fn rename(self, to: &Path) -> Result<(), RecoverError> {
        if to.symlink_metadata().is_ok() {
            return Err(RecoverError::Exists { path: to.to_owned() });
        }
        let named = std::fs::rename(&self.path, to).and_then(|()| sync_folder(to));
        named.map_err(|error| RecoverError::Folder { action: "make", path: to.to_owned(), error })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing under this name.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
