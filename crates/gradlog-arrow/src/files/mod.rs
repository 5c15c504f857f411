//! Tables in files.

#[cfg(test)]
mod tests;
mod writer;

pub use writer::{FileFormat, TableWriter};
