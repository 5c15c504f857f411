//! What examples look like, as rows of a table: pictures, texts and rows, one batch for each block.

use super::cell::Names;
use crate::TableError;
use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder, StructBuilder, UInt32Builder, UInt64Builder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Fields};
use gradlog_format::run::{Block, CardContent};
use std::sync::Arc;

/// A cell of a row.
fn cell_fields() -> Fields {
    Fields::from(vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Utf8, false)])
}

/// Names and values in their order.
pub(super) fn row_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(cell_fields()), false)))
}

/// All columns of a block, under their names. Counts of refused cards are no cards.
pub(super) fn read(block: &Block, names: Names<'_>) -> Result<RecordBatch, TableError> {
    let cards = block.cards()?.cards;
    let (mut examples, mut workers) = (UInt64Builder::new(), UInt32Builder::new());
    let (mut widths, mut heights) = (UInt32Builder::new(), UInt32Builder::new());
    let (mut sets, mut kinds, mut texts) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let mut pixels = BinaryBuilder::new();
    let item = Field::new("item", DataType::Struct(cell_fields()), false);
    let cells = StructBuilder::new(cell_fields(), vec![Box::new(StringBuilder::new()), Box::new(StringBuilder::new())]);
    let mut rows = ListBuilder::new(cells).with_field(item);
    for card in &cards {
        examples.append_value(card.example);
        workers.append_option(block.worker());
        match card.set {
            None => sets.append_null(),
            // Without its name a probe would pass for a training example.
            Some(set) => match names.sets.get(set as usize) {
                Some(name) => sets.append_value(name),
                None => {
                    return Err(block.damaged(format!("a card of probe set {set}, which has no name")).into());
                }
            },
        }
        let (mut picture, mut text, mut row) = (None, None, None);
        kinds.append_value(match &card.content {
            CardContent::Picture { width, height, is_color, pixels } => {
                picture = Some((*width, *height, pixels));
                if *is_color {
                    "rgb"
                } else {
                    "gray"
                }
            }
            CardContent::Text(words) => {
                text = Some(words.as_str());
                "text"
            }
            CardContent::Row(cells) => {
                row = Some(cells.as_slice());
                "row"
            }
            // A kind that this table does not know yet has none of its columns.
            _ => "other",
        });
        widths.append_option(picture.map(|(width, ..)| width));
        heights.append_option(picture.map(|(_, height, _)| height));
        pixels.append_option(picture.map(|(.., pixels)| pixels));
        texts.append_option(text);
        for (name, value) in row.unwrap_or_default() {
            let cells = rows.values();
            for (place, text) in [(0, name), (1, value)] {
                // The builder was made of two builders of texts.
                if let Some(column) = cells.field_builder::<StringBuilder>(place) {
                    column.append_value(text);
                }
            }
            cells.append(true);
        }
        rows.append(row.is_some());
    }
    let columns: [(&str, ArrayRef); 9] = [
        ("example", Arc::new(examples.finish())),
        ("set", Arc::new(sets.finish())),
        ("worker", Arc::new(workers.finish())),
        ("kind", Arc::new(kinds.finish())),
        ("width", Arc::new(widths.finish())),
        ("height", Arc::new(heights.finish())),
        ("pixels", Arc::new(pixels.finish())),
        ("text", Arc::new(texts.finish())),
        ("row", Arc::new(rows.finish())),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))?)
}
