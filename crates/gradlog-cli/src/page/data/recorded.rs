//! Cards that the runs themselves hold: what the recorder was told of examples.

use super::rows::tame;
use super::{Card, Entry, Source};
use crate::error::CliError;
use crate::page::limits::{CARD_COLUMNS_MAX, PICTURE_FILES_MAX, PICTURE_SIDE};
use crate::page::sheet::Picture;
use gradlog_format::run::{CardContent, CardRecord, ReadError, Run};
use image::{imageops, GrayImage, RgbImage};
use std::collections::{HashMap, HashSet};

/// The cards of the training examples or of a probe set.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    cards: HashMap<u64, Card>,
    columns: Vec<String>,
    left_out_cells: u64,
}

impl Recorded {
    /// Reads the cards of these examples, the most wanted first. Of several runs the first that has a card gives it.
    /// `None` if no run has any of the training examples, or of the set.
    ///
    /// # Errors
    /// What cannot be read. Behind damage there are no cards.
    pub(crate) fn read(runs: &[&Run], set: Option<&str>, ids: &[u64]) -> Result<Option<Self>, CliError> {
        let mut order: HashMap<u64, usize> = HashMap::new();
        for (place, id) in ids.iter().enumerate() {
            order.entry(*id).or_insert(place);
        }
        let mut found: HashMap<u64, CardRecord> = HashMap::new();
        for run in runs {
            let numbers = match set {
                Some(name) => Some(numbers_of(run, name)?),
                None => None,
            };
            let is_of_set = |set: Option<u32>| match (&numbers, set) {
                (Some(numbers), Some(set)) => numbers.contains(&set),
                (None, None) => true,
                _ => false,
            };
            let mut there = HashSet::new();
            before_damage(run.cards(|set, id| {
                if is_of_set(set) && order.contains_key(&id) && !found.contains_key(&id) {
                    there.insert(id);
                }
                false
            }))?;
            let mut wanted: Vec<u64> = there.into_iter().collect();
            wanted.sort_unstable_by_key(|id| order.get(id));
            wanted.truncate(PICTURE_FILES_MAX.saturating_sub(found.len()));
            let wanted: HashSet<u64> = wanted.into_iter().collect();
            for card in before_damage(run.cards(|set, id| is_of_set(set) && wanted.contains(&id)))? {
                found.entry(card.example).or_insert(card);
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        let mut recorded = Self::default();
        let mut cards: Vec<CardRecord> = found.into_values().collect();
        cards.sort_unstable_by_key(|card| order.get(&card.example).copied());
        let mut places = HashMap::new();
        let cards: Vec<(u64, Card)> =
            cards.into_iter().map(|card| (card.example, recorded.take(card.content, &mut places))).collect();
        recorded.cards = cards.into_iter().collect();
        Ok(Some(recorded))
    }

    fn take(&mut self, content: CardContent, places: &mut HashMap<(String, usize), usize>) -> Card {
        match content {
            CardContent::Picture { width, height, is_color, pixels } => {
                Card::Picture(fit(Picture { width, height, is_color, pixels }))
            }
            CardContent::Text(text) => Card::Text(tame(&text)),
            CardContent::Row(cells) => {
                let (mut row, mut seen) = (Vec::new(), HashMap::<String, usize>::new());
                for (name, value) in cells {
                    // A name may occur several times.
                    let again = seen.entry(name.clone()).or_default();
                    let key = (name, *again);
                    *again += 1;
                    let place = match places.get(&key) {
                        Some(place) => *place,
                        None if self.columns.len() < CARD_COLUMNS_MAX => {
                            self.columns.push(tame(&key.0));
                            *places.entry(key).or_insert(self.columns.len() - 1)
                        }
                        None => {
                            self.left_out_cells += 1;
                            continue;
                        }
                    };
                    if row.len() <= place {
                        row.resize(place + 1, String::new());
                    }
                    row[place] = tame(&value);
                }
                Card::Row(row)
            }
            // A card that a newer version added.
            _ => Card::Text(String::new()),
        }
    }
}

/// A picture that another program recorded may be larger than a page shows.
fn fit(picture: Picture) -> Picture {
    let Picture { width, height, is_color, pixels } = picture;
    let longest = width.max(height);
    if longest <= PICTURE_SIDE {
        return Picture { width, height, is_color, pixels };
    }
    let side = |old: u32| {
        let new = (u64::from(old) * u64::from(PICTURE_SIDE) + u64::from(longest) / 2) / u64::from(longest);
        (new as u32).clamp(1, PICTURE_SIDE)
    };
    let (new_width, new_height) = (side(width), side(height));
    let small = match is_color {
        true => RgbImage::from_raw(width, height, pixels)
            .map(|large| imageops::thumbnail(&large, new_width, new_height).into_raw()),
        false => GrayImage::from_raw(width, height, pixels)
            .map(|large| imageops::thumbnail(&large, new_width, new_height).into_raw()),
    };
    let channels = if is_color { 3 } else { 1 };
    let pixels = small.unwrap_or_else(|| vec![0; (new_width * new_height * channels) as usize]);
    Picture { width: new_width, height: new_height, is_color, pixels }
}

/// The numbers of a probe set.
fn numbers_of(run: &Run, name: &str) -> Result<HashSet<u32>, CliError> {
    let names = before_damage(run.probe_sets())?;
    Ok((0u32..).zip(names).filter(|(_, known)| known == name).map(|(number, _)| number).collect())
}

fn before_damage<T>(list: Result<Vec<T>, ReadError>) -> Result<Vec<T>, CliError> {
    match list {
        Err(ReadError::Damaged(_)) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

impl Source for Recorded {
    fn entry(&self, id: u64) -> Result<Option<Entry>, CliError> {
        Ok(self.cards.get(&id).map(|card| Entry { card: card.clone(), label: None }))
    }

    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn ids(&self) -> String {
        "those that `describe` was given".into()
    }

    fn missing(&self) -> String {
        "have no card: they were not described while recording".into()
    }

    fn notes(&self) -> Vec<String> {
        let left_out = self.left_out_cells;
        let note =
            format!("note: {left_out} cells of rows are left out: a page has at most {CARD_COLUMNS_MAX} columns");
        Some(note).filter(|_| left_out > 0).into_iter().collect()
    }
}
