//! Cards as rows of blocks.

use gradlog_format::log::{BlockBuilder, BlockKind, CardKind, Cells, Column};
use std::collections::BTreeMap;

/// Whose card it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::recorder) struct CardKey {
    /// The number of the probe set; `None` for a training example.
    pub set: Option<u32>,
    pub example: u64,
}

/// A card on its way to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::recorder) struct CardRow {
    pub key: CardKey,
    pub kind: CardKind,
    /// Of a picture, pixels in a row.
    pub width: u32,
    pub bytes: Vec<u8>,
}

/// Blocks of cards, and of the number of those that were refused. All rows of a block take as many bytes as its longest
/// card, so cards of a block have like lengths: a shorter one has more than half of the bytes of the longest.
pub(in crate::recorder) fn card_blocks(cards: &[CardRow], refused: u64) -> Vec<BlockBuilder> {
    let mut groups: BTreeMap<(bool, usize), Vec<&CardRow>> = BTreeMap::new();
    for card in cards {
        let class = card.bytes.len().max(1).next_power_of_two();
        groups.entry((card.key.set.is_some(), class)).or_default().push(card);
    }
    let mut blocks: Vec<BlockBuilder> = groups.into_values().map(|cards| block(&cards)).collect();
    if refused > 0 {
        let mut counted = BlockBuilder::new(BlockKind::Cards);
        push(&mut counted, (Column::NO_EXAMPLE, None), (CardKind::Refused, 0, refused), (&[], 1));
        blocks.push(counted);
    }
    blocks
}

fn block(cards: &[&CardRow]) -> BlockBuilder {
    let mut rows = BlockBuilder::new(BlockKind::Cards);
    let room = cards.iter().map(|card| card.bytes.len()).max().unwrap_or(0).max(1);
    for card in cards {
        let CardRow { key, kind, width, bytes } = card;
        push(&mut rows, (key.example, key.set), (*kind, *width, 1), (bytes, room));
    }
    rows
}

fn push(
    rows: &mut BlockBuilder,
    (example, set): (u64, Option<u32>),
    (kind, width, count): (CardKind, u32, u64),
    (bytes, room): (&[u8], usize),
) {
    rows.u64s(Column::Example, [example]);
    if let Some(set) = set {
        rows.u32s(Column::ProbeSet, [set]);
    }
    rows.column(Column::CardKind, Cells::U8, 1).push(kind.code());
    rows.u32s(Column::PictureWidth, [width]);
    rows.u32s(Column::CardBytes, [bytes.len() as u32]);
    rows.u64s(Column::Count, [count]);
    let data = rows.column(Column::CardData, Cells::U8, room as u32);
    data.extend(bytes);
    data.extend(std::iter::repeat_n(0u8, room.saturating_sub(bytes.len())));
    rows.advance(1, 0, 0);
}
