//! Tables that are made of a list: checkpoints and checks. They are short, and one batch each.

use super::tables::Record;
use crate::TableError;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BooleanArray, Float32Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field};
use gradlog_format::log::FindingKind;
use gradlog_format::run::Run;
use std::sync::Arc;

/// All columns of a listed table, under their names.
pub(super) fn read(record: Record, run: &Run) -> Result<RecordBatch, TableError> {
    let columns: Vec<(&str, ArrayRef)> = match record {
        Record::Checkpoints => checkpoints(run)?,
        _ => checks(run)?,
    };
    Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))?)
}

fn checkpoints(run: &Run) -> Result<Vec<(&'static str, ArrayRef)>, TableError> {
    let list = run.checkpoints()?;
    let told = |rate: Option<f32>| rate.filter(|rate| !rate.is_nan());
    Ok(vec![
        ("step", Arc::new(UInt64Array::from_iter_values(list.iter().map(|one| one.step)))),
        ("epoch", Arc::new(UInt32Array::from_iter_values(list.iter().map(|one| one.epoch)))),
        ("learning_rate", Arc::new(list.iter().map(|one| told(one.learning_rate)).collect::<Float32Array>())),
        ("bytes", Arc::new(UInt64Array::from_iter_values(list.iter().map(|one| one.bytes)))),
        ("checksum", Arc::new(UInt32Array::from_iter_values(list.iter().map(|one| one.checksum)))),
        ("path", Arc::new(StringArray::from_iter_values(list.iter().map(|one| one.path.display().to_string())))),
    ])
}

fn checks(run: &Run) -> Result<Vec<(&'static str, ArrayRef)>, TableError> {
    let list = run.checks()?;
    let item = Field::new("item", DataType::Utf8, false);
    let mut findings = ListBuilder::new(StringBuilder::new()).with_field(item);
    for check in &list {
        for finding in FindingKind::from_bits(check.findings) {
            findings.values().append_value(finding.name());
        }
        findings.append(true);
    }
    let agrees: Vec<bool> = list.iter().map(|check| check.agrees()).collect();
    Ok(vec![
        ("step", Arc::new(UInt64Array::from_iter_values(list.iter().map(|check| check.step)))),
        ("epoch", Arc::new(UInt32Array::from_iter_values(list.iter().map(|check| check.epoch)))),
        ("examples", Arc::new(UInt32Array::from_iter_values(list.iter().map(|check| check.examples)))),
        ("agrees", Arc::new(BooleanArray::from(agrees))),
        ("findings", Arc::new(findings.finish())),
        ("text", Arc::new(StringArray::from_iter_values(list.iter().map(|check| &check.text)))),
    ])
}
