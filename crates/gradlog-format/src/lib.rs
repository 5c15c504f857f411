//! What gradlog writes and reads back: sketches, the file format, its writer and its reader.
//!
//! | module | question |
//! |---|---|
//! | [`sketch`] | How does a short vector stand for a whole gradient? |
//! | [`log`] | Which bytes? Specified in `FORMAT.md` |
//! | [`run`] | What is in this folder, and how far can it be trusted? |
//!
//! Knows neither candle nor scores.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod log;
pub mod run;
pub mod sketch;
