//! The pictures, texts and rows of a page, the most wanted first, within their limits.

use super::arrays;
use super::data::{Card, Entry, Source};
use super::limits::TEXT_BYTES_MAX;
use super::sheet::{write_sheets, Budget, Picture};
use crate::error::CliError;
use serde_json::{json, Value};
use std::collections::HashMap;

/// How many labels are compared before the agreement says anything.
const COMPARED_MIN: u64 = 20;

/// Below this share of equal labels the data is probably that of something else.
const AGREEMENT_MIN: f64 = 0.5;

/// The cards of the training examples or of a probe set.
#[derive(Debug, Default)]
pub(crate) struct Cards {
    pub part: Value,
    /// What somebody should know of them.
    pub notes: Vec<String>,
}

/// Examples whose labels were compared.
#[derive(Default)]
struct Agreement {
    compared: u64,
    equal: u64,
}

impl Agreement {
    /// Compares a recorded label with that of the data; whether both are there and differ.
    fn add(&mut self, recorded: Option<&u32>, in_data: Option<u32>) -> bool {
        let (Some(recorded), Some(in_data)) = (recorded, in_data) else { return false };
        self.compared += 1;
        self.equal += u64::from(*recorded == in_data);
        *recorded != in_data
    }

    /// What somebody should know, if most labels differ.
    fn warning(&self, what: &str, source: &dyn Source) -> Option<String> {
        let share = self.equal as f64 / self.compared.max(1) as f64;
        (self.compared >= COMPARED_MIN && share < AGREEMENT_MIN).then(|| {
            format!(
                "warning: only {:.0} % of the {what} have the recorded label in the data: are these the same examples? \
                 Ids are taken for {}",
                100.0 * share,
                source.ids()
            )
        })
    }
}

/// Whether the data is probably that of other examples, by the labels of these.
///
/// # Errors
/// What cannot be read.
pub(crate) fn check_labels(
    source: &dyn Source,
    what: &str,
    labels: impl Iterator<Item = (u64, u32)>,
) -> Result<Option<String>, CliError> {
    let mut agreement = Agreement::default();
    for (id, recorded) in labels {
        agreement.add(Some(&recorded), source.entry(id)?.and_then(|entry| entry.label));
    }
    Ok(agreement.warning(what, source))
}

/// Reads the cards of these examples. `labels` are those that the run recorded.
///
/// # Errors
/// What cannot be read or encoded.
pub(crate) fn read_cards(
    source: &dyn Source,
    what: &str,
    ids: &[u64],
    labels: &HashMap<u64, u32>,
    budget: &mut Budget,
) -> Result<Cards, CliError> {
    let (mut pictures, mut texts, mut missing, mut bytes) = (Vec::new(), Vec::new(), 0u64, 0usize);
    let mut agreement = Agreement::default();
    let mut differing = serde_json::Map::new();
    let mut left = 0u64;
    for &id in ids {
        if bytes >= TEXT_BYTES_MAX {
            left += 1;
            continue;
        }
        let Some(Entry { card, label }) = source.entry(id)? else {
            missing += 1;
            continue;
        };
        if agreement.add(labels.get(&id), label) {
            differing.insert(id.to_string(), json!(label));
        }
        match card {
            Card::Picture(picture) => pictures.push((id, picture)),
            Card::Text(text) => {
                bytes += text.len();
                texts.push((id, json!(text)));
            }
            Card::Row(cells) => {
                bytes += cells.iter().map(|cell| cell.len() + 3).sum::<usize>();
                texts.push((id, json!(cells)));
            }
        }
    }
    let mut notes = source.notes();
    let (picture_ids, images): (Vec<u64>, Vec<Picture>) = pictures.into_iter().unzip();
    let (sheets, held) = write_sheets(&images, budget)?;
    left += (images.len() - held) as u64;
    if left > 0 {
        notes.push(format!("{left} of {} {what} have no picture or text here: the page would be too large", ids.len()));
    }
    if missing > 0 {
        notes.push(format!("{missing} of {} {what} {}", ids.len(), source.missing()));
    }
    notes.extend(agreement.warning(what, source));
    let columns = source.columns();
    let (text_ids, texts): (Vec<String>, Vec<Value>) =
        texts.into_iter().map(|(id, text)| (id.to_string(), text)).unzip();
    let part = json!({
        "ids": arrays::ids(picture_ids[..held].iter().copied()),
        "sheets": sheets,
        "texts": { "ids": text_ids, "values": texts },
        "columns": columns,
        "labels": differing,
    });
    Ok(Cards { part, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table(HashMap<u64, Entry>);

    impl Source for Table {
        fn entry(&self, id: u64) -> Result<Option<Entry>, CliError> {
            Ok(self.0.get(&id).cloned())
        }

        fn ids(&self) -> String {
            "numbers".into()
        }
    }

    fn table(count: u64, text: &str) -> Table {
        Table((0..count).map(|id| (id, Entry { card: Card::Text(text.into()), label: Some(1) })).collect())
    }

    #[test]
    fn texts_stop_at_their_limit_and_the_note_says_so() {
        let source = table(4, &"x".repeat(TEXT_BYTES_MAX / 2));
        let found = read_cards(&source, "examples", &[0, 1, 2, 3, 9], &HashMap::new(), &mut Budget::new()).unwrap();
        assert_eq!(found.part["texts"]["ids"], json!(["0", "1"]));
        assert_eq!(found.notes.len(), 1);
        assert!(found.notes[0].starts_with("3 of 5 examples"));
    }

    #[test]
    fn data_of_something_else_is_noticed() {
        let ids: Vec<u64> = (0..30).collect();
        let notes = |label: u32| {
            let labels = ids.iter().map(|id| (*id, if *id < 10 { 0 } else { label })).collect();
            read_cards(&table(30, "x"), "examples", &ids, &labels, &mut Budget::new()).unwrap().notes
        };
        assert!(notes(1).is_empty());
        assert!(notes(2)[0].contains("only 0 % of the examples"), "{:?}", notes(2));
    }
}
