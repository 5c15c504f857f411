//! Columns with one number a row, checked to have exactly one: a length from disk is never believed.
//!
//! # Errors
//! Those of [`Block::u8s`]; also [`ReadError::Damaged`] if a column has another number of numbers than the block has
//! rows.

use super::block::Block;
use super::error::ReadError;
use crate::log::Column;

fn check_length<T>(block: &Block, column: Column, values: Vec<T>) -> Result<Vec<T>, ReadError> {
    if values.len() == block.rows() {
        Ok(values)
    } else {
        Err(block.damaged(format!("{} numbers of {column:?} for {} rows", values.len(), block.rows())))
    }
}

/// A byte for each row.
///
/// # Errors
/// See the [module](self).
pub fn u8s(block: &Block, column: Column) -> Result<Vec<u8>, ReadError> {
    check_length(block, column, block.u8s(column)?)
}

/// A 32-bit integer for each row.
///
/// # Errors
/// See the [module](self).
pub fn u32s(block: &Block, column: Column) -> Result<Vec<u32>, ReadError> {
    check_length(block, column, block.u32s(column)?)
}

/// A 64-bit integer for each row.
///
/// # Errors
/// See the [module](self).
pub fn u64s(block: &Block, column: Column) -> Result<Vec<u64>, ReadError> {
    check_length(block, column, block.u64s(column)?)
}

/// A float for each row.
///
/// # Errors
/// See the [module](self).
pub fn f32s(block: &Block, column: Column) -> Result<Vec<f32>, ReadError> {
    check_length(block, column, block.f32s(column)?)
}

/// The column if the block has it. `read` is one of the functions above.
///
/// # Errors
/// Those of `read`.
pub fn optional<T>(
    block: &Block,
    column: Column,
    read: impl Fn(&Block, Column) -> Result<Vec<T>, ReadError>,
) -> Result<Option<Vec<T>>, ReadError> {
    block.has(column).then(|| read(block, column)).transpose()
}

/// Labels or predictions, `None` where a row has none, if the block has the column.
///
/// # Errors
/// See the [module](self).
pub fn classes(block: &Block, column: Column) -> Result<Option<Vec<Option<u32>>>, ReadError> {
    let known = |class: u32| (class != Column::NO_CLASS).then_some(class);
    Ok(optional(block, column, u32s)?.map(|classes| classes.into_iter().map(known).collect()))
}
