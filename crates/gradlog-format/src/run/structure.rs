//! What the directory of a block must say: the columns of its kind, their types, and which come together (FORMAT.md,
//! "Checking a block"). Nothing here reads a column.

use super::block::Block;
use crate::log::{BlockKind, Cells, Column, ColumnEntry, ColumnKey, NO_LAYER};

/// The longest name of a probe set, in bytes.
const NAME_BYTES_MAX: u32 = 4096;

/// The columns without which no block is of this kind.
fn required(kind: BlockKind) -> &'static [Column] {
    match kind {
        BlockKind::Visits => &[Column::Example, Column::Step, Column::Epoch],
        BlockKind::Steps => &[Column::Step, Column::Epoch],
        BlockKind::Probes => &[Column::Example, Column::Step, Column::Epoch, Column::ProbeSet],
        BlockKind::Gaps => &[Column::Step, Column::Epoch, Column::Dropped],
        BlockKind::ProbeSet => &[Column::ProbeSet, Column::Name],
        BlockKind::End => &[Column::Visits, Column::Dropped],
        BlockKind::Checkpoints => &[Column::Step, Column::Epoch, Column::Bytes, Column::Checksum],
        BlockKind::Sweeps => &[Column::Example, Column::Step, Column::Epoch, Column::Mode],
        BlockKind::LayerRates => &[Column::Step, Column::Layer],
        BlockKind::Checks => &[Column::Step, Column::Epoch, Column::Checked, Column::Findings, Column::Text],
        BlockKind::Events => &[
            Column::Step,
            Column::Epoch,
            Column::EventKind,
            Column::EventAction,
            Column::Example,
            Column::Layer,
            Column::Value,
            Column::Limit,
            Column::Reference,
            Column::Count,
        ],
        BlockKind::Cards => &[
            Column::Example,
            Column::CardKind,
            Column::PictureWidth,
            Column::CardBytes,
            Column::Count,
            Column::CardData,
        ],
    }
}

/// Checks a block of a run with `layers` layers. A kind, a column or a type that this version does not know is passed
/// over: a newer version may write it.
///
/// # Errors
/// What no version writes, in words.
pub(super) fn check(block: &Block, layers: usize) -> Result<(), String> {
    let Some(kind) = block.kind() else { return Ok(()) };
    if let Some(lacking) = required(kind).iter().find(|column| !block.has(**column)) {
        return Err(format!("a block of {kind:?} without {lacking:?}"));
    }
    let one_row = matches!(kind, BlockKind::ProbeSet | BlockKind::End | BlockKind::Checkpoints | BlockKind::Checks);
    if one_row && block.header.rows != 1 {
        return Err(format!("a block of {kind:?} with {} rows, where one belongs", block.header.rows));
    }
    block.directory.entries().iter().try_for_each(|entry| check_column(block, entry, layers))
}

fn check_column(block: &Block, entry: &ColumnEntry, layers: usize) -> Result<(), String> {
    let Some(column) = Column::from_code(entry.column) else { return Ok(()) };
    if block.directory.unknown_amendment(entry).is_some() {
        return Ok(());
    }
    let layer = entry.layer;
    if column.is_of_layer() && usize::from(layer) >= layers {
        return Err(format!("{column:?} of layer {layer}, and the run has {layers} layers"));
    }
    if !column.is_of_layer() && layer != NO_LAYER {
        return Err(format!("{column:?} of layer {layer}, and it belongs to none"));
    }
    let has = |column: Column| block.has(ColumnKey { column, layer });
    let other_factor = match column {
        Column::Input => Some(Column::Delta),
        Column::Delta => Some(Column::Input),
        _ => None,
    };
    if let Some(lacking) = other_factor.filter(|other| !has(*other)) {
        return Err(format!("{column:?} of layer {layer} without {lacking:?}"));
    }
    // What a newer type needs beside it, and how wide it may be, is not known here.
    let Some(cells) = entry.cells() else { return Ok(()) };
    if !column.takes(cells) {
        return Err(format!("{column:?} has numbers of type {}", entry.cells));
    }
    if let Some(scales) = column.scales().filter(|scales| !has(*scales)) {
        return Err(format!("{column:?} without {scales:?}"));
    }
    if column == Column::Name {
        if entry.width > NAME_BYTES_MAX {
            return Err(format!("the name of a probe set has {} bytes, and {NAME_BYTES_MAX} are allowed", entry.width));
        }
    } else if entry.width != 1
        && !column.is_wide()
        && !matches!(cells, Cells::Vector(_))
        && !scales_newer_vectors(block, column, layer)
    {
        return Err(format!("{column:?} has {} numbers to a row", entry.width));
    }
    Ok(())
}

/// Whether the column holds the scales of vectors whose type this version does not know. There may be several for each.
fn scales_newer_vectors(block: &Block, column: Column, layer: u16) -> bool {
    let vectors = [Column::Input, Column::Delta, Column::Folded].into_iter().find(|of| of.scales() == Some(column));
    let entry = vectors.and_then(|column| block.directory.find(ColumnKey { column, layer }));
    entry.is_some_and(|(_, entry)| entry.cells().is_none())
}
