//! The probes' side of a pass: their gradients at the times that the visits at hand need.
//!
//! They are decoded when the visits come to their time and dropped when the visits have moved on, so that memory does
//! not grow with the number of probe times.

use super::block_visits::Lent;
use super::norms::{make_unit, scale_layers};
use crate::influence::plan::index::Record;
use crate::influence::plan::{InfluencePlan, Pass};
use crate::influence::products::{ProbeSide, Stored};
use crate::influence::question::Normalization;
use crate::rows::driver::{blocks_in_flight, fold_groups, ReadTo};
use crate::rows::gradient::Gradients;
use crate::AnalysisError;
use gradlog_format::run::{Block, ReadError};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl InfluencePlan<'_> {
    /// Hands all visit blocks to `read` and what it makes of them to `fold`, with the probes at the times that they
    /// need.
    pub(super) fn fold_visits<T: Send>(
        &self,
        pass: &Pass,
        read: impl Fn(&Lent, &Block) -> Result<T, AnalysisError> + Sync,
        fold: impl FnMut(&Lent, Vec<T>) -> Result<(), AnalysisError> + Send,
    ) -> Result<ReadTo, AnalysisError> {
        let mut held = Lent::new();
        let prepare = |blocks: &[Block]| {
            let needed: BTreeSet<usize> =
                blocks.iter().flat_map(|block| self.needed_times(&pass.times, block)).collect();
            held.retain(|time, _| needed.contains(time));
            let absent: Vec<usize> = needed.into_iter().filter(|time| !held.contains_key(time)).collect();
            held.extend(self.decode_probes(pass, &absent)?);
            blocks.iter().for_each(|block| block.announce(self.layout.keys().map(|(values, _)| values)));
            Ok(held.clone())
        };
        fold_groups(
            self.run,
            &self.question.progress,
            blocks_in_flight(),
            |block| self.wants_block(block),
            prepare,
            read,
            fold,
        )
    }

    /// The gradients of the pass's probes at some times.
    fn decode_probes(&self, pass: &Pass, times: &[usize]) -> Result<Lent, AnalysisError> {
        let layout = &self.layout;
        let parts = layout.widths().len();
        let mut by_block: BTreeMap<usize, Vec<(usize, usize, usize)>> = BTreeMap::new();
        for &time in times {
            for (probe, id) in pass.ids.iter().enumerate() {
                // Probes of one pass share their times, so each has a record at every one of them.
                let record = self.index.records.get(id).and_then(|records| records.get(&pass.times[time]));
                if let Some(&Record { block, row }) = record {
                    by_block.entry(block).or_default().push((time, probe, row));
                }
            }
        }
        let stored: Vec<Result<Vec<Vec<Stored>>, ReadError>> = by_block
            .par_iter()
            .map(|(&block, wanted)| {
                let gradients = Gradients::read(&self.index.blocks[block], layout)?;
                let parts_at = |row| (0..parts).map(|part| Stored::read(gradients.part(part), row)).collect();
                let mut stored: Vec<Vec<Stored>> = wanted.iter().map(|&(_, _, row)| parts_at(row)).collect();
                if self.question.normalization == Normalization::Cosine {
                    let rows: Vec<usize> = wanted.iter().map(|&(_, _, row)| row).collect();
                    let norms = self.squared_norms(&self.index.blocks[block], &gradients, &rows)?;
                    stored.iter_mut().zip(norms).for_each(|(parts, norm)| make_unit(parts, layout, norm));
                }
                for parts in &mut stored {
                    scale_layers(parts, layout, &self.factors);
                }
                Ok(stored)
            })
            .collect();
        let mut by_time: BTreeMap<usize, Vec<(usize, Vec<Stored>)>> = BTreeMap::new();
        for (wanted, stored) in by_block.into_values().zip(stored) {
            for ((time, probe, _), stored) in wanted.into_iter().zip(stored?) {
                by_time.entry(time).or_default().push((probe, stored));
            }
        }
        let side = |(time, mut probes): (usize, Vec<(usize, Vec<Stored>)>)| {
            probes.sort_by_key(|(probe, _)| *probe);
            let stored: Vec<Vec<Stored>> = probes.into_iter().map(|(_, stored)| stored).collect();
            (time, Arc::new(ProbeSide::new(&self.scheme, &stored)))
        };
        Ok(by_time.into_par_iter().map(side).collect())
    }
}
