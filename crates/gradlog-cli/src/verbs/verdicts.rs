//! Files of verdicts, which somebody gave in the page of `gradlog report`.

use crate::error::CliError;
use crate::page::limits::DATA_BYTES_MAX;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What somebody said of examples.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    pub kept: BTreeSet<u64>,
    pub dropped: BTreeSet<u64>,
    /// The new label of each.
    pub relabeled: HashMap<u64, u32>,
}

const NEXT: &str = "the header is `id,label,proposed,verdict`, as the page of `gradlog report` saves it; a verdict is \
                    keep, relabel or drop, and relabel needs a proposed label";

impl Verdicts {
    /// Reads a file with the columns `id`, `proposed` and `verdict`.
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        let wrong = |what: String| CliError::Data { path: path.to_owned(), what, next: NEXT };
        let file = File::open(path).map_err(|source| CliError::In { path: path.to_owned(), source })?;
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file.take(DATA_BYTES_MAX));
        let headers = reader.headers().map_err(|error| wrong(error.to_string()))?;
        let place = |name: &str| {
            let found = headers.iter().position(|column| column.trim() == name);
            found.ok_or_else(|| wrong(format!("there is no column `{name}`")))
        };
        let (id_at, proposed_at, verdict_at) = (place("id")?, place("proposed")?, place("verdict")?);
        let mut verdicts = Self::default();
        let mut known: HashMap<u64, u64> = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| wrong(error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            let cell = |at: usize| record.get(at).unwrap_or_default().trim();
            let at = |what: String| wrong(format!("line {line}: {what}"));
            let id: u64 = cell(id_at).parse().map_err(|_| at(format!("`{}` is no id", cell(id_at))))?;
            if let Some(first) = known.insert(id, line) {
                return Err(at(format!("example {id} has a verdict in line {first} already")));
            }
            match cell(verdict_at) {
                "keep" => {
                    verdicts.kept.insert(id);
                }
                "drop" => {
                    verdicts.dropped.insert(id);
                }
                "relabel" => {
                    let label = cell(proposed_at).parse();
                    let label = label.map_err(|_| at(format!("`{}` is no label", cell(proposed_at))))?;
                    verdicts.relabeled.insert(id, label);
                }
                other => return Err(at(format!("`{other}` is no verdict"))),
            }
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Verdicts, CliError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Verdicts::read(file.path())
    }

    #[test]
    fn each_verdict_is_read() {
        let found = read("id,label,proposed,verdict\n4,1,7,relabel\n5,2,,keep\n18446744073709551615,,,drop\n").unwrap();
        assert_eq!(found.kept, BTreeSet::from([5]));
        assert_eq!(found.dropped, BTreeSet::from([u64::MAX]));
        assert_eq!(found.relabeled, HashMap::from([(4, 7)]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, words) in [
            ("id,label\n4,1\n", "no column `proposed`"),
            ("id,label,proposed,verdict\nx,1,7,keep\n", "line 2: `x` is no id"),
            ("id,label,proposed,verdict\n4,1,7,burn\n", "line 2: `burn` is no verdict"),
            ("id,label,proposed,verdict\n4,1,,relabel\n", "line 2: `` is no label"),
            ("id,label,proposed,verdict\n4,1,,keep\n4,1,,drop\n", "line 3: example 4 has a verdict in line 2 already"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
