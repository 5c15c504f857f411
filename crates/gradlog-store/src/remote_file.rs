//! A file in a store, read at positions like one on a disk.
//!
//! Reads are rounded to pages, and missing pages that lie side by side are one request. Whoever reads a file from front
//! to back is read ahead for. Blocks of a run are of similar length, so that the header of the next ones can be guessed
//! from those of the last two: a scan that reads headers alone does not wait for each of them in turn.

use crate::cache::{Cache, Coming, Fetch, PAGE_BYTES};
use crate::client::{runtime, Client, Version};
use bytes::Bytes;
use futures_util::future::FutureExt;
use gradlog_format::run::ReadAt;
use object_store::path::Path as Key;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How much is read ahead of somebody who has read this much in a row, and at most.
const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// Whoever has read less than this in a row is not read ahead for: that may be one column of many.
const ROW_BYTES_MIN: u64 = 1 << 20;
/// How many headers are fetched ahead.
const HEADERS_AHEAD: u64 = 8;
/// The most bytes of one read that are fetched at a time.
const READ_BYTES_MAX: u64 = 32 << 20;
/// Announced ranges with less than this between them are one.
const GAP_PAGES: u64 = 1;

/// What all files of a store share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) cache: Cache,
    /// The first refusal. From then on everything is refused: some readers take a scan that was refused for one that
    /// ended, and say nothing. So the next read fails, and an answer with a part of the rows is never given.
    failed: OnceLock<(io::ErrorKind, String)>,
}

impl Shared {
    pub(crate) fn new(client: Client, cache: Cache) -> Self {
        Self { client, cache, failed: OnceLock::new() }
    }

    /// The first refusal, if there was one.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        self.failed.get().map(|(kind, text)| io::Error::new(*kind, text.clone()))
    }

    /// Asks, unless something was refused before.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        ask().inspect_err(|error| {
            let _ = self.failed.set((error.kind(), error.to_string()));
        })
    }
}

/// How a file is being read.
#[derive(Debug, Default)]
struct Progress {
    /// The page after the last one that was read.
    next: u64,
    /// Bytes that were read in a row up to there.
    row_bytes: u64,
    /// The page after the last one that was read ahead.
    ahead: u64,
    /// Where the last announced header lies.
    header: u64,
}

/// A file of a run in a store.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    shared: Arc<Shared>,
    key: Key,
    number: u64,
    bytes: u64,
    version: Arc<OnceLock<Version>>,
    progress: Mutex<Progress>,
}

impl RemoteFile {
    pub(crate) fn new(shared: Arc<Shared>, key: Key, number: u64, bytes: u64) -> Self {
        Self { shared, key, number, bytes, version: Arc::default(), progress: Mutex::default() }
    }

    /// The page after the last one.
    fn pages_end(&self) -> u64 {
        self.bytes.div_ceil(PAGE_BYTES)
    }

    fn request_pages(&self) -> u64 {
        (self.shared.client.options.request_bytes / PAGE_BYTES).max(1)
    }

    /// The fetches of some pages, those that are missing begun.
    fn fetches(&self, pages: Range<u64>, is_read: bool) -> io::Result<Vec<Arc<Fetch>>> {
        let mut found: Vec<Arc<Fetch>> = Vec::new();
        let mut page = pages.start;
        while page < pages.end {
            let fetch = match self.shared.cache.find(self.number, page, is_read) {
                Some(fetch) => fetch,
                None => {
                    let missing = (page..pages.end).take(self.request_pages() as usize);
                    let missing = missing.take_while(|next| {
                        *next == page || self.shared.cache.find(self.number, *next, false).is_none()
                    });
                    let fetch = self.begin(page..page + missing.count() as u64)?;
                    self.shared.cache.keep(fetch.clone(), is_read);
                    fetch
                }
            };
            page = fetch.pages.end;
            found.push(fetch);
        }
        Ok(found)
    }

    fn begin(&self, pages: Range<u64>) -> io::Result<Arc<Fetch>> {
        let range = pages.start * PAGE_BYTES..(pages.end * PAGE_BYTES).min(self.bytes);
        let bytes = range.end - range.start;
        let (shared, key) = (self.shared.clone(), self.key.clone());
        let (version, file_bytes) = (self.version.clone(), self.bytes);
        // It goes on, whether somebody waits for it or not.
        let task = runtime()?.spawn(async move { shared.client.read(&key, range, &version, file_bytes).await });
        let coming: Coming = async move {
            match task.await {
                Ok(read) => read.map_err(Arc::new),
                Err(error) => Err(Arc::new(io::Error::other(error.to_string()))),
            }
        }
        .boxed()
        .shared();
        Ok(Arc::new(Fetch { file: self.number, pages, bytes, coming }))
    }

    /// Begins to fetch pages that are not here, as far as there is room for what nobody has asked for yet.
    fn fetch_ahead(&self, pages: Range<u64>) {
        let room = self.shared.cache.room_ahead() / PAGE_BYTES;
        let end = pages.end.min(self.pages_end()).min(pages.start.saturating_add(room));
        if pages.start < end {
            // An error shows when the bytes are read.
            let _ = self.fetches(pages.start..end, false);
        }
    }

    /// Which pages to fetch ahead of somebody who reads `pages`.
    fn pages_ahead(&self, pages: &Range<u64>) -> Range<u64> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let continues = pages.start <= progress.next && progress.next <= pages.end + 1;
        if !continues {
            (progress.row_bytes, progress.ahead) = (0, pages.end);
        }
        if !continues || pages.end > progress.next {
            let new = pages.end - if continues { progress.next.max(pages.start) } else { pages.start };
            progress.row_bytes = progress.row_bytes.saturating_add(new * PAGE_BYTES);
            progress.next = pages.end;
        }
        progress.ahead = progress.ahead.max(pages.end);
        if progress.row_bytes < ROW_BYTES_MIN {
            return 0..0;
        }
        let window = progress.row_bytes.min(AHEAD_BYTES_MAX) / PAGE_BYTES;
        // Few long requests are better than many short ones.
        if progress.ahead > progress.next + window / 2 {
            return 0..0;
        }
        let ahead = progress.ahead..(progress.next + window).min(self.pages_end());
        progress.ahead = progress.ahead.max(ahead.end);
        ahead
    }

    /// The bytes of a fetch, waited for. A failed one is asked for again once, for it may have failed a while ago.
    fn wait(&self, fetch: &Arc<Fetch>) -> io::Result<Bytes> {
        let wait = |fetch: &Fetch| runtime().map(|runtime| runtime.block_on(fetch.coming.clone()));
        let was_here = fetch.coming.peek().is_some();
        let error = match wait(fetch)? {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        self.shared.cache.forget(fetch);
        if was_here {
            let again = self.begin(fetch.pages.clone())?;
            if let Ok(bytes) = wait(&again)? {
                self.shared.cache.keep(again, true);
                return Ok(bytes);
            }
        }
        Err(io::Error::new(error.kind(), error.to_string()))
    }
}

fn pages_of(range: Range<u64>) -> Range<u64> {
    range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)
}

impl ReadAt for RemoteFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.bytes);
        // The words of the standard library, so that damage is reported alike everywhere.
        let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "failed to fill whole buffer"))?;
        let mut from = offset;
        while from < end {
            let to = end.min(from + READ_BYTES_MAX);
            let pages = pages_of(from..to);
            let ahead = self.pages_ahead(&pages);
            let fetches = self.shared.ask(|| self.fetches(pages, true))?;
            if !ahead.is_empty() {
                self.fetch_ahead(ahead);
            }
            for fetch in fetches {
                let bytes = self.shared.ask(|| self.wait(&fetch))?;
                let start = fetch.pages.start * PAGE_BYTES;
                let (first, last) = (from.max(start), to.min(start + bytes.len() as u64));
                let target = &mut out[(first - offset) as usize..(last - offset) as usize];
                target.copy_from_slice(&bytes[(first - start) as usize..(last - start) as usize]);
            }
            from = to;
        }
        Ok(())
    }

    fn announce(&self, ranges: &[Range<u64>]) {
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges.iter().filter(|range| range.start < range.end.min(self.bytes)) {
            let pages = pages_of(range.clone());
            match joined.last_mut() {
                Some(last) if pages.start >= last.start && pages.start <= last.end + GAP_PAGES => {
                    last.end = last.end.max(pages.end);
                }
                _ => joined.push(pages),
            }
        }
        joined.into_iter().for_each(|pages| self.fetch_ahead(pages));
    }

    fn announce_header(&self, offset: u64) {
        let stride = {
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            let last = std::mem::replace(&mut progress.header, offset);
            offset.saturating_sub(last)
        };
        // Where blocks are short, pages hold several, and a scan is read ahead for.
        let ahead = if stride > 2 * PAGE_BYTES { HEADERS_AHEAD } else { 1 };
        for place in (0..ahead).map(|number| offset.saturating_add(number.saturating_mul(stride))) {
            let page = place / PAGE_BYTES;
            self.fetch_ahead(page..page + 1);
        }
    }
}
