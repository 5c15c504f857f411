//! A compacted run: its visits lie by buckets of examples (FORMAT.md, "Buckets").

use super::error::ReadError;
use super::handle::Run;
use crate::log::codec::{self, DecodeError};
use crate::log::{Extension, Manifest};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The tag of the manifest's field.
const TAG_BUCKETS: u16 = 3;

/// The most buckets of a run.
pub const BUCKETS_MAX: u32 = 1 << 16;

/// What a compacted run says of its buckets, in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Buckets {
    /// The id of the run that was compacted.
    pub source: [u8; 16],
    /// Number of the first block of each bucket, and last that of the first block behind all buckets.
    pub first_blocks: Vec<u64>,
    /// What the order of the visits said before they were sorted.
    pub facts: OrderFacts,
}

/// What a reader finds by the order of the visits, and could not find in a compacted run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderFacts {
    /// Whether examples among the first visits have several labels.
    pub several_labels: bool,
    /// Where a later step has a smaller epoch: the first such step, the epoch before it, its own.
    pub epochs_back: Option<(u64, u32, u32)>,
}

impl Buckets {
    /// How many buckets there are.
    pub fn count(&self) -> u32 {
        // It was checked when it was read.
        self.first_blocks.len().saturating_sub(1) as u32
    }

    /// The buckets that hold examples of share `number` of `of`, counted from 0.
    pub fn of_share(&self, number: u32, of: u32) -> Vec<bool> {
        // An example of hash h is in bucket h mod count and in share h mod of.
        let common = gcd(self.count().max(1), of.max(1));
        (0..self.count()).map(|bucket| bucket % common == number % common).collect()
    }

    pub(super) fn to_extension(&self) -> Result<Extension, DecodeError> {
        Ok(Extension { tag: TAG_BUCKETS, bytes: codec::encode(self)? })
    }

    fn is_sound(&self) -> bool {
        (2..=BUCKETS_MAX as usize + 1).contains(&self.first_blocks.len()) && self.first_blocks.is_sorted()
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

impl Manifest {
    /// What the run says of its buckets. `None` for a run that is not compacted.
    ///
    /// # Errors
    /// What is wrong with the field, in words.
    pub(super) fn buckets(&self) -> Result<Option<Buckets>, String> {
        let Some(field) = self.extensions.iter().find(|field| field.tag == TAG_BUCKETS) else { return Ok(None) };
        let buckets: Buckets = codec::decode(&field.bytes).map_err(|error| error.to_string())?;
        if !buckets.is_sound() {
            return Err("numbers of blocks that no run has".into());
        }
        Ok(Some(buckets))
    }
}

/// Which segments of a compacted run a scan reads.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// Of each bucket, whether it is read; empty for all.
    buckets: Arc<Vec<bool>>,
    /// Whether segments without buckets are left out.
    buckets_alone: bool,
}

impl View {
    /// Where a scan goes on that comes to segment `next` and block `sequence`: past the segments that are not read.
    /// `None` if none follows.
    pub(super) fn next(&self, buckets: Option<&Buckets>, next: u32, sequence: u64) -> Option<(u32, u64)> {
        let Some(buckets) = buckets else { return Some((next, sequence)) };
        let (mut next, mut sequence) = (next, sequence);
        let count = buckets.count();
        if next == 0 && self.buckets_alone {
            (next, sequence) = (1, buckets.first_blocks[0]);
        }
        while next >= 1 && next <= count && self.buckets.get(next as usize - 1) == Some(&false) {
            sequence = buckets.first_blocks[next as usize];
            next += 1;
        }
        (!(self.buckets_alone && next > count)).then_some((next, sequence))
    }
}

impl Run {
    /// The run, with the blocks of one bucket alone and none that are in no bucket.
    ///
    /// # Panics
    /// If the run has no such bucket.
    pub fn bucket(&self, number: u32) -> Run {
        let count = self.buckets().map_or(0, Buckets::count);
        assert!(number < count, "no such bucket");
        let buckets = Arc::new((0..count).map(|bucket| bucket == number).collect());
        self.clone().with_view(View { buckets, buckets_alone: true })
    }

    /// The run, without buckets that hold no example of share `number` of `of`, counted from 0. A run that is not
    /// compacted stays as it is.
    #[must_use]
    pub fn with_share(self, number: u32, of: u32) -> Run {
        let Some(buckets) = self.buckets() else { return self };
        let buckets = Arc::new(buckets.of_share(number, of));
        self.with_view(View { buckets, buckets_alone: false })
    }

    /// The numbers of the buckets that scans read.
    pub fn read_buckets(&self) -> impl Iterator<Item = u32> + '_ {
        let count = self.buckets().map_or(0, Buckets::count);
        (0..count).filter(|bucket| self.view.buckets.get(*bucket as usize) != Some(&false))
    }

    /// Refuses a compacted run, for what needs the order of the recording.
    ///
    /// # Errors
    /// [`ReadError::Compacted`].
    pub fn refuse_compacted(&self, what: &'static str) -> Result<(), ReadError> {
        match self.buckets() {
            None => Ok(()),
            Some(_) => Err(ReadError::Compacted { path: self.dir().to_owned(), what }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::example_bucket;

    #[test]
    fn a_share_reads_the_buckets_that_hold_its_examples() {
        for (count, of) in [(1, 1), (4, 2), (4, 4), (6, 4), (5, 3), (8, 16)] {
            let buckets = Buckets {
                source: [0; 16],
                first_blocks: (0..=u64::from(count)).collect(),
                facts: OrderFacts::default(),
            };
            for example in 0..2000 {
                let share = example_bucket(example, of);
                assert!(buckets.of_share(share, of)[example_bucket(example, count) as usize], "{count} {of}");
            }
            let read: usize = (0..of).map(|share| buckets.of_share(share, of).iter().filter(|one| **one).count()).sum();
            assert_eq!(read as u32, of * count / gcd(count, of), "{count} {of}");
        }
    }
}
