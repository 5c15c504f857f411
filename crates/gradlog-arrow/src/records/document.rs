//! `docs/arrow.md` lists the columns as the code has them.

use super::Record;
use arrow_schema::{DataType, Field};
use std::fmt::Write;
use std::path::PathBuf;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/arrow.md")
}

fn type_words(data_type: &DataType) -> String {
    match data_type {
        DataType::UInt64 => "uint64".into(),
        DataType::UInt32 => "uint32".into(),
        DataType::Float32 => "float32".into(),
        DataType::Float64 => "float64".into(),
        DataType::Boolean => "bool".into(),
        DataType::Utf8 => "utf8".into(),
        DataType::Binary => "binary".into(),
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", field.name(), type_words(field.data_type()))).collect();
            format!("struct of {}", fields.join(", "))
        }
        DataType::Timestamp(..) => "timestamp[ms, UTC]".into(),
        DataType::List(item) => format!("list of {}", type_words(item.data_type())),
        other => other.to_string(),
    }
}

/// The tables between the marks of the document.
fn tables() -> String {
    let mut text = String::new();
    for record in Record::ALL {
        writeln!(text, "\n### {record}\n\n| column | type | null | meaning |\n|---|---|---|---|").unwrap();
        for column in record.columns() {
            let field = Field::new(column.name, column.cell.data_type(), column.cell.is_nullable());
            let null = if field.is_nullable() { "•" } else { "" };
            writeln!(text, "| {} | {} | {null} | {} |", field.name(), type_words(field.data_type()), column.meaning)
                .unwrap();
        }
    }
    text
}

const BEGIN: &str =
    "<!-- tables of the log: written by `cargo test -p gradlog-arrow --lib -- --ignored rewrite_the_document` -->\n";
const END: &str = "\n<!-- end of the tables of the log -->";

fn with_tables(document: &str) -> String {
    let (before, rest) = document.split_once(BEGIN).expect("the document has the first mark");
    let (_, after) = rest.split_once(END).expect("the document has the last mark");
    format!("{before}{BEGIN}{}{END}{after}", tables())
}

#[test]
fn the_document_has_the_columns() {
    let document = std::fs::read_to_string(path()).unwrap();
    assert_eq!(document, with_tables(&document), "run the command in the document");
}

#[test]
#[ignore = "writes the document"]
fn rewrite_the_document() {
    let document = std::fs::read_to_string(path()).unwrap();
    std::fs::write(path(), with_tables(&document)).unwrap();
}
