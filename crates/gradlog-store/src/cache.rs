//! What was read of the files of a store, in memory: bounded, and what was not used for the longest time goes first.
//!
//! Files are cut into pages. A fetch is one request for some pages of a file. It is here as soon as it is on its way,
//! so that several readers wait for one request.

use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Length of a page. A request takes some 30 ms wherever the store is, in which this much comes several times.
pub(crate) const PAGE_BYTES: u64 = 256 << 10;

/// The bytes of a fetch, once they are here. All that wait for them get the same answer.
pub(crate) type Coming = Shared<BoxFuture<'static, Result<Bytes, Arc<io::Error>>>>;

/// Some pages of a file, on their way or here.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) file: u64,
    pub(crate) pages: Range<u64>,
    /// How long it is: the last page of a file is shorter.
    pub(crate) bytes: u64,
    pub(crate) coming: Coming,
}

#[derive(Debug)]
struct Kept {
    fetch: Arc<Fetch>,
    /// Whether a reader asked for it. Otherwise it was only fetched ahead.
    is_used: bool,
    last_use: u64,
}

#[derive(Debug, Default)]
struct Inner {
    /// For each page of a file, the number of its fetch.
    pages: HashMap<(u64, u64), u64>,
    fetches: HashMap<u64, Kept>,
    /// Numbers of fetches by their last use.
    order: BTreeMap<u64, u64>,
    /// Counts fetches and uses.
    clock: u64,
    bytes: u64,
    unused_bytes: u64,
}

/// The pages of all files of a store.
#[derive(Debug)]
pub(crate) struct Cache {
    inner: Mutex<Inner>,
    bytes_max: u64,
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { inner: Mutex::default(), bytes_max }
    }

    /// The fetch of a page, if it is here or on its way. A reader that takes it uses it.
    pub(crate) fn find(&self, file: u64, page: u64, is_read: bool) -> Option<Arc<Fetch>> {
        let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        let number = *inner.pages.get(&(file, page))?;
        let kept = inner.fetches.get_mut(&number)?;
        if is_read {
            if !std::mem::replace(&mut kept.is_used, true) {
                inner.unused_bytes -= kept.fetch.bytes;
            }
            inner.clock += 1;
            inner.order.remove(&kept.last_use);
            kept.last_use = inner.clock;
            inner.order.insert(inner.clock, number);
        }
        Some(kept.fetch.clone())
    }

    /// How much more may be fetched ahead.
    pub(crate) fn room_ahead(&self) -> u64 {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (self.bytes_max / 2).saturating_sub(inner.unused_bytes)
    }

    /// Keeps a fetch, and lets go of the ones that were not used for the longest time.
    pub(crate) fn keep(&self, fetch: Arc<Fetch>, is_read: bool) {
        let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        inner.clock += 1;
        let number = inner.clock;
        fetch.pages.clone().for_each(|page| {
            inner.pages.insert((fetch.file, page), number);
        });
        inner.bytes += fetch.bytes;
        if !is_read {
            inner.unused_bytes += fetch.bytes;
        }
        inner.order.insert(number, number);
        inner.fetches.insert(number, Kept { fetch, is_used: is_read, last_use: number });
        while inner.bytes > self.bytes_max && inner.fetches.len() > 1 {
            let Some((_, oldest)) = inner.order.pop_first() else { break };
            inner.forget(oldest);
        }
    }

    /// Lets go of a fetch that failed, so that the next reader asks again.
    pub(crate) fn forget(&self, failed: &Arc<Fetch>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = inner.pages.get(&(failed.file, failed.pages.start)).copied() else { return };
        if inner.fetches.get(&number).is_some_and(|kept| Arc::ptr_eq(&kept.fetch, failed)) {
            inner.forget(number);
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.inner.lock().unwrap().bytes
    }
}

impl Inner {
    fn forget(&mut self, number: u64) {
        let Some(kept) = self.fetches.remove(&number) else { return };
        self.order.remove(&kept.last_use);
        self.bytes -= kept.fetch.bytes;
        if !kept.is_used {
            self.unused_bytes -= kept.fetch.bytes;
        }
        for page in kept.fetch.pages.clone() {
            // Another fetch may hold the page by now.
            if self.pages.get(&(kept.fetch.file, page)) == Some(&number) {
                self.pages.remove(&(kept.fetch.file, page));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn fetch(file: u64, pages: Range<u64>) -> Arc<Fetch> {
        let bytes = (pages.end - pages.start) * PAGE_BYTES;
        let coming = async { Ok(Bytes::new()) }.boxed().shared();
        Arc::new(Fetch { file, pages, bytes, coming })
    }

    #[test]
    fn it_is_bounded_and_keeps_what_was_used_last() {
        let cache = Cache::new(4 * PAGE_BYTES);
        for page in 0..4 {
            cache.keep(fetch(1, page..page + 1), true);
        }
        assert!(cache.find(1, 0, true).is_some());
        cache.keep(fetch(2, 0..2), true);
        assert_eq!(cache.bytes(), 4 * PAGE_BYTES);
        let held: Vec<u64> = (0..4).filter(|page| cache.find(1, *page, false).is_some()).collect();
        assert_eq!(held, [0, 3], "pages 1 and 2 were not used for the longest time");
        // One that is longer than all room is held alone.
        cache.keep(fetch(3, 0..9), true);
        assert_eq!(cache.bytes(), 9 * PAGE_BYTES);
        assert!(cache.find(2, 0, false).is_none() && cache.find(3, 8, false).is_some());
    }

    #[test]
    fn reading_ahead_takes_half_at_most_until_it_is_used() {
        let cache = Cache::new(8 * PAGE_BYTES);
        cache.keep(fetch(1, 0..3), false);
        assert_eq!(cache.room_ahead(), PAGE_BYTES);
        cache.find(1, 2, true);
        assert_eq!(cache.room_ahead(), 4 * PAGE_BYTES);
        cache.keep(fetch(1, 3..5), false);
        let failed = cache.find(1, 4, false).unwrap();
        cache.forget(&failed);
        assert_eq!((cache.room_ahead(), cache.bytes()), (4 * PAGE_BYTES, 3 * PAGE_BYTES));
        assert!(cache.find(1, 3, false).is_none());
        // A page that another fetch has brought since stays.
        cache.keep(fetch(1, 3..5), true);
        cache.forget(&failed);
        assert!(cache.find(1, 4, false).is_some());
    }
}
