//! The file of verdicts: what somebody judged in the page of `gradlog report`, for the next training.
//!
//! It is a table with the header `id,label,proposed,verdict`. A verdict is `keep`, `relabel` or `drop`. `label` is the
//! label that the example had when it was judged, `proposed` the new one; a cell without a label is empty.
//!
//! ```
//! use gradlog_format::verdicts::Verdicts;
//!
//! # let folder = std::env::temp_dir().join(format!("gradlog-verdicts-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = folder.join("verdicts.csv");
//! # std::fs::write(&path, "id,label,proposed,verdict\n4,1,7,relabel\n5,2,,drop\n")?;
//! let verdicts = Verdicts::read(&path)?;
//! # std::fs::remove_dir_all(&folder)?;
//! let labels = [3, 8, 0, 9, 1, 2];
//! verdicts.check_labels(|id| labels.get(id as usize).copied())?; // the file belongs to this data
//! let kept: Vec<(u64, u32)> =
//!     (0..).zip(labels).filter_map(|(id, label)| Some((id, verdicts.label(id, label)?))).collect();
//! assert_eq!(kept, [(0, 3), (1, 8), (2, 0), (3, 9), (4, 7)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(test)]
mod tests;

use crate::log::open_file;
use std::collections::btree_map::{BTreeMap, Entry};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The longest file that is read: more than three million verdicts.
pub const VERDICT_BYTES_MAX: u64 = 1 << 26;

/// The label that stands for none in a run.
const NO_LABEL: u32 = u32::MAX;

/// What somebody said of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The example is right as it is.
    Keep,
    /// The example gets this label.
    Relabel(u32),
    /// The example is left out.
    Drop,
}

/// One row of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judgment {
    /// What was said.
    pub verdict: Verdict,
    /// The label that the example had when it was judged, if the file says so.
    pub label: Option<u32>,
    /// Line in the file, from 1.
    pub line: u64,
}

/// The verdicts of a file, by example.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    path: PathBuf,
    by_id: BTreeMap<u64, Judgment>,
}

/// Why verdicts cannot be used.
///
/// The text of an error includes its cause, so `source()` is always `None`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerdictsError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}; give the file that the page of `gradlog report` saves", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The file is not a table of verdicts.
    #[error(
        "{}{}: {what}; the header is `id,label,proposed,verdict`, a verdict is keep, relabel or drop, relabel needs a \
         proposed label, and an id has one verdict",
        path.display(),
        line.map_or(String::new(), |line| format!(", line {line}"))
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: Option<u64>,
        /// What is wrong.
        what: String,
    },
    /// The verdicts were given on other data.
    #[error(
        "{}, line {line}: example {id} {what}; use the data that was judged, with the same ids and without corrections \
         of labels",
        path.display()
    )]
    OtherData {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The example.
        id: u64,
        /// How the data differs.
        what: String,
    },
}

impl Verdicts {
    /// Reads the file `path`. Columns may have any order; `label` may be absent.
    ///
    /// # Errors
    /// [`VerdictsError::Io`] if the file cannot be read or is a pipe, [`VerdictsError::Format`] if any row is not a
    /// verdict, if an id has two, or if the file is longer than [`VERDICT_BYTES_MAX`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, VerdictsError> {
        let path = path.as_ref();
        let refused = |error| VerdictsError::Io { path: path.to_owned(), error };
        let file = open_file(path).map_err(refused)?;
        if file.metadata().map_err(refused)?.len() > VERDICT_BYTES_MAX {
            let what = format!("the file is longer than {VERDICT_BYTES_MAX} bytes");
            return Err(VerdictsError::Format { path: path.to_owned(), line: None, what });
        }
        let mut bytes = Vec::new();
        // A file may grow while it is read.
        file.take(VERDICT_BYTES_MAX).read_to_end(&mut bytes).map_err(refused)?;
        Self::parse(path, &bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, VerdictsError> {
        let wrong = |line, what| VerdictsError::Format { path: path.to_owned(), line, what };
        let of_csv = |error: csv::Error| {
            let line = error.position().map(|place| Lines::new(bytes).line_at(place.byte()));
            match error.into_kind() {
                csv::ErrorKind::Io(error) => VerdictsError::Io { path: path.to_owned(), error },
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    wrong(line, format!("it has {len} cells, and the header has {expected_len}"))
                }
                csv::ErrorKind::Utf8 { .. } => wrong(line, "it is not text in UTF-8".into()),
                _ => wrong(line, "it is not a row of a table".into()),
            }
        };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let headers = reader.headers().map_err(of_csv)?;
        let place = |name: &str| {
            let mut found = (0..headers.len()).filter(|at| &headers[*at] == name);
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(wrong(Some(1), format!("there are two columns `{name}`"))),
                (first, None) => Ok(first),
            }
        };
        let needed = |name: &str| place(name)?.ok_or_else(|| wrong(Some(1), format!("there is no column `{name}`")));
        let (id_at, proposed_at, verdict_at) = (needed("id")?, needed("proposed")?, needed("verdict")?);
        let label_at = place("label")?;
        let mut by_id: BTreeMap<u64, Judgment> = BTreeMap::new();
        let mut lines = Lines::new(bytes);
        for record in reader.records() {
            let record = record.map_err(of_csv)?;
            let line = record.position().map_or(0, |place| lines.line_at(place.byte()));
            let cell = |at: usize| record.get(at).unwrap_or_default();
            let at = |what: String| wrong(Some(line), what);
            let label = |text: &str| match text.parse() {
                Ok(label) if label != NO_LABEL => Ok(label),
                _ => Err(at(format!("`{}` is no label", shown(text)))),
            };
            let id: u64 = cell(id_at).parse().map_err(|_| at(format!("`{}` is no id", shown(cell(id_at)))))?;
            let verdict = match cell(verdict_at) {
                "keep" => Verdict::Keep,
                "drop" => Verdict::Drop,
                "relabel" => Verdict::Relabel(label(cell(proposed_at))?),
                other => return Err(at(format!("`{}` is no verdict", shown(other)))),
            };
            let given = label_at.map(cell).filter(|text| !text.is_empty()).map(label).transpose()?;
            match by_id.entry(id) {
                Entry::Vacant(free) => free.insert(Judgment { verdict, label: given, line }),
                Entry::Occupied(first) => {
                    return Err(at(format!("example {id} has a verdict in line {} already", first.get().line)))
                }
            };
        }
        Ok(Self { path: path.to_owned(), by_id })
    }

    /// The label to train example `id` with, whose data says `given`. `None` if the example is to be left out.
    ///
    /// Without a verdict, and with [`Verdict::Keep`], it is `given`.
    pub fn label(&self, id: u64, given: u32) -> Option<u32> {
        match self.by_id.get(&id).map(|judgment| judgment.verdict) {
            None | Some(Verdict::Keep) => Some(given),
            Some(Verdict::Relabel(label)) => Some(label),
            Some(Verdict::Drop) => None,
        }
    }

    /// What was said of example `id`.
    pub fn get(&self, id: u64) -> Option<&Judgment> {
        self.by_id.get(&id)
    }

    /// All verdicts, by ascending id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, &Judgment)> {
        self.by_id.iter().map(|(id, judgment)| (*id, judgment))
    }

    /// The examples to leave out, ascending.
    pub fn dropped(&self) -> impl Iterator<Item = u64> + '_ {
        self.iter().filter(|(_, judgment)| judgment.verdict == Verdict::Drop).map(|(id, _)| id)
    }

    /// The examples with a new label and that label, by ascending id.
    pub fn relabeled(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.iter().filter_map(|(id, judgment)| match judgment.verdict {
            Verdict::Relabel(label) => Some((id, label)),
            _ => None,
        })
    }

    /// How many examples have a verdict.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no example has a verdict.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Checks that the verdicts were given on this data: `label_of` says the label of an example, `None` for an id that
    /// the data does not have. Call it before labels are changed.
    ///
    /// # Errors
    /// [`VerdictsError::OtherData`] for the first example that the data does not have, or that had another label when
    /// it was judged. A label that the file does not say is not compared.
    pub fn check_labels(&self, mut label_of: impl FnMut(u64) -> Option<u32>) -> Result<(), VerdictsError> {
        for (id, judgment) in self.iter() {
            let what = match (label_of(id), judgment.label) {
                (None, _) => "is not in the data".into(),
                (Some(now), Some(judged)) if now != judged => {
                    format!("had the label {judged} when it was judged, and has {now} in the data")
                }
                _ => continue,
            };
            return Err(VerdictsError::OtherData { path: self.path.clone(), line: judgment.line, id, what });
        }
        Ok(())
    }
}

/// Numbers of lines. The parser of tables counts `\r\n` and empty lines otherwise than an editor.
struct Lines<'a> {
    bytes: &'a [u8],
    counted: usize,
    line: u64,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, counted: 0, line: 1 }
    }

    /// The line of the first row at or behind byte `place`. Places must ascend.
    fn line_at(&mut self, place: u64) -> u64 {
        let mut end = usize::try_from(place).unwrap_or(usize::MAX).min(self.bytes.len());
        while matches!(self.bytes.get(end), Some(b'\r' | b'\n')) {
            end += 1;
        }
        let passed = self.bytes.get(self.counted..end).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.counted = self.counted.max(end);
        self.line
    }
}

/// A cell for an error: short, and without control characters.
fn shown(cell: &str) -> String {
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    cell.chars().take(40).map(printable).collect()
}
