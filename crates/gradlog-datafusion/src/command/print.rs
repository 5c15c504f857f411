//! Record batches as the rows that the command prints: tables, CSV, JSON, Parquet and Arrow files.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use gradlog_arrow::{FileFormat, TableWriter};
use gradlog_cli::shared::{printable, Format, Rows, Value};
use gradlog_format::run::Damage;
use std::io::{self, Write};

/// Writes batches in one of the formats.
pub(super) struct Printer<W: Write> {
    to: To<W>,
    rows: u64,
}

enum To<W: Write> {
    Rows(Rows<W>),
    File(Box<TableWriter<W>>),
    /// The lines of a plan.
    Plan(W),
}

impl<W: Write> Printer<W> {
    pub fn begin(
        out: W,
        format: Format,
        schema: &SchemaRef,
        is_plan: bool,
        (query, damage): (&str, &[Damage]),
    ) -> io::Result<Self> {
        let damage: Value = damage.first().map(ToString::to_string).into();
        let to = match format {
            Format::Table if is_plan => To::Plan(out),
            Format::Parquet => To::File(Box::new(file(out, FileFormat::Parquet, schema, damage)?)),
            Format::Arrow => To::File(Box::new(file(out, FileFormat::Arrow, schema, damage)?)),
            Format::Table | Format::Csv | Format::Json => {
                let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                let head = [("query", query.into()), ("damage", damage)];
                To::Rows(Rows::begin(format, out, None, &head, &columns)?)
            }
        };
        Ok(Self { to, rows: 0 })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        self.rows += batch.num_rows() as u64;
        match &mut self.to {
            To::File(writer) => writer.write(batch).map_err(io::Error::other),
            To::Rows(rows) => {
                let columns: Vec<Cells> =
                    batch.columns().iter().map(Cells::new).collect::<Result<_, _>>().map_err(other)?;
                for row in 0..batch.num_rows() {
                    let values: Result<Vec<Value>, _> = columns.iter().map(|column| column.value(row)).collect();
                    rows.row(&values.map_err(other)?)?;
                }
                Ok(())
            }
            To::Plan(out) => {
                let columns: Vec<Cells> =
                    batch.columns().iter().map(Cells::new).collect::<Result<_, _>>().map_err(other)?;
                for row in 0..batch.num_rows() {
                    for column in &columns {
                        if let Value::Text(text) = column.value(row).map_err(other)? {
                            text.lines().try_for_each(|line| writeln!(out, "{}", printable(line)))?;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Ends the output and gives the writer back, with the number of rows.
    pub fn end(self) -> io::Result<(W, u64)> {
        let out = match self.to {
            To::Rows(rows) => rows.end()?,
            To::File(writer) => writer.finish().map_err(io::Error::other)?,
            To::Plan(out) => out,
        };
        Ok((out, self.rows))
    }
}

fn other(error: ArrowError) -> io::Error {
    io::Error::other(error)
}

fn file<W: Write>(out: W, format: FileFormat, schema: &SchemaRef, damage: Value) -> io::Result<TableWriter<W>> {
    let mut writer = TableWriter::begin(out, format, schema.clone()).map_err(io::Error::other)?;
    if let Value::Text(damage) = damage {
        writer.note("gradlog.damage", damage);
    }
    Ok(writer)
}

/// The values of a column.
struct Cells {
    numbers: Numbers,
    /// The column, or its numbers in the widest type.
    array: ArrayRef,
}

#[derive(Clone, Copy)]
enum Numbers {
    Unsigned,
    Signed,
    /// Written with as many digits as an f32 needs.
    Short,
    Long,
    Flags,
    /// In words.
    None,
}

impl Cells {
    fn new(array: &ArrayRef) -> Result<Self, ArrowError> {
        let (numbers, to) = match array.data_type() {
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
                (Numbers::Unsigned, Some(DataType::UInt64))
            }
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                (Numbers::Signed, Some(DataType::Int64))
            }
            DataType::Float16 | DataType::Float32 => (Numbers::Short, Some(DataType::Float32)),
            DataType::Float64 => (Numbers::Long, None),
            DataType::Boolean => (Numbers::Flags, None),
            _ => (Numbers::None, None),
        };
        let array = match to {
            Some(to) if to != *array.data_type() => arrow_cast::cast(array, &to)?,
            _ => array.clone(),
        };
        Ok(Self { numbers, array })
    }

    fn value(&self, row: usize) -> Result<Value, ArrowError> {
        let array = &self.array;
        if array.is_null(row) || *array.data_type() == DataType::Null {
            return Ok(Value::Nothing);
        }
        Ok(match self.numbers {
            Numbers::Unsigned => array.as_primitive::<UInt64Type>().value(row).into(),
            Numbers::Signed => {
                let number = array.as_primitive::<Int64Type>().value(row);
                // Counts are signed in SQL, and whole numbers of the command are not.
                u64::try_from(number).map_or(Value::Number(number as f64), Value::Integer)
            }
            Numbers::Short => {
                let number = array.as_primitive::<Float32Type>().value(row);
                Value::Number(number.to_string().parse().unwrap_or(f64::from(number)))
            }
            Numbers::Long => array.as_primitive::<Float64Type>().value(row).into(),
            Numbers::Flags => array.as_boolean().value(row).into(),
            Numbers::None => {
                let format = FormatOptions::new();
                ArrayFormatter::try_new(array.as_ref(), &format)?.value(row).try_to_string()?.into()
            }
        })
    }
}
