//! The flat gradients of probes, and the choice of the one time at which each is taken.

use crate::influence::plan::index::{Index, Record};
use crate::rows::gradient::Gradients;
use crate::vectors::flatten::{Flat, Flattener};
use crate::{rows::column, AnalysisError};
use gradlog_format::log::Column;
use std::collections::BTreeMap;

/// Probes at one time each.
pub(super) struct ProbeRows {
    pub flat: Flat,
    /// Of each probe, the step before which it was taken.
    pub times: Vec<u64>,
    /// Of each probe, its loss there.
    pub losses: Vec<f32>,
    /// Of each probe, the probability of its label, if that was recorded.
    pub confidences: Vec<Option<f32>>,
}

impl ProbeRows {
    /// The records of `ids` that `choose` takes from those of each, by time; there is at least one.
    pub(super) fn load(
        index: &Index,
        flattener: &Flattener,
        ids: &[u64],
        choose: impl Fn(&BTreeMap<u64, Record>) -> Option<(u64, Record)>,
    ) -> Result<Self, AnalysisError> {
        let chosen: Vec<(u64, Record)> = ids.iter().filter_map(|id| index.records.get(id)).filter_map(choose).collect();
        let records: Vec<Record> = chosen.iter().map(|(_, record)| *record).collect();
        let (flat, losses, confidences) = load(index, flattener, &records)?;
        Ok(Self { flat, times: chosen.iter().map(|(time, _)| *time).collect(), losses, confidences })
    }
}

/// The time nearest to `step`, of two equally near the later.
pub(super) fn nearest(records: &BTreeMap<u64, Record>, step: u64) -> Option<(u64, Record)> {
    let near = records.iter().min_by_key(|(time, _)| (time.abs_diff(step), std::cmp::Reverse(**time)));
    near.map(|(time, record)| (*time, *record))
}

/// The last time.
pub(super) fn last(records: &BTreeMap<u64, Record>) -> Option<(u64, Record)> {
    records.last_key_value().map(|(time, record)| (*time, *record))
}

type Loaded = (Flat, Vec<f32>, Vec<Option<f32>>);

/// Flat gradients, losses and confidences of some records, in their order. Each block is read once.
pub(super) fn load(index: &Index, flattener: &Flattener, records: &[Record]) -> Result<Loaded, AnalysisError> {
    let mut by_block: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (position, record) in records.iter().enumerate() {
        by_block.entry(record.block).or_default().push(position);
    }
    let mut flat = Flat {
        rows: records.len(),
        blocks: flattener.blocks.iter().map(|block| vec![0f32; records.len() * block.width]).collect(),
        // Probes are never recorded as signs.
        excess: Vec::new(),
        apart: Vec::new(),
    };
    let (mut losses, mut confidences) = (vec![0f32; records.len()], vec![None; records.len()]);
    for (number, positions) in by_block {
        let block = &index.blocks[number];
        let gradients = Gradients::read(block, &flattener.layout)?;
        let loss = column::f32s(block, Column::Loss)?;
        let confidence = column::optional(block, Column::Confidence, column::f32s)?;
        let rows: Vec<usize> = positions.iter().map(|position| records[*position].row).collect();
        let part = flattener.flatten(&gradients, &rows);
        for (from, (&to, &row)) in positions.iter().zip(&rows).enumerate() {
            for ((out, part), about) in flat.blocks.iter_mut().zip(&part.blocks).zip(&flattener.blocks) {
                let width = about.width;
                out[to * width..(to + 1) * width].copy_from_slice(&part[from * width..(from + 1) * width]);
            }
            losses[to] = loss[row];
            confidences[to] = confidence.as_ref().map(|confidence| confidence[row]);
        }
    }
    Ok((flat, losses, confidences))
}
