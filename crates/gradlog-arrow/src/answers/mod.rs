//! Answers of the analyzer as record batches.

#[cfg(test)]
mod tests;
mod vectors;

pub use vectors::{VectorNumbers, VectorTable};
