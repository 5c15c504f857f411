//! Texts in a file of JSON lines, and rows of a CSV file.

use super::{Card, Entry, Source};
use crate::error::CliError;
use crate::page::limits::{DATA_BYTES_MAX, TEXT_CHARACTERS_MAX};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// What the id of a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdRule {
    /// Its position among the examples, counted from 0.
    Position,
    /// Its line in the file as an editor counts, from 1.
    Line,
    /// A field or a column of this name.
    Named(String),
}

impl IdRule {
    pub(super) fn read(word: &str) -> Self {
        match word {
            "position" => IdRule::Position,
            "line" => IdRule::Line,
            name => IdRule::Named(name.to_owned()),
        }
    }

    fn words(&self) -> String {
        match self {
            IdRule::Position => "positions of the examples, from 0,".into(),
            IdRule::Line => "lines".into(),
            IdRule::Named(name) => format!("`{name}`"),
        }
    }
}

/// The field or column that is the id where there is one of this name, and the one of the label.
const ID: &str = "id";
const LABEL: &str = "label";
const TEXT: &str = "text";

/// Texts or rows by their ids.
#[derive(Debug)]
pub(super) struct Rows {
    path: PathBuf,
    rule: IdRule,
    columns: Vec<String>,
    entries: HashMap<u64, Entry>,
}

/// A text that a page holds: cut, without control characters that no line of text has.
pub(super) fn tame(text: &str) -> String {
    let mut out: String = text.chars().take(TEXT_CHARACTERS_MAX).collect();
    if text.chars().nth(TEXT_CHARACTERS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn wrong(path: &Path, what: String) -> CliError {
    let next =
        "a line of text: is {\"id\": 7, \"text\": \"...\", \"label\": 1}, csv: has a header; `,id=` says what the \
                ids are: `line`, `position`, or a name";
    CliError::Data { path: path.to_owned(), what, next }
}

impl Rows {
    /// Reads objects with `text`, and maybe `id` and `label`, one a line.
    pub(super) fn read_texts(path: &Path, rule: Option<&IdRule>) -> Result<Self, CliError> {
        let io = |source| CliError::In { path: path.to_owned(), source };
        let mut file = BufReader::new(open(path)?);
        let (mut entries, mut rule) = (HashMap::new(), rule.cloned());
        let mut position = 0;
        for line in 1u64.. {
            let mut text = String::new();
            if file.read_line(&mut text).map_err(io)? == 0 {
                break;
            }
            if text.trim().is_empty() {
                continue;
            }
            let at = |what: String| wrong(path, format!("line {line}: {what}"));
            let object: Value = serde_json::from_str(&text).map_err(|error| at(error.to_string()))?;
            let words = object[TEXT].as_str().ok_or_else(|| at(format!("there is no `{TEXT}`")))?;
            let rule = rule.get_or_insert_with(|| match object[ID].is_null() {
                true => IdRule::Position,
                false => IdRule::Named(ID.into()),
            });
            let id = match rule {
                IdRule::Position => position,
                IdRule::Line => line,
                IdRule::Named(name) => {
                    let value = &object[name.as_str()];
                    let id = value.as_u64().or_else(|| value.as_str()?.parse().ok());
                    id.ok_or_else(|| at(format!("`{name}` is no id")))?
                }
            };
            position += 1;
            let label = object[LABEL].as_u64().and_then(|label| u32::try_from(label).ok());
            let entry = Entry { card: Card::Text(tame(words)), label };
            if entries.insert(id, entry).is_some() {
                return Err(at(format!("id {id} is there twice")));
            }
        }
        let rule = rule.unwrap_or(IdRule::Position);
        Ok(Self { path: path.to_owned(), rule, columns: Vec::new(), entries })
    }

    /// Reads a table with a header.
    pub(super) fn read_table(path: &Path, rule: Option<&IdRule>) -> Result<Self, CliError> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(BufReader::new(open(path)?));
        let at = |error: csv::Error| wrong(path, error.to_string());
        let mut columns: Vec<String> = reader.headers().map_err(at)?.iter().map(tame).collect();
        let place = |name: &str| columns.iter().position(|column| column == name);
        let rule = rule.cloned().unwrap_or_else(|| match place(ID) {
            Some(_) => IdRule::Named(ID.into()),
            None => IdRule::Position,
        });
        let id_at = match &rule {
            IdRule::Named(name) => {
                Some(place(name).ok_or_else(|| wrong(path, format!("there is no column `{name}`")))?)
            }
            _ => None,
        };
        let label_at = place(LABEL);
        let mut entries = HashMap::new();
        for (position, record) in (0u64..).zip(reader.records()) {
            let record = record.map_err(at)?;
            let line = record.position().map_or(position + 2, csv::Position::line);
            let id = match id_at {
                None if rule == IdRule::Line => line,
                None => position,
                Some(column) => {
                    let cell = record.get(column).unwrap_or_default();
                    let id = cell.trim().parse();
                    id.map_err(|_| wrong(path, format!("line {line}: `{}` is no id", tame(cell))))?
                }
            };
            let label = label_at.and_then(|column| record.get(column)?.trim().parse().ok());
            // The id stands beside every card.
            let others = record.iter().enumerate().filter(|(column, _)| Some(*column) != id_at);
            let cells = others.map(|(_, cell)| tame(cell)).collect();
            if entries.insert(id, Entry { card: Card::Row(cells), label }).is_some() {
                return Err(wrong(path, format!("line {line}: id {id} is there twice")));
            }
        }
        if let Some(column) = id_at {
            columns.remove(column);
        }
        Ok(Self { path: path.to_owned(), rule, columns, entries })
    }
}

/// Opens a file that is not too large.
fn open(path: &Path) -> Result<std::io::Take<File>, CliError> {
    let io = |source| CliError::In { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > DATA_BYTES_MAX {
        return Err(wrong(path, format!("it has {bytes} bytes, and {DATA_BYTES_MAX} are allowed")));
    }
    Ok(file.take(DATA_BYTES_MAX))
}

impl Source for Rows {
    fn entry(&self, id: u64) -> Result<Option<Entry>, CliError> {
        Ok(self.entries.get(&id).cloned())
    }

    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn ids(&self) -> String {
        format!("{} in {}", self.rule.words(), self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn text_of(rows: &Rows, id: u64) -> Option<(String, Option<u32>)> {
        match rows.entry(id).unwrap()? {
            Entry { card: Card::Text(text), label } => Some((text, label)),
            Entry { card: Card::Row(cells), label } => Some((cells.join("|"), label)),
            _ => None,
        }
    }

    #[test]
    fn texts_go_by_id_position_or_line() {
        let with_ids = file("{\"id\": 7, \"text\": \"a\", \"label\": 1}\n\n{\"id\": \"9\", \"text\": \"b\"}\n");
        let rows = Rows::read_texts(with_ids.path(), None).unwrap();
        assert_eq!(text_of(&rows, 7), Some(("a".into(), Some(1))));
        assert_eq!((text_of(&rows, 9), text_of(&rows, 0)), (Some(("b".into(), None)), None));
        let rows = Rows::read_texts(with_ids.path(), Some(&IdRule::Line)).unwrap();
        assert_eq!(text_of(&rows, 3), Some(("b".into(), None)));
        let rows = Rows::read_texts(with_ids.path(), Some(&IdRule::Position)).unwrap();
        assert_eq!(text_of(&rows, 1), Some(("b".into(), None)));
    }

    #[test]
    fn rows_go_by_id_position_or_line() {
        let table = file("id,species,label\n4,Adelie,0\n8,\"Gen\"\"too\",2\n");
        let rows = Rows::read_table(table.path(), None).unwrap();
        assert_eq!(rows.columns(), ["species", "label"]);
        assert_eq!(text_of(&rows, 8), Some(("Gen\"too|2".into(), Some(2))));
        let rows = Rows::read_table(table.path(), Some(&IdRule::Line)).unwrap();
        assert_eq!(text_of(&rows, 2), Some(("4|Adelie|0".into(), Some(0))));
        let rows = Rows::read_table(table.path(), Some(&IdRule::Position)).unwrap();
        assert_eq!(text_of(&rows, 0), Some(("4|Adelie|0".into(), Some(0))));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, words) in [
            ("{\"id\": 1, \"text\": \"a\"}\nnothing\n", "line 2"),
            ("{\"id\": 1}\n", "no `text`"),
            ("{\"id\": -1, \"text\": \"a\"}\n", "`id` is no id"),
            ("{\"id\": 1, \"text\": \"a\"}\n{\"id\": 1, \"text\": \"b\"}\n", "id 1 is there twice"),
        ] {
            let error = Rows::read_texts(file(text).path(), None).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let table = file("id,a\nx,1\n");
        let error = Rows::read_table(table.path(), None).unwrap_err().to_string();
        assert!(error.contains("line 2: `x` is no id"), "{error}");
        let error = Rows::read_table(table.path(), Some(&IdRule::Named("b".into()))).unwrap_err().to_string();
        assert!(error.contains("no column `b`"), "{error}");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(tame(&"ä".repeat(601)).chars().count(), 601);
        assert!(tame(&"ä".repeat(601)).ends_with('…') && !tame(&"ä".repeat(600)).ends_with('…'));
    }
}
