//! How one column of a log becomes one of a table.

use crate::TableError;
use arrow_array::builder::{BooleanBuilder, StringBuilder};
use arrow_array::{
    new_null_array, ArrayRef, BooleanArray, Float32Array, Float64Array, StringArray, TimestampMillisecondArray,
    UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field, TimeUnit};
use gradlog_format::log::{Column, LayerRecord};
use gradlog_format::run::column::{f32s, u32s, u64s, u8s};
use gradlog_format::run::Block;
use std::sync::Arc;

/// Where a column of a table comes from, and what is null in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell {
    /// Required, never null.
    U64(Column),
    /// Required, never null.
    U32(Column),
    /// Null where the block lacks the column.
    U32Null(Column),
    /// This number where the block lacks the column.
    U32Or(Column, u32),
    U64Or(Column, u64),
    F32Or(Column, f32),
    /// Null where the block lacks the column; NaN stays NaN.
    F32(Column),
    /// Null also for NaN, which stands for "not told".
    F32Told(Column),
    /// Null also for 0, which stands for "not told".
    U64Told(Column),
    /// Null also for no class.
    Class(Column),
    SquaredNorm(Column),
    /// One bit of the flags.
    Flag(u8),
    /// Milliseconds since the Unix epoch.
    Time(Column),
    /// A term, null for 0 where that stands for none, and for a term of a newer version.
    Word(Column, fn(u8) -> Option<&'static str>),
    /// Null for the number that stands for no example.
    ExampleNull(Column),
    /// The name of the probe set.
    ProbeSet,
    /// The name of a layer; null for the number that stands for none.
    Layer(Column),
    /// Rank of the worker.
    Worker,
    /// Not from a column: the table is made of a list.
    Listed(Plain),
    /// The same, where a row may have none.
    ListedNull(Plain),
}

/// What a listed column holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plain {
    U32,
    U64,
    F32,
    Bool,
    Text,
    Texts,
    Bytes,
    /// Names and values.
    Row,
}

impl Plain {
    fn data_type(self) -> DataType {
        match self {
            Self::U32 => DataType::UInt32,
            Self::U64 => DataType::UInt64,
            Self::F32 => DataType::Float32,
            Self::Bool => DataType::Boolean,
            Self::Text => DataType::Utf8,
            Self::Texts => DataType::List(Arc::new(Field::new("item", DataType::Utf8, false))),
            Self::Bytes => DataType::Binary,
            Self::Row => super::cards::row_type(),
        }
    }
}

/// What numbers of a block stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    /// The probe sets before the block.
    pub sets: &'a [String],
    pub layers: &'a [LayerRecord],
}

/// The time zone of times.
const UTC: &str = "UTC";

impl Cell {
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Listed(plain) | Self::ListedNull(plain) => plain.data_type(),
            Self::U64(_) | Self::U64Or(..) | Self::U64Told(_) | Self::ExampleNull(_) => DataType::UInt64,
            Self::U32(_) | Self::U32Null(_) | Self::U32Or(..) | Self::Class(_) | Self::Worker => DataType::UInt32,
            Self::F32Or(..) | Self::F32(_) | Self::F32Told(_) => DataType::Float32,
            Self::SquaredNorm(_) => DataType::Float64,
            Self::Flag(_) => DataType::Boolean,
            Self::Time(_) => DataType::Timestamp(TimeUnit::Millisecond, Some(UTC.into())),
            Self::Word(..) | Self::ProbeSet | Self::Layer(_) => DataType::Utf8,
        }
    }

    pub(super) fn is_nullable(self) -> bool {
        match self {
            Self::U64(_) | Self::U32(_) | Self::U32Or(..) | Self::U64Or(..) | Self::F32Or(..) | Self::Flag(_) => false,
            Self::Listed(plain) => matches!(plain, Plain::F32),
            _ => true,
        }
    }

    /// The column of a block.
    pub(super) fn read(self, block: &Block, names: Names<'_>) -> Result<ArrayRef, TableError> {
        let rows = block.rows();
        Ok(match self {
            Self::U64(column) => Arc::new(UInt64Array::from(u64s(block, column)?)),
            Self::U32(column) => Arc::new(UInt32Array::from(u32s(block, column)?)),
            Self::U32Or(column, other) => match block.has(column) {
                true => Arc::new(UInt32Array::from(u32s(block, column)?)),
                false => Arc::new(UInt32Array::from_value(other, rows)),
            },
            Self::U64Or(column, other) => match block.has(column) {
                true => Arc::new(UInt64Array::from(u64s(block, column)?)),
                false => Arc::new(UInt64Array::from_value(other, rows)),
            },
            Self::F32Or(column, other) => match block.has(column) {
                true => Arc::new(Float32Array::from(f32s(block, column)?)),
                false => Arc::new(Float32Array::from_value(other, rows)),
            },
            Self::Flag(bit) => match block.has(Column::Flags) {
                true => {
                    let flags = u8s(block, Column::Flags)?;
                    Arc::new(flags.into_iter().map(|flags| Some(flags & bit != 0)).collect::<BooleanArray>())
                }
                false => Arc::new(no_flags(rows)),
            },
            Self::Worker => match block.worker() {
                Some(rank) => Arc::new(UInt32Array::from_value(rank, rows)),
                None => new_null_array(&self.data_type(), rows),
            },
            Self::U32Null(column) if block.has(column) => Arc::new(UInt32Array::from(u32s(block, column)?)),
            Self::F32(column) if block.has(column) => Arc::new(Float32Array::from(f32s(block, column)?)),
            Self::F32Told(column) if block.has(column) => {
                let told = |number: f32| (!number.is_nan()).then_some(number);
                Arc::new(f32s(block, column)?.into_iter().map(told).collect::<Float32Array>())
            }
            Self::U64Told(column) if block.has(column) => {
                let told = |number: u64| (number != 0).then_some(number);
                Arc::new(u64s(block, column)?.into_iter().map(told).collect::<UInt64Array>())
            }
            Self::Class(column) if block.has(column) => {
                let known = |class: u32| (class != Column::NO_CLASS).then_some(class);
                Arc::new(u32s(block, column)?.into_iter().map(known).collect::<UInt32Array>())
            }
            Self::SquaredNorm(column) if block.has(column) => {
                let decoded = f32s(block, column)?.into_iter().map(Column::decode_squared_norm);
                Arc::new(decoded.map(Some).collect::<Float64Array>())
            }
            Self::Time(column) if block.has(column) => {
                let known = |ms: u64| i64::try_from(ms).ok();
                let times: TimestampMillisecondArray = u64s(block, column)?.into_iter().map(known).collect();
                Arc::new(times.with_timezone(UTC))
            }
            Self::Word(column, word) if block.has(column) => {
                Arc::new(u8s(block, column)?.into_iter().map(word).collect::<StringArray>())
            }
            Self::ExampleNull(column) if block.has(column) => {
                let known = |example: u64| (example != Column::NO_EXAMPLE).then_some(example);
                Arc::new(u64s(block, column)?.into_iter().map(known).collect::<UInt64Array>())
            }
            Self::Layer(column) if block.has(column) => {
                let name = |number: u32| names.layers.get(number as usize).map(|layer| layer.name.as_str());
                Arc::new(u32s(block, column)?.into_iter().map(name).collect::<StringArray>())
            }
            Self::ProbeSet if block.has(Column::ProbeSet) => {
                let mut words = StringBuilder::new();
                for set in u32s(block, Column::ProbeSet)? {
                    words.append_option(names.sets.get(set as usize));
                }
                Arc::new(words.finish())
            }
            _ => new_null_array(&self.data_type(), rows),
        })
    }
}

fn no_flags(rows: usize) -> BooleanArray {
    let mut none = BooleanBuilder::with_capacity(rows);
    none.append_n(rows, false);
    none.finish()
}
