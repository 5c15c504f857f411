//! Parquet and Arrow files of every verb hold what its CSV says, and their columns have types of their own.

use super::golden::Runs;
use super::golden_cases::ROWS;
use super::{execute_line, gradlog, records, written};
use crate::output::{Console, Watch};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ipc::reader::FileReader;
use arrow_schema::{DataType, SchemaRef};
use gradlog_analysis::Window;
use gradlog_arrow::{Record, RecordQuestion};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

/// The schema and the batches of a Parquet file.
fn read_parquet(path: &Path) -> (SchemaRef, Vec<RecordBatch>) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    (builder.schema().clone(), builder.build().unwrap().collect::<Result<_, _>>().unwrap())
}

fn read_arrow(path: &Path) -> (SchemaRef, Vec<RecordBatch>) {
    let reader = FileReader::try_new(File::open(path).unwrap(), None).unwrap();
    (reader.schema(), reader.collect::<Result<_, _>>().unwrap())
}

/// Whether a cell of a file is what CSV says.
fn is_same(column: &ArrayRef, row: usize, text: &str) -> bool {
    if column.is_null(row) {
        return text.is_empty();
    }
    match column.data_type() {
        DataType::UInt64 => text == column.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(row);
            let told = match text {
                "true" => 1.0,
                "false" => 0.0,
                number => number.parse::<f64>().unwrap(),
            };
            told == value || told.is_nan() && value.is_nan()
        }
        DataType::Boolean => text == column.as_boolean().value(row).to_string(),
        DataType::Utf8 => text == column.as_string::<i32>().value(row),
        other => panic!("no verb has columns of {other}"),
    }
}

#[test]
fn files_hold_what_csv_says() {
    let runs = Runs::new();
    let mut compared = 0;
    for (verb, lines) in ROWS {
        for line in lines {
            // A verb that does not take rows elsewhere has none.
            let (code, csv, _) = runs.play(&format!("{verb} {line} --format csv"));
            for (name, read) in
                [("a.parquet", read_parquet as fn(&Path) -> (SchemaRef, Vec<RecordBatch>)), ("a.arrow", read_arrow)]
            {
                let path = runs.files.path().join(name);
                let (own, out, words) = runs.play(&format!("{verb} {line} --out {{{name}}}"));
                assert_eq!((own, out.as_str()), (code, ""), "{verb} {line}: {words}");
                if code == 1 || code == 2 {
                    assert!(!path.exists(), "{verb} {line}");
                    continue;
                }
                assert!(path.exists(), "{verb} {line}: {words}");
                let (schema, batches) = read(&path);
                std::fs::remove_file(&path).unwrap();
                let (columns, rows) = records(&csv);
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                assert_eq!(names, columns, "{verb} {line}");
                let basis = csv.lines().next().and_then(|line| line.strip_prefix("# "));
                assert_eq!(schema.metadata().get("gradlog.basis").map(String::as_str), basis, "{verb} {line}");
                let mut place = 0;
                for batch in &batches {
                    for row in 0..batch.num_rows() {
                        for (column, text) in batch.columns().iter().zip(&rows[place]) {
                            assert!(is_same(column, row, text), "{verb} {line}, row {place}: {text}");
                            compared += 1;
                        }
                        place += 1;
                    }
                }
                assert_eq!(place, rows.len(), "{verb} {line}");
            }
        }
    }
    assert!(compared > 2_000, "{compared} cells were compared");
}

#[test]
fn a_stream_of_bytes_goes_into_a_pipe_and_on_no_terminal() {
    let run = written(true);
    let line: Vec<&OsStr> = vec![
        "gradlog".as_ref(),
        "scores".as_ref(),
        run.path().as_os_str(),
        "--score".as_ref(),
        "loss".as_ref(),
        "--format".as_ref(),
        "parquet".as_ref(),
    ];
    let play = |terminal: Option<usize>| {
        let (mut out, mut words) = (Vec::new(), Vec::new());
        let line = line.iter().map(|word| word.to_os_string());
        let console = &mut Console { out: &mut out, words: &mut words, watch: Watch::new(false), terminal };
        let code = crate::execute(line, console);
        (code, out, String::from_utf8(words).unwrap())
    };
    let (code, out, _) = play(None);
    assert!(code == 0 && out.starts_with(b"PAR1") && out.ends_with(b"PAR1"));
    let (code, out, words) = play(Some(80));
    assert!(code == 2 && out.is_empty() && words.contains("not for a terminal"), "{words}");
}

#[test]
fn types_do_not_hang_on_the_number_of_runs() {
    let (run, other) = (written(true), written(true));
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("a.parquet");
    let out = path.to_str().unwrap();
    let fields = || -> Vec<(String, DataType)> {
        let schema = read_parquet(&path).0;
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    let asked = ["--score", "forgetting", "--out", out];
    assert_eq!(gradlog(&run, "scores", &asked).0, 0);
    let one = fields();
    let several: Vec<&OsStr> = ["scores".as_ref(), run.path().as_os_str(), other.path().as_os_str()]
        .into_iter()
        .chain(asked.iter().map(OsStr::new))
        .collect();
    let (code, _, words) = execute_line(&several);
    assert_eq!(code, 0, "{words}");
    let many = fields();
    for field in &one {
        assert!(many.contains(field), "{field:?}");
    }
}

#[test]
fn tables_of_the_log_are_those_of_the_library() {
    let run = written(true);
    let files = tempfile::tempdir().unwrap();
    for record in Record::ALL {
        for (name, read) in
            [("a.parquet", read_parquet as fn(&Path) -> (SchemaRef, Vec<RecordBatch>)), ("a.arrow", read_arrow)]
        {
            let path = files.path().join(name);
            // Cards have no steps.
            let has_steps = record != Record::Cards;
            let line = ["--to", path.to_str().unwrap(), "--table", record.name(), "--steps", "2.."];
            let (code, _, words) = gradlog(&run, "export", if has_steps { &line } else { &line[..4] });
            assert_eq!(code, 0, "{words}");
            if !has_steps {
                assert_eq!(gradlog(&run, "export", &line).0, 2);
            }
            let (schema, batches) = read(&path);
            let window = if has_steps { Window::steps(2..) } else { Window::everything() };
            let question = RecordQuestion::new(record).window(window);
            let mut rows = 0;
            let mut expected = Vec::new();
            question
                .read(&run.run(), |batch| {
                    rows += batch.num_rows();
                    expected.push(batch);
                    Ok(())
                })
                .unwrap();
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{record}");
            assert!(words.contains(&format!("{rows} row")), "{words}");
            let expected_schema = question.schema(&run.run()).unwrap();
            assert_eq!(schema.fields(), expected_schema.fields());
            for (column, field) in schema.fields().iter().enumerate() {
                let cells = |batches: &[RecordBatch]| -> Vec<String> {
                    let columns = batches.iter().map(|batch| batch.column(column));
                    columns.flat_map(|cells| (0..cells.len()).map(|row| format!("{:?}", cells.slice(row, 1)))).collect()
                };
                assert_eq!(cells(&batches), cells(&expected), "{record}, {}", field.name());
            }
        }
    }
}

#[test]
fn no_output_replaces_the_log() {
    let run = written(true);
    for name in ["manifest", "segment-00000.glog", "lock"] {
        let path = run.path().join(name);
        let before = std::fs::read(&path).ok();
        let out = path.to_str().unwrap();
        for (verb, more) in
            [("scores", &["--score", "loss", "--format", "csv"][..]), ("export", &["--format", "parquet"])]
        {
            let (code, _, words) = gradlog(&run, verb, &[more, &["--out", out]].concat());
            assert_eq!(std::fs::read(&path).ok(), before, "{verb} {name}");
            assert!(before.is_none() || code == 2 && words.contains("is a file of a run"), "{verb} {name}: {words}");
        }
    }
}
