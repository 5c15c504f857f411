//! Rows of the log into a file of columns.

use crate::error::CliError;
use crate::frame::{Asked, Content, Ending, Shown};
use crate::report::count;
use gradlog_arrow::{FileFormat, Record, RecordQuestion, TableWriter};
use std::io::Write;

pub(super) fn show<'run>(
    asked: &'run Asked<'run>,
    record: Record,
    question: RecordQuestion,
    format: FileFormat,
) -> Shown<'run> {
    let content = Content::Written(Box::new(move |target| write(asked, record, question, format, target)));
    Shown { content, ..Shown::default() }
}

fn write(
    asked: &Asked<'_>,
    record: Record,
    question: RecordQuestion,
    format: FileFormat,
    target: &mut dyn Write,
) -> Result<Ending, CliError> {
    let run = asked.run();
    let mut writer = TableWriter::begin(target, format, question.schema(run)?)?;
    let read = asked.read("writing", 1, |progress| {
        question.share_progress(progress).read(run, |batch| writer.write(&batch)).map_err(CliError::from)
    })?;
    if let Some(damage) = &read.damage {
        writer.note("gradlog.damage", damage.to_string());
    }
    writer.finish()?;
    let rows = count(usize::try_from(read.rows).unwrap_or(usize::MAX), "row");
    let mut words = format!("{rows} of {record}");
    if read.other_layers > 0 {
        let others = count(usize::try_from(read.other_layers).unwrap_or(usize::MAX), "row");
        words.push_str(&format!("; gradients of {others} have another form than those of the first, and are null"));
    }
    Ok(Ending { words: Some(words), damage: read.damage })
}
