//! `--data`: where the pictures, texts and rows of a report come from.
//!
//! A spec is `[SET=]KIND:PLACE[,id=HOW]`. Without `SET=` it is that of the training examples; an idx folder has the
//! probes as well, and so has a path of pictures with `{set}` in it.

mod idx;
mod images;
mod recorded;
mod rows;

use crate::error::CliError;
use crate::page::sheet::Picture;
use gradlog_format::run::{ReadError, Run};
use rows::IdRule;
use std::path::PathBuf;
use std::str::FromStr;

pub(crate) use recorded::Recorded;

/// What stands for an example.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Card {
    Picture(Picture),
    Text(String),
    /// The cells of a row, under the columns of [`Source::columns`].
    Row(Vec<String>),
}

/// What is known of one example.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub card: Card,
    /// The label that the data gives it.
    pub label: Option<u32>,
}

/// Examples by their ids.
pub(crate) trait Source: Send + Sync {
    /// What is known of the example; `None` if the data does not hold it.
    ///
    /// # Errors
    /// What of its file cannot be read.
    fn entry(&self, id: u64) -> Result<Option<Entry>, CliError>;

    /// Names of the columns, if the cards are rows.
    fn columns(&self) -> &[String] {
        &[]
    }

    /// What an id is, in words.
    fn ids(&self) -> String;

    /// What is said of examples that the data does not hold.
    fn missing(&self) -> String {
        format!("are not in the data, whose ids are {}", self.ids())
    }

    /// What else somebody should know of the data.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One `--data`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    /// The probe set, or the training examples.
    pub set: Option<String>,
    kind: Kind,
    place: PathBuf,
    ids: Option<IdRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Idx,
    Images,
    Text,
    Csv,
}

const KINDS: [(&str, Kind); 4] =
    [("idx:", Kind::Idx), ("images:", Kind::Images), ("text:", Kind::Text), ("csv:", Kind::Csv)];

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = KINDS.iter().find_map(|(word, kind)| {
            if let Some(place) = text.strip_prefix(word) {
                return Some((None, *kind, place));
            }
            let (set, place) = text.split_once(&format!("={word}"))?;
            Some((Some(set.to_owned()), *kind, place))
        });
        let Some((set, kind, place)) = found else {
            return Err("it begins with idx:, images:, text: or csv:, or with the name of a probe set, = and one of \
                        these"
                .into());
        };
        let (place, ids) = match place.rsplit_once(",id=") {
            Some((place, how)) => (place, Some(IdRule::read(how))),
            None => (place, None),
        };
        if place.is_empty() {
            return Err("after the colon belongs a folder or a file".into());
        }
        if ids.is_some() && !matches!(kind, Kind::Text | Kind::Csv) {
            return Err("`,id=` belongs to text: and csv:".into());
        }
        if kind == Kind::Images && !place.contains("{id}") {
            return Err("the path of images has {id} where the id of the example stands: images:DIR/{id}.png".into());
        }
        Ok(Self { set, kind, place: place.into(), ids })
    }
}

impl Spec {
    /// Whether it also serves probe sets that have no spec of their own.
    fn serves_probes(&self) -> bool {
        self.set.is_none()
            && match self.kind {
                Kind::Idx => true,
                Kind::Images => self.place.to_string_lossy().contains("{set}"),
                Kind::Text | Kind::Csv => false,
            }
    }

    /// Whether opening it reads nothing, and it counts how much of it was read.
    pub(crate) fn is_opened_each_time(&self) -> bool {
        self.kind == Kind::Images
    }

    fn open(&self, set: Option<&str>) -> Result<Box<dyn Source>, CliError> {
        Ok(match self.kind {
            Kind::Idx => Box::new(idx::Idx::open(&self.place, set)?),
            Kind::Images => Box::new(images::Images::new(&self.place, set)),
            Kind::Text => Box::new(rows::Rows::read_texts(&self.place, self.ids.as_ref())?),
            Kind::Csv => Box::new(rows::Rows::read_table(&self.place, self.ids.as_ref())?),
        })
    }
}

/// Refuses two specs of one set.
///
/// # Errors
/// Which set has two.
pub(crate) fn refuse_doubles(specs: &[Spec]) -> Result<(), CliError> {
    for (at, spec) in specs.iter().enumerate() {
        if specs[..at].iter().any(|other| other.set == spec.set) {
            let of = spec.set.as_ref().map_or("the training examples".into(), |set| format!("`{set}`"));
            return Err(CliError::Arguments(format!("there are two --data of {of}: give one")));
        }
    }
    Ok(())
}

/// Refuses data for a probe set that the run does not have.
///
/// # Errors
/// Which sets there are.
pub(crate) fn refuse_unknown_sets(specs: &[Spec], run: &Run) -> Result<(), CliError> {
    let known = match run.probe_sets() {
        Err(ReadError::Damaged(_)) => return Ok(()),
        other => other?,
    };
    match specs.iter().filter_map(|spec| spec.set.as_ref()).find(|set| !known.contains(set)) {
        None => Ok(()),
        Some(set) => {
            let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            let there = if names.is_empty() { "none".into() } else { names.join(", ") };
            Err(CliError::Arguments(format!("--data: the run has no probe set `{set}`; it has {there}")))
        }
    }
}

/// Opens the source of the training examples, or of a probe set; `None` if no spec serves it.
///
/// # Errors
/// What cannot be read, or is not what the spec says.
pub(crate) fn open(specs: &[Spec], set: Option<&str>) -> Result<Option<Box<dyn Source>>, CliError> {
    find(specs, set).map(|spec| spec.open(set)).transpose()
}

/// The spec that serves the training examples, or a probe set.
pub(crate) fn find<'a>(specs: &'a [Spec], set: Option<&str>) -> Option<&'a Spec> {
    let own = specs.iter().find(|spec| spec.set.as_deref() == set);
    own.or_else(|| specs.iter().find(|spec| set.is_some() && spec.serves_probes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_names_set_kind_place_and_ids() {
        let spec = |text: &str| text.parse::<Spec>();
        let plain = spec("idx:a=b:c").unwrap();
        assert_eq!((plain.set, plain.kind, plain.place), (None, Kind::Idx, "a=b:c".into()));
        let probes = spec("te=st=csv:x,id=line").unwrap();
        assert_eq!((probes.set.as_deref(), probes.kind, probes.place), (Some("te=st"), Kind::Csv, "x".into()));
        assert_eq!(probes.ids, Some(IdRule::Line));
        assert!(spec("images:d/{set}/{id}.png").unwrap().serves_probes());
        assert!(!spec("images:d/{id}.png").unwrap().serves_probes());
        for wrong in ["", "png:x", "idx:", "images:d/1.png", "idx:d,id=line"] {
            assert!(spec(wrong).is_err(), "{wrong}");
        }
    }
}
