//! The page of `gradlog report`: one file that a browser opens without a network.
//!
//! Rust gathers, JavaScript draws. A part is the answer to one or two questions of `gradlog_analysis` as JSON
//! (`parts/`), a card is what stands for an example: a picture, a text or a row (`data/`). `assemble` puts parts, cards
//! and the files under `web/` into one HTML file. Nothing is computed here, and nothing of a run reaches the page but
//! as JSON.

pub(crate) mod arrays;
pub(crate) mod assemble;
pub(crate) mod cards;
pub(crate) mod chosen;
pub(crate) mod data;
pub(crate) mod limits;
pub(crate) mod parts;
pub(crate) mod sheet;
#[cfg(test)]
mod tests;
