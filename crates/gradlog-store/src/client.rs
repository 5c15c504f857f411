//! Requests, each bounded in time, and how many of them are made at once.
//!
//! The requests run on threads of this crate. Whoever asks waits for them on a thread of their own.

use crate::address::Address;
use crate::connect::connect;
use crate::error::{refusal, too_slow, wrong_answer, StoreError};
use crate::options::Options;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{Attributes, Error, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreScheme};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Threads that send requests and receive answers. They compute next to nothing.
const THREADS: usize = 2;

/// How often an answer that is not what was asked for is asked for again.
const WRONG_ANSWERS_MAX: usize = 3;

/// The runtime of all stores of this process.
///
/// # Errors
/// That of the system, if it gives no threads.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let build =
        || Builder::new_multi_thread().worker_threads(THREADS).thread_name("gradlog-store").enable_all().build();
    RUNTIME
        .get_or_init(|| build().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|why| io::Error::other(why.clone()))
}

/// What was asked of a store, and what came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requests {
    /// Requests for bytes.
    pub reads: u64,
    /// Requests for the length of a file, or for names: one for each thousand of them.
    pub looks: u64,
    /// Requests that sent bytes, the parts of a long file each.
    pub writes: u64,
    /// Bytes that came.
    pub bytes_read: u64,
    /// Bytes that were sent.
    pub bytes_written: u64,
}

#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    looks: AtomicU64,
    writes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    bytes: u64,
    /// The tag that the store gives to each version, or else the time of its last change.
    tag: String,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        let tag = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        Self { bytes: meta.size, tag }
    }
}

/// What a store says of a file.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) bytes: u64,
    pub(crate) attributes: Attributes,
}

/// A store, and the bounds of what is asked of it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Asked for names. It is another one where a server may not know such requests.
    lister: Arc<dyn ObjectStore>,
    permits: Semaphore,
    pub(crate) options: Options,
    counts: Counts,
}

impl Client {
    pub(crate) fn connect(address: &Address, options: Options) -> Result<Self, StoreError> {
        let store = connect(address, &options, options.retries)?;
        let lister = match address.scheme {
            // A plain server answers a request for names with status 501, which is no failure to wait for.
            ObjectStoreScheme::Http => connect(address, &options, 0)?,
            _ => store.clone(),
        };
        let permits = Semaphore::new(options.in_flight_max.max(1));
        Ok(Self { store, lister, permits, options, counts: Counts::default() })
    }

    pub(crate) fn requests(&self) -> Requests {
        let Counts { reads, looks, writes, bytes_read, bytes_written } = &self.counts;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            reads: count(reads),
            looks: count(looks),
            writes: count(writes),
            bytes_read: count(bytes_read),
            bytes_written: count(bytes_written),
        }
    }

    /// Waits for a request, for a bounded time.
    pub(crate) fn wait<T>(&self, request: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        runtime()?.block_on(request)
    }

    /// Makes a request when there is room for it, and gives it up after a while.
    pub(crate) async fn bounded<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> io::Result<Result<T, Error>> {
        let _permit = self.permits.acquire().await.map_err(io::Error::other)?;
        let limit = self.options.give_up_after;
        timeout(limit, request).await.map_err(|_| too_slow(limit))
    }

    /// Reads `range` of a file. All reads of one file must be of one version.
    ///
    /// # Errors
    /// A refusal, also if the file was replaced, or if other bytes come than were asked for.
    pub(crate) async fn read(
        &self,
        key: &Key,
        range: Range<u64>,
        known: &OnceLock<Version>,
        file_bytes: u64,
    ) -> io::Result<Bytes> {
        let mut wrong = None;
        for _ in 0..WRONG_ANSWERS_MAX {
            self.counts.reads.fetch_add(1, Ordering::Relaxed);
            let ask = async {
                let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
                let answer: GetResult = self.store.get_opts(key, options).await?;
                let version = Version::of(&answer.meta);
                Ok((version, answer.bytes().await?))
            };
            let (version, bytes) = self.bounded(ask).await?.map_err(|error| refusal(&error))?;
            self.counts.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if version.bytes != file_bytes || *known.get_or_init(|| version.clone()) != version {
                return Err(io::Error::other("it was replaced while it was read: open the run again"));
            }
            if bytes.len() as u64 == range.end - range.start {
                return Ok(bytes);
            }
            wrong = Some(format!("{} bytes came where {} were asked for", bytes.len(), range.end - range.start));
        }
        Err(wrong_answer(wrong.unwrap_or_default()))
    }

    /// Length and attributes of a file, or `None` if it is not there.
    pub(crate) async fn look(&self, key: &Key) -> io::Result<Option<About>> {
        self.counts.looks.fetch_add(1, Ordering::Relaxed);
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.bounded(self.store.get_opts(key, options)).await? {
            Ok(answer) => Ok(Some(About { bytes: answer.meta.size, attributes: answer.attributes })),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(refusal(&error)),
        }
    }

    /// Names below `prefix`, and the lengths of these files.
    pub(crate) async fn list(&self, prefix: &Key) -> io::Result<Vec<(Key, u64)>> {
        let mut found = Vec::new();
        let mut listed = self.lister.list(Some(prefix));
        loop {
            // A request for each thousand names.
            if found.len() % 1000 == 0 {
                self.counts.looks.fetch_add(1, Ordering::Relaxed);
            }
            match self.bounded(listed.try_next()).await? {
                Ok(Some(meta)) => found.push((meta.location, meta.size)),
                Ok(None) => return Ok(found),
                Err(error) => return Err(refusal(&error)),
            }
        }
    }

    /// Sends a short file, which appears when it is whole.
    pub(crate) async fn write(&self, key: &Key, bytes: Bytes, attributes: Attributes) -> io::Result<()> {
        self.count_write(bytes.len());
        let options = object_store::PutOptions { attributes, ..Default::default() };
        let sent = self.bounded(self.store.put_opts(key, bytes.into(), options)).await?;
        sent.map(|_| ()).map_err(|error| refusal(&error))
    }

    pub(crate) fn count_write(&self, bytes: usize) {
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The path of a file of a run at an address, for errors.
pub(crate) fn path_of(root: &std::path::Path, name: &str) -> PathBuf {
    name.split('/').fold(root.to_owned(), |path, part| path.join(part))
}
