//! Files are read back with the readers of arrow-rs.

use super::{FileFormat, TableWriter};
use crate::{Record, RecordQuestion};
use arrow_array::RecordBatch;
use arrow_ipc::reader::FileReader;
use arrow_select::concat::concat_batches;
use gradlog_testing::{run_of, visits, Draws};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::io::Cursor;

fn batches() -> Vec<RecordBatch> {
    let written = run_of(&visits(&mut Draws(1), 300, 4, 16), 100);
    let mut batches = Vec::new();
    let question = RecordQuestion::new(Record::Visits).stored_gradients();
    let read = question.read(&written.run(), |batch| {
        batches.push(batch);
        Ok(())
    });
    assert!(read.unwrap().damage.is_none());
    batches
}

fn write(format: FileFormat, batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = TableWriter::begin(Vec::new(), format, batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.note("gradlog.basis", "every visit".into());
    writer.finish().unwrap()
}

#[test]
fn parquet_reads_back_as_it_was() {
    let batches = batches();
    let bytes = bytes_of(write(FileFormat::Parquet, &batches));
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let metadata = builder.metadata().clone();
    let notes = metadata.file_metadata().key_value_metadata().unwrap();
    assert!(notes.iter().any(|note| note.key == "gradlog.basis" && note.value.as_deref() == Some("every visit")));
    let group = metadata.row_group(0);
    assert!(group.column(0).bloom_filter_offset().is_some(), "ids have a Bloom filter");
    let step = group.column(1).statistics().unwrap();
    assert!(step.min_bytes_opt().is_some() && step.max_bytes_opt().is_some());
    let read: Vec<RecordBatch> = builder.build().unwrap().collect::<Result<_, _>>().unwrap();
    let schema = batches[0].schema();
    assert_eq!(
        concat_batches(&read[0].schema(), &read).unwrap().columns(),
        concat_batches(&schema, &batches).unwrap().columns()
    );
    assert_eq!(read[0].schema().field(0).metadata(), schema.field(0).metadata());
}

fn bytes_of(bytes: Vec<u8>) -> bytes::Bytes {
    bytes.into()
}

#[test]
fn arrow_reads_back_as_it_was() {
    let batches = batches();
    let bytes = write(FileFormat::Arrow, &batches);
    let reader = FileReader::try_new(Cursor::new(bytes), None).unwrap();
    assert_eq!(reader.custom_metadata().get("gradlog.basis").map(String::as_str), Some("every visit"));
    let read: Vec<RecordBatch> = reader.collect::<Result<_, _>>().unwrap();
    assert_eq!(read, batches);
}

#[test]
fn an_unfinished_file_is_none() {
    let batches = batches();
    let mut bytes = Vec::new();
    let mut writer = TableWriter::begin(&mut bytes, FileFormat::Parquet, batches[0].schema()).unwrap();
    writer.write(&batches[0]).unwrap();
    drop(writer);
    assert!(ParquetRecordBatchReaderBuilder::try_new(bytes_of(bytes)).is_err());
}

#[test]
fn names_end_in_a_format() {
    assert_eq!(FileFormat::of_extension("PARQUET"), Some(FileFormat::Parquet));
    assert_eq!(FileFormat::of_extension("feather"), Some(FileFormat::Arrow));
    assert_eq!(FileFormat::of_extension("csv"), None);
}
