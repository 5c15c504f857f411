//! Columns with one number a row, checked to have exactly one: a length from disk is never believed.

use gradlog_format::log::Column;
use gradlog_format::run::{Block, ReadError};

fn check_length<T>(block: &Block, column: Column, values: Vec<T>) -> Result<Vec<T>, ReadError> {
    if values.len() == block.rows() {
        Ok(values)
    } else {
        Err(block.damaged(format!("{} numbers of {column:?} for {} rows", values.len(), block.rows())))
    }
}

pub(crate) fn u8s(block: &Block, column: Column) -> Result<Vec<u8>, ReadError> {
    check_length(block, column, block.u8s(column)?)
}

pub(crate) fn u32s(block: &Block, column: Column) -> Result<Vec<u32>, ReadError> {
    check_length(block, column, block.u32s(column)?)
}

pub(crate) fn u64s(block: &Block, column: Column) -> Result<Vec<u64>, ReadError> {
    check_length(block, column, block.u64s(column)?)
}

pub(crate) fn f32s(block: &Block, column: Column) -> Result<Vec<f32>, ReadError> {
    check_length(block, column, block.f32s(column)?)
}

/// The column if the block has it.
pub(crate) fn optional<T>(
    block: &Block,
    column: Column,
    read: impl Fn(&Block, Column) -> Result<Vec<T>, ReadError>,
) -> Result<Option<Vec<T>>, ReadError> {
    block.has(column).then(|| read(block, column)).transpose()
}

/// Labels or predictions, `None` where a row has none, if the block has the column.
pub(crate) fn classes(block: &Block, column: Column) -> Result<Option<Vec<Option<u32>>>, ReadError> {
    let known = |class: u32| (class != Column::NO_CLASS).then_some(class);
    Ok(optional(block, column, u32s)?.map(|classes| classes.into_iter().map(known).collect()))
}
