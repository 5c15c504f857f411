//! Which examples are described, what waits for the background thread, and what is left of the limits.

use super::card::Card;
use super::limits::{CardLimits, ROW_BYTES};
use super::rows::{CardKey, CardRow};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Bytes of cards that are sent together.
const BATCH_BYTES: usize = 256 << 10;
/// Cards that are sent together.
const BATCH_CARDS: usize = 1_024;

/// The cards of a run, as the training thread knows them.
#[derive(Debug, Default)]
pub(in crate::recorder) struct CardBook {
    limits: CardLimits,
    /// At most [`CardLimits::count`].
    known: HashSet<CardKey>,
    /// Bytes of the cards that are known.
    bytes: u64,
    /// Cards that wait to be sent, their bytes, and since when.
    waiting: Vec<CardRow>,
    waiting_bytes: usize,
    since: Option<Instant>,
    /// How many were refused, and how many of these the log does not know yet.
    pub refused: u64,
    pub unsent_refused: u64,
}

/// What earlier sessions have described.
#[derive(Debug, Default)]
pub(in crate::recorder) struct PastCards {
    pub known: HashSet<CardKey>,
    pub bytes: u64,
}

impl PastCards {
    /// Adds a card, if there are fewer than `limit`.
    pub(in crate::recorder) fn add(&mut self, key: CardKey, length: u64, limit: usize) {
        self.bytes = self.bytes.saturating_add(length.saturating_add(ROW_BYTES));
        if self.known.len() < limit {
            self.known.insert(key);
        }
    }
}

impl CardBook {
    pub(in crate::recorder) fn new(limits: CardLimits, past: PastCards) -> Self {
        Self { limits, known: past.known, bytes: past.bytes, ..Self::default() }
    }

    pub(in crate::recorder) fn knows(&self, key: CardKey) -> bool {
        self.known.contains(&key)
    }

    /// The most bytes of all cards.
    pub(in crate::recorder) fn bytes_max(&self) -> u64 {
        // A card has at least the bytes of its row, and at most those of one more.
        let most = (self.limits.bytes_each as u64 + ROW_BYTES).saturating_mul(self.limits.count as u64);
        self.limits.bytes_total.min(most)
    }

    /// How many examples are described.
    pub(in crate::recorder) fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// Takes a card of an example that is not known yet.
    ///
    /// # Errors
    /// Why it is refused, in words. It is counted.
    pub(in crate::recorder) fn take(&mut self, key: CardKey, card: Card) -> Result<(), String> {
        let taken = self.check_room().and_then(|()| card.into_row(key, &self.limits));
        let row = match taken {
            Ok(row) if self.bytes + self.bytes_of(&row) <= self.limits.bytes_total => row,
            Ok(row) => {
                let what = format!(
                    "its {} bytes are more than `cards.bytes_total` leaves: the cards of this run have {} of {} bytes",
                    self.bytes_of(&row),
                    self.bytes,
                    self.limits.bytes_total
                );
                return self.refuse(what);
            }
            Err(what) => return self.refuse(what),
        };
        self.bytes += self.bytes_of(&row);
        self.waiting_bytes += row.bytes.len();
        self.known.insert(key);
        self.waiting.push(row);
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn bytes_of(&self, row: &CardRow) -> u64 {
        row.bytes.len() as u64 + ROW_BYTES
    }

    fn check_room(&self) -> Result<(), String> {
        match self.known.len() < self.limits.count {
            true => Ok(()),
            false => Err(format!("{} examples are described, and `cards.count` allows no more", self.known.len())),
        }
    }

    fn refuse(&mut self, what: String) -> Result<(), String> {
        self.count_refused(1);
        Err(what)
    }

    fn count_refused(&mut self, count: u64) {
        self.refused = self.refused.saturating_add(count);
        self.unsent_refused = self.unsent_refused.saturating_add(count);
    }

    /// Whether as many wait as are sent together.
    pub(in crate::recorder) fn is_batch_full(&self) -> bool {
        self.waiting_bytes >= BATCH_BYTES || self.waiting.len() >= BATCH_CARDS
    }

    /// Whether cards have waited for this long.
    pub(in crate::recorder) fn has_waited(&self, limit: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// The cards that wait, with the bytes that a queue counts.
    pub(in crate::recorder) fn take_waiting(&mut self) -> (Vec<CardRow>, usize) {
        self.since = None;
        let bytes = std::mem::take(&mut self.waiting_bytes) + self.waiting.len() * std::mem::size_of::<CardRow>();
        (std::mem::take(&mut self.waiting), bytes)
    }

    /// Forgets cards that could not be sent. They count as refused, and may be described again.
    pub(in crate::recorder) fn forget(&mut self, cards: &[(CardKey, u64)]) {
        for (key, length) in cards {
            self.known.remove(key);
            self.bytes = self.bytes.saturating_sub(length + ROW_BYTES);
        }
        self.count_refused(cards.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(example: u64) -> CardKey {
        CardKey { set: None, example }
    }

    fn text(length: usize) -> Card {
        Card::Text("x".repeat(length))
    }

    #[test]
    fn limits_refuse_and_count() {
        let limits = CardLimits::default().bytes_total(3 * (100 + ROW_BYTES)).bytes_each(200).count(4);
        let mut book = CardBook::new(limits, PastCards::default());
        for id in 0..3 {
            book.take(key(id), text(100)).unwrap();
        }
        assert!(book.take(key(3), text(1)).unwrap_err().contains("more than `cards.bytes_total` leaves"));
        assert!(book.take(key(3), text(201)).unwrap_err().contains("`cards.bytes_each` allows 200"));
        assert_eq!((book.count(), book.refused, book.unsent_refused), (3, 2, 2));
        // What could not be sent leaves its room to others.
        let (rows, _) = book.take_waiting();
        let keys: Vec<_> = rows.iter().map(|row| (row.key, row.bytes.len() as u64)).collect();
        book.forget(&keys[1..]);
        assert!(book.knows(key(0)) && !book.knows(key(1)));
        book.take(key(5), text(68)).unwrap();
        book.take(key(6), text(68)).unwrap();
        book.take(key(7), text(0)).unwrap();
        assert!(book.take(key(8), text(0)).unwrap_err().contains("`cards.count` allows no more"));
        assert_eq!((book.count(), book.refused), (4, 5));
    }

    #[test]
    fn a_set_and_an_example_are_a_key() {
        let mut past = PastCards::default();
        past.add(CardKey { set: Some(1), example: 5 }, 10, 2);
        past.add(key(5), 10, 2);
        past.add(key(6), 10, 2);
        assert_eq!((past.known.len(), past.bytes), (2, 3 * (10 + ROW_BYTES)));
        let book = CardBook::new(CardLimits::default(), past);
        assert!(book.knows(key(5)) && book.knows(CardKey { set: Some(1), example: 5 }));
        assert!(!book.knows(CardKey { set: Some(0), example: 5 }) && !book.knows(key(6)));
    }

    #[test]
    fn a_batch_is_full_by_bytes_or_by_number() {
        let mut book = CardBook::new(CardLimits::default(), PastCards::default());
        for id in 0..BATCH_CARDS as u64 {
            assert!(!book.is_batch_full());
            book.take(key(id), text(1)).unwrap();
        }
        assert!(book.is_batch_full() && book.has_waited(Duration::ZERO));
        let (rows, bytes) = book.take_waiting();
        assert!(rows.len() == BATCH_CARDS && bytes > BATCH_CARDS && !book.is_batch_full());
        assert!(!book.has_waited(Duration::ZERO));
        for id in 0..17 {
            assert_eq!(book.is_batch_full(), id == 16);
            book.take(key(10_000 + id), text(16 << 10)).unwrap();
        }
    }
}
