//! Copies a run to an object store, also while it is recorded.
//!
//! A recorder closes a segment before it begins the next one. So all segments but the last can leave the machine while
//! the training goes on, and the last one when the recorder has ended. Manifests go first, then the checkpoints, then
//! segments in the order of their numbers. A file appears in the store when it is whole. So whoever reads the address
//! sees a prefix of the run, at any time.
//!
//! Nothing is deleted, and no segment is replaced. A file that is there and equal is not sent again: a copy that was
//! interrupted goes on where it was.

mod files;
mod send;

use crate::client::{path_of, Requests};
use crate::error::StoreError;
use crate::options::Options;
use crate::store::Store;
use files::{find, is_finished, Files, Found, Kind};
use gradlog_format::run::ReadError;
use send::{digest, Copy, There};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often a copy that follows a run tries again after a failure, once the recorder has ended.
const FAILURES_MAX: u32 = 10;

/// Copies a run to an object store.
///
/// ```no_run
/// # use gradlog_store::{Sync, SyncEvent};
/// # use std::time::Duration;
/// let report = Sync::new("runs/mnist", "s3://bucket/mnist").follow(Duration::from_secs(10)).run(|event| {
///     if let SyncEvent::Sent { path, bytes } = event {
///         println!("{}: {bytes} bytes", path.display());
///     }
/// })?;
/// assert!(report.finished);
/// # Ok::<(), gradlog_store::StoreError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sync {
    run: PathBuf,
    address: PathBuf,
    options: Options,
    follow: Option<Duration>,
    appear_max: Duration,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncReport {
    /// Files that were sent.
    pub sent_files: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Files that were there already, and equal.
    pub equal_files: u64,
    /// Segments that a recorder still writes to. They were not copied.
    pub open_segments: Vec<PathBuf>,
    /// Whether every recorder had finished the run. If not, a later copy may find more.
    pub finished: bool,
    /// What was asked of the store.
    pub requests: Requests,
}

/// What happens while a run is copied.
#[derive(Debug)]
#[non_exhaustive]
pub enum SyncEvent<'a> {
    /// A file was sent and read back.
    Sent {
        /// The file in the store.
        path: &'a Path,
        /// Its length.
        bytes: u64,
    },
    /// The run has not begun yet.
    WaitsForRun,
    /// The store could not be reached. It is tried again.
    TriesAgain {
        /// Why.
        error: &'a StoreError,
    },
}

/// What one look at the run came to.
struct Pass {
    is_recording: bool,
    open: Vec<PathBuf>,
}

/// What is known of files that were sent or found equal: length and time of the last change on this machine.
type Done = HashSet<(PathBuf, u64, Option<SystemTime>)>;

impl Sync {
    /// A copy of the run in the folder `run` to the address `address`.
    pub fn new(run: impl Into<PathBuf>, address: impl Into<PathBuf>) -> Self {
        let (options, appear_max) = (Options::default(), Duration::from_secs(600));
        Self { run: run.into(), address: address.into(), options, follow: None, appear_max }
    }

    /// Bounds of requests, memory and waiting.
    pub fn options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Goes on until the recorder has ended, and looks for new segments at this interval. A run that has not begun yet
    /// is waited for ([`Sync::appear_max`]).
    pub fn follow(self, interval: Duration) -> Self {
        Self { follow: Some(interval), ..self }
    }

    /// How long a copy that follows waits for a run that has not begun. Default 10 minutes.
    pub fn appear_max(self, appear_max: Duration) -> Self {
        Self { appear_max, ..self }
    }

    /// Copies, and says meanwhile what happens.
    ///
    /// # Errors
    /// [`StoreError`]. What was sent until then stays, and reads as a prefix of the run.
    ///
    /// # Cost
    /// Every file that is sent is read twice on this machine, sent once, and read back once. A file that was there is
    /// read once on this machine, and costs one request. Memory: four parts of a file, of 8 MiB each for files below
    /// 72 GB.
    pub fn run(&self, mut told: impl FnMut(SyncEvent<'_>)) -> Result<SyncReport, StoreError> {
        let store = Store::open(&self.address, self.options.clone())?;
        let mut report = SyncReport::default();
        let mut done = Done::new();
        let started = Instant::now();
        let (mut failures, mut has_worked) = (0, false);
        loop {
            let Some(files) = find(&self.run)? else {
                match self.follow.filter(|_| started.elapsed() < self.appear_max) {
                    None => {
                        let why = "it has no file `manifest`, and no folder of a worker with one".into();
                        return Err(ReadError::NotARun { path: self.run.clone(), why }.into());
                    }
                    Some(interval) => {
                        told(SyncEvent::WaitsForRun);
                        std::thread::sleep(interval);
                        continue;
                    }
                }
            };
            let is_recording = files.is_recording;
            match self.copy_all(&store, files, &mut done, &mut report, &mut told) {
                Ok(pass) => {
                    (failures, has_worked) = (0, true);
                    report.open_segments = pass.open;
                    if !pass.is_recording || self.follow.is_none() {
                        break;
                    }
                }
                // Credentials or an address that never worked are no failure of a moment.
                Err(error) if error.is_transient() && self.follow.is_some() && has_worked => {
                    failures += u32::from(!is_recording);
                    if failures > FAILURES_MAX {
                        return Err(error);
                    }
                    told(SyncEvent::TriesAgain { error: &error });
                }
                Err(error) => return Err(error),
            }
            std::thread::sleep(self.follow.unwrap_or_default());
        }
        report.finished = report.open_segments.is_empty() && is_finished(&self.run)?;
        report.requests = store.requests();
        Ok(report)
    }

    fn copy_all(
        &self,
        store: &Store,
        files: Files,
        done: &mut Done,
        report: &mut SyncReport,
        told: &mut impl FnMut(SyncEvent<'_>),
    ) -> Result<Pass, StoreError> {
        let Files { found, open, is_recording } = files;
        for file in found {
            let about = std::fs::metadata(&file.path).map_err(files::local(&file.path))?;
            let state = (file.path.clone(), about.len(), about.modified().ok());
            if done.contains(&state) {
                continue;
            }
            self.copy(store, &file, report, told)?;
            done.insert(state);
        }
        Ok(Pass { is_recording, open })
    }

    /// Copies a file unless it is there and equal.
    fn copy(
        &self,
        store: &Store,
        file: &Found,
        report: &mut SyncReport,
        told: &mut impl FnMut(SyncEvent<'_>),
    ) -> Result<(), StoreError> {
        let client = store.client();
        let inside = file.path.strip_prefix(&self.run).unwrap_or(&file.path);
        let names: Vec<&str> = inside.iter().filter_map(|name| name.to_str()).collect();
        let remote = path_of(store.root(), &names.join("/"));
        let Some(key) = store.address.key(&remote) else {
            let what = format!("{} has no place in it", file.path.display());
            return Err(StoreError::Address { address: self.address.clone(), what });
        };
        let copy = Copy { local: file.path.clone(), key, remote };
        let expected = digest(&file.path)?;
        match (copy.look(client, &expected)?, file.kind) {
            (There::Same, _) => {
                report.equal_files += 1;
                return Ok(());
            }
            (There::Other(_), Kind::Manifest) => return Err(StoreError::OtherRun { address: store.root().to_owned() }),
            (There::Other(what), Kind::Segment) => {
                return Err(StoreError::Differs { local: copy.local, remote: copy.remote, what });
            }
            // A later checkpoint of a step replaces an earlier one, there as here.
            (There::Other(_), Kind::Checkpoint) | (There::Nothing, _) => {}
        }
        match copy.send(client, &expected) {
            // Something on the way changed a byte.
            Err(StoreError::Unsound { .. }) => copy.send(client, &expected)?,
            sent => sent?,
        }
        report.sent_files += 1;
        report.sent_bytes += expected.bytes;
        told(SyncEvent::Sent { path: &copy.remote, bytes: expected.bytes });
        Ok(())
    }
}
