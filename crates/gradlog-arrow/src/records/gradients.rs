//! Gradients as they are stored: bytes, scales, numbers kept apart, and what rounding left open.

use crate::TableError;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{new_null_array, ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, PrimitiveArray};
use arrow_buffer::Buffer;
use arrow_schema::{DataType, Field};
use gradlog_format::log::{Column, ColumnKey, Manifest, NO_LAYER};
use gradlog_format::run::{Block, Origin, Run, Vectors};
use gradlog_format::sketch::Encoding;
use std::collections::HashMap;
use std::sync::Arc;

/// The most bytes of a column of nulls in a batch.
const NULL_BYTES_MAX: usize = 1 << 30;

/// The gradient columns of a table, in the form of the first block that has gradients.
pub(super) struct StoredGradients {
    parts: Vec<Part>,
}

/// One vector of a gradient with what belongs to it.
struct Part {
    key: ColumnKey,
    /// `input:fc1`, `delta:fc1`, `folded`.
    name: String,
    origin: Origin,
    encoding: Encoding,
    width: usize,
    /// Columns beside the vector and their widths.
    beside: Vec<(ColumnKey, Beside, usize)>,
}

/// What stands beside a vector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Places,
    Apart,
    Rounding,
}

impl Beside {
    fn suffix(self) -> &'static str {
        match self {
            Self::Places => "places",
            Self::Apart => "apart",
            Self::Rounding => "rounding",
        }
    }

    fn data_type(self, width: usize) -> DataType {
        let list = |item| DataType::FixedSizeList(Arc::new(Field::new("item", item, false)), width as i32);
        match self {
            Self::Places => list(DataType::UInt32),
            Self::Apart => list(DataType::Float32),
            Self::Rounding => DataType::FixedSizeBinary(width as i32),
        }
    }
}

impl StoredGradients {
    /// The form of the first block that `holds` says yes to and that has gradients. Without one there are no columns.
    pub(super) fn find(run: &Run, holds: impl Fn(&Block) -> bool) -> Result<Self, TableError> {
        let mut parts = Vec::new();
        for block in run.scan().filter(holds) {
            for (key, name, origin) in keys(&block, run.manifest()) {
                let vectors = block.vectors(key, origin)?;
                let apart =
                    key.column.apart().map(|(places, apart)| [(places, Beside::Places), (apart, Beside::Apart)]);
                let rounding = key.column.rounding().map(|rounding| (rounding, Beside::Rounding));
                let beside = apart.into_iter().flatten().chain(rounding).filter_map(|(column, what)| {
                    let key = ColumnKey { column, ..key };
                    block.width(key).filter(|width| *width > 0).map(|width| (key, what, width))
                });
                let beside = beside.collect();
                parts.push(Part { key, name, origin, encoding: vectors.encoding(), width: vectors.width(), beside });
            }
            if !parts.is_empty() {
                break;
            }
        }
        Ok(Self { parts })
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        self.parts.iter().flat_map(Part::fields).collect()
    }

    /// The columns of a block, and how many of its rows have one of another form, which is null.
    pub(super) fn read(&self, block: &Block) -> Result<(Vec<ArrayRef>, u64), TableError> {
        let (mut arrays, mut has_others) = (Vec::new(), false);
        for part in &self.parts {
            has_others |= !part.read(block, &mut arrays)?;
        }
        Ok((arrays, if has_others { block.rows() as u64 } else { 0 }))
    }
}

/// The vectors of a block's gradients.
fn keys(block: &Block, manifest: &Manifest) -> Vec<(ColumnKey, String, Origin)> {
    let mut keys = Vec::new();
    for (column, word) in [(Column::Input, "input"), (Column::Delta, "delta")] {
        for layer in block.layers(column) {
            let Some(record) = manifest.layers.get(usize::from(layer)) else { continue };
            let origin = match column {
                Column::Input => Origin::of_input(record, &manifest.sketch),
                _ => Origin::of_delta(record, &manifest.sketch),
            };
            keys.push((ColumnKey { column, layer }, format!("{word}:{}", record.name), origin));
        }
    }
    if block.has(Column::Folded) {
        keys.push((ColumnKey { column: Column::Folded, layer: NO_LAYER }, "folded".to_owned(), Origin::Rotated));
    }
    keys
}

impl Part {
    fn bytes(&self) -> i32 {
        self.encoding.bytes(self.width) as i32
    }

    fn fields(&self) -> Vec<Field> {
        let encoding = match self.encoding {
            Encoding::F32 => "f32",
            Encoding::F16 => "f16",
            Encoding::Q8 => "q8",
            Encoding::Q4 => "q4",
            Encoding::Signs => "signs",
        };
        let mut metadata =
            HashMap::from([("encoding".to_owned(), encoding.to_owned()), ("width".to_owned(), self.width.to_string())]);
        match self.origin {
            Origin::Projected { seed, inputs } => {
                metadata.insert("origin".into(), "projected".into());
                metadata.insert("seed".into(), seed.to_string());
                metadata.insert("inputs".into(), inputs.to_string());
            }
            Origin::Rotated => drop(metadata.insert("origin".into(), "rotated".into())),
            _ => drop(metadata.insert("origin".into(), "whole".into())),
        }
        let vector = Field::new(&self.name, DataType::FixedSizeBinary(self.bytes()), true).with_metadata(metadata);
        let scale = Field::new(format!("{}:scale", self.name), DataType::Float32, true);
        let beside = self.beside.iter().map(|(_, what, width)| {
            Field::new(format!("{}:{}", self.name, what.suffix()), what.data_type(*width), true)
        });
        [vector, scale].into_iter().chain(beside).collect()
    }

    /// Adds the columns of a block. Says whether it has all of them in this form, or no such vector at all.
    fn read(&self, block: &Block, arrays: &mut Vec<ArrayRef>) -> Result<bool, TableError> {
        let nulls = |part: &Self, arrays: &mut Vec<ArrayRef>| -> Result<(), TableError> {
            let fields = part.fields();
            let made = fields.iter().map(|field| null_column(field.data_type(), block.rows()));
            arrays.extend(made.collect::<Result<Vec<_>, _>>()?);
            Ok(())
        };
        if !block.has(self.key) {
            nulls(self, arrays)?;
            return Ok(true);
        }
        let vectors = block.vectors(self.key, self.origin)?;
        if (vectors.encoding(), vectors.width()) != (self.encoding, self.width) || vectors.rows() != block.rows() {
            nulls(self, arrays)?;
            return Ok(false);
        }
        let (bytes, scales) = self.rows(&vectors);
        arrays.push(Arc::new(FixedSizeBinaryArray::try_new(self.bytes(), Buffer::from(bytes), None)?));
        arrays.push(Arc::new(Float32Array::from(scales)));
        let mut is_whole = true;
        for (key, what, width) in &self.beside {
            if block.width(*key) == Some(*width) {
                arrays.push(read_beside(block, *key, *what, *width)?);
            } else {
                // A block without the column keeps nothing apart; one of another width has another form.
                is_whole &= !block.has(*key);
                arrays.push(null_column(&what.data_type(*width), block.rows())?);
            }
        }
        Ok(is_whole)
    }

    fn rows(&self, vectors: &Vectors) -> (Vec<u8>, Vec<f32>) {
        let mut bytes = Vec::with_capacity(vectors.rows() * self.encoding.bytes(self.width));
        let mut scales = Vec::with_capacity(vectors.rows());
        for row in 0..vectors.rows() {
            let (codes, scale) = vectors.row(row);
            bytes.extend_from_slice(codes);
            scales.push(scale.to_f32());
        }
        (bytes, scales)
    }
}

/// A column of nulls. Arrow gives each null of a fixed size its room, so wide columns are bounded: the widths are those
/// of another block, and a few kilobytes of a file can claim any.
fn null_column(data_type: &DataType, rows: usize) -> Result<ArrayRef, TableError> {
    let width = match data_type {
        DataType::FixedSizeBinary(bytes) => *bytes as usize,
        DataType::FixedSizeList(_, numbers) => 4 * *numbers as usize,
        _ => 4,
    };
    if width.saturating_mul(rows) > NULL_BYTES_MAX {
        let what = format!("{rows} rows lack a column of {width} bytes a row: ask for a part of the run without them");
        return Err(arrow_schema::ArrowError::InvalidArgumentError(what).into());
    }
    Ok(new_null_array(data_type, rows))
}

fn read_beside(block: &Block, key: ColumnKey, what: Beside, width: usize) -> Result<ArrayRef, TableError> {
    let list = |item: DataType, values: ArrayRef| -> Result<ArrayRef, TableError> {
        let field = Arc::new(Field::new("item", item, false));
        Ok(Arc::new(FixedSizeListArray::try_new(field, width as i32, values, None)?))
    };
    let count = block.rows() * width;
    let wrong = |there: usize| block.damaged(format!("{there} numbers of {:?} for {count}", key.column));
    match what {
        Beside::Places => {
            let places = block.u32s(key)?;
            if places.len() != count {
                return Err(wrong(places.len()).into());
            }
            list(DataType::UInt32, Arc::new(PrimitiveArray::<UInt32Type>::from_iter_values(places)))
        }
        Beside::Apart => {
            let values = block.f32s(key)?;
            if values.len() != count {
                return Err(wrong(values.len()).into());
            }
            list(DataType::Float32, Arc::new(PrimitiveArray::<Float32Type>::from_iter_values(values)))
        }
        Beside::Rounding => {
            let bytes = block.u8s(key)?;
            if bytes.len() != count {
                return Err(wrong(bytes.len()).into());
            }
            Ok(Arc::new(FixedSizeBinaryArray::try_new(width as i32, Buffer::from(bytes), None)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::Array;

    #[test]
    fn wide_columns_of_nulls_are_bounded() {
        let wide = DataType::FixedSizeBinary(1 << 20);
        assert_eq!(null_column(&wide, 2).unwrap().null_count(), 2);
        assert!(null_column(&wide, 1025).is_err());
        assert!(null_column(&DataType::Float32, 100_000).is_ok());
    }
}
