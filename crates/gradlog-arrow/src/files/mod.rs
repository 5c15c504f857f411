//! Tables in files.

mod row_groups;
#[cfg(test)]
mod tests;
mod writer;

pub use writer::{FileFormat, TableWriter};
