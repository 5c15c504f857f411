//! Answers of the analyzer as record batches.

mod batches;
mod example;
mod gradients;
mod influence;
mod lists;
mod scores;
mod table;
#[cfg(test)]
mod tests;
mod value;
mod vectors;

pub use batches::BatchBuilder;
pub use scores::ScoredExample;
pub use table::AnswerTable;
pub use value::Value;
pub use vectors::{VectorNumbers, VectorTable};
