//! Cards: what examples look like (FORMAT.md, "Cards").

use super::block::Block;
use super::error::ReadError;
use super::handle::Run;
use crate::log::{decode_row, BlockKind, CardKind, Column, CARD_BYTES_MAX};

/// What stands for an example.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CardContent {
    /// A picture, row by row from the top.
    Picture {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Whether a pixel has three bytes, red, green and blue, or one.
        is_color: bool,
        /// `width * height` pixels.
        pixels: Vec<u8>,
    },
    /// A text.
    Text(String),
    /// Names and values.
    Row(Vec<(String, String)>),
}

/// A card of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CardRecord {
    /// The example.
    pub example: u64,
    /// The number of its probe set in [`Run::probe_sets`]; `None` for a training example.
    pub set: Option<u32>,
    /// What it looks like.
    pub content: CardContent,
}

/// The cards of a block, and what else it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CardRows {
    /// The cards. Those of a kind that a newer version added are left out.
    pub cards: Vec<CardRecord>,
    /// How many cards were refused, because they were too large or too many.
    pub refused: u64,
}

impl CardRows {
    /// Checks that the probe sets of the cards have names: `sets` is how many have one so far, if that is known.
    pub(super) fn check_sets(&self, block: &Block, sets: Option<u32>) -> Result<(), ReadError> {
        let wrong = |set: &u32| sets.map_or(*set == u32::MAX, |sets| *set >= sets);
        match self.cards.iter().filter_map(|card| card.set).find(wrong) {
            Some(set) => Err(block.damaged(format!("a card of probe set {set}, which has no name"))),
            None => Ok(()),
        }
    }
}

/// One row of a block, before its bytes are looked at.
struct RawCard<'a> {
    example: u64,
    set: Option<u32>,
    kind: CardKind,
    width: u32,
    bytes: &'a [u8],
}

/// Reads a block of kind Cards.
pub(super) fn read(block: &Block) -> Result<CardRows, ReadError> {
    read_wanted(block, |_, _| true)
}

fn read_wanted(block: &Block, mut wanted: impl FnMut(Option<u32>, u64) -> bool) -> Result<CardRows, ReadError> {
    if block.width(Column::CardData).is_some_and(|bytes| bytes > CARD_BYTES_MAX) {
        return Err(block.damaged(format!("a card of more than {CARD_BYTES_MAX} bytes")));
    }
    let (examples, kinds) = (block.u64s(Column::Example)?, block.u8s(Column::CardKind)?);
    let (widths, lengths) = (block.u32s(Column::PictureWidth)?, block.u32s(Column::CardBytes)?);
    let (counts, data) = (block.u64s(Column::Count)?, block.u8s(Column::CardData)?);
    let sets = if block.has(Column::ProbeSet) { Some(block.u32s(Column::ProbeSet)?) } else { None };
    let room = block.width(Column::CardData).unwrap_or(0);
    let mut rows = CardRows::default();
    for row in 0..block.rows() {
        let length = lengths[row] as usize;
        let bytes = data.get(row * room..(row + 1) * room).and_then(|bytes| bytes.get(..length));
        let Some(bytes) = bytes else {
            return Err(block.damaged(format!("a card of {length} bytes, where {room} have room")));
        };
        let Some(kind) = CardKind::from_code(kinds[row]) else { continue };
        if kind == CardKind::Refused {
            rows.refused = rows.refused.saturating_add(counts[row]);
            continue;
        }
        let (example, set) = (examples[row], sets.as_ref().map(|sets| sets[row]));
        if wanted(set, example) {
            let raw = RawCard { example, set, kind, width: widths[row], bytes };
            rows.cards.push(raw.decode().map_err(|what| block.damaged(what))?);
        }
    }
    Ok(rows)
}

impl RawCard<'_> {
    fn decode(self) -> Result<CardRecord, String> {
        let Self { example, set, kind, width, bytes } = self;
        let content = match kind {
            CardKind::Gray | CardKind::Rgb => {
                let is_color = kind == CardKind::Rgb;
                let line = u64::from(width) * if is_color { 3 } else { 1 };
                let height = (bytes.len() as u64).checked_div(line).unwrap_or(0);
                if height == 0 || height * line != bytes.len() as u64 {
                    let what =
                        format!("a picture of {} bytes, {width} pixels to a row, of example {example}", bytes.len());
                    return Err(what);
                }
                CardContent::Picture { width, height: height as u32, is_color, pixels: bytes.to_vec() }
            }
            CardKind::Text => {
                let text =
                    std::str::from_utf8(bytes).map_err(|_| format!("the text of example {example} is no UTF-8"))?;
                CardContent::Text(text.to_owned())
            }
            CardKind::Row => {
                let cells =
                    decode_row(bytes).ok_or_else(|| format!("the row of example {example} is cut or no UTF-8"))?;
                CardContent::Row(cells)
            }
            CardKind::Refused => return Err("a count in place of a card".into()),
        };
        Ok(CardRecord { example, set, content })
    }
}

impl Block {
    /// The cards of a block of kind Cards. Cards of a kind that a newer version added are left out.
    ///
    /// # Errors
    /// As [`Block::u8s`]. Bytes that are no card are damage.
    pub fn cards(&self) -> Result<CardRows, ReadError> {
        read(self)
    }
}

impl Run {
    /// The cards that are wanted, in the order in which they were recorded. `wanted` is asked for the number of the
    /// probe set, `None` for a training example, and the example. If the run is damaged, those before the damage.
    ///
    /// Several workers may each have described an example. Then it comes several times.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if a card cannot be read.
    ///
    /// # Cost
    /// Reads the headers of all blocks, and holds the wanted cards.
    pub fn cards(&self, mut wanted: impl FnMut(Option<u32>, u64) -> bool) -> Result<Vec<CardRecord>, ReadError> {
        let mut cards = Vec::new();
        let mut scan = self.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Cards)) {
            cards.extend(read_wanted(&block, &mut wanted)?.cards);
        }
        scan.not_refused()?;
        Ok(cards)
    }
}
