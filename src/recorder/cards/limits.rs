//! How much of what examples look like goes into a log.

use crate::recorder::error::RecordError;
use gradlog_format::log::CARD_BYTES_MAX;

/// What a row of the log has beside a card's own bytes.
pub(super) const ROW_BYTES: u64 = 32;

/// How many cards a run takes, and how large they may be. [`Recorder::describe`](crate::Recorder::describe) refuses and
/// counts what is beyond. [`Cost::card_bytes_max`](crate::Cost) has their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CardLimits {
    /// Bytes of one card: pixels of a thumbnail, a text, or the names and values of a row with 8 bytes a cell. At most
    /// 2^20. Default 16 KiB. A color thumbnail of 64 × 64 pixels has 12 KiB.
    pub bytes_each: usize,
    /// Bytes of all cards of the run before compression, with 32 bytes beside each. Default 64 MiB.
    pub bytes_total: u64,
    /// Cards of the run, at most 2^24. The recorder remembers which examples it has described, in 16 to 40 bytes each.
    /// Default 100,000.
    pub count: usize,
}

impl Default for CardLimits {
    fn default() -> Self {
        Self { bytes_each: 16 << 10, bytes_total: 64 << 20, count: 100_000 }
    }
}

impl CardLimits {
    /// Sets [`CardLimits::bytes_each`].
    #[must_use]
    pub fn bytes_each(self, bytes: usize) -> Self {
        Self { bytes_each: bytes, ..self }
    }

    /// Sets [`CardLimits::bytes_total`].
    #[must_use]
    pub fn bytes_total(self, bytes: u64) -> Self {
        Self { bytes_total: bytes, ..self }
    }

    /// Sets [`CardLimits::count`].
    #[must_use]
    pub fn count(self, count: usize) -> Self {
        Self { count, ..self }
    }

    pub(in crate::recorder) fn check(&self) -> Result<(), RecordError> {
        if self.bytes_each > CARD_BYTES_MAX {
            return Err(RecordError::Config(format!("`cards.bytes_each` is {}: give at most 2^20", self.bytes_each)));
        }
        if self.count > 1 << 24 {
            return Err(RecordError::Config(format!("`cards.count` is {}: give at most 2^24", self.count)));
        }
        Ok(())
    }
}
