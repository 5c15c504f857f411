//! What examples look like: a thumbnail, a text or a row of each, once, for those who read the log (FORMAT.md,
//! "Cards").
//!
//! The training thread makes cards small and keeps a bounded number of them; they go to the background thread in
//! batches.

mod book;
mod card;
mod limits;
mod rows;
mod thumbnail;

pub use card::Card;
pub use limits::CardLimits;

pub(super) use book::{CardBook, PastCards};
pub(super) use rows::{card_blocks, CardKey, CardRow};
