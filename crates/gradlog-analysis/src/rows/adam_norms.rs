//! Norms of visits in Adam's metric: whether the rows of a window have them, so that self-influence and what is divided
//! by it follow the steps that Adam took.
//!
//! Either all rows of a window count in this metric or none does. Two kinds of visits have no such norm in any run, and
//! are left out and counted: those of the optimizer's first step, before it has moments, and those of a step that
//! changed the ratio of a layer's learning rate, since their norms still have the old one.

use super::adam_steps::AdamRates;
use super::layer_rates::LayerRates;
use super::window::Window;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, ReadError, Run};
use std::collections::BTreeSet;

/// The rows of a window in Adam's metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AdamNorms {
    pub rates: AdamRates,
    /// Steps whose visits have no norm in the metric.
    without: BTreeSet<u64>,
    on_sweeps: bool,
}

impl AdamNorms {
    /// `None` unless all steps of the run were of one Adam or AdamW, and all rows of the window that have a norm have
    /// one in its metric too.
    ///
    /// # Errors
    /// [`AnalysisError::Read`] if the file system refuses. Damage ends the search: the answer meets the same.
    pub(crate) fn find(run: &Run, window: &Window) -> Result<Option<Self>, AnalysisError> {
        let Some(rates) = AdamRates::read(run)? else { return Ok(None) };
        let on_sweeps = window.is_on_sweeps();
        // A checkpoint of step 0 is before all moments.
        let mut without = BTreeSet::from_iter(on_sweeps.then_some(0));
        let of_layers = LayerRates::read(run)?;
        if on_sweeps && !of_layers.changes().is_empty() {
            // A replay does not know the rates of layers.
            return Ok(None);
        }
        if !on_sweeps {
            without.extend(rates.first_steps());
            without.extend(of_layers.changes());
        }
        let found = Self { rates, without, on_sweeps };
        let mut any = false;
        let is_read = |block: &Block| window.is_on(block) && window.touches(block) && block.has(Column::SquaredNorm);
        for block in run.scan().filter(is_read) {
            if block.has(Column::PreconditionedSquaredNorm) {
                any = true;
                continue;
            }
            match found.may_lack(&block, window) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(ReadError::Damaged(_)) => break,
                Err(other) => return Err(other.into()),
            }
        }
        Ok(any.then_some(found))
    }

    /// Whether no row of the block inside the window could have a norm in the metric.
    fn may_lack(&self, block: &Block, window: &Window) -> Result<bool, ReadError> {
        let steps = column::u64s(block, Column::Step)?;
        Ok(window.all_inside(block)?.rows().all(|row| self.without.contains(&steps[row])))
    }

    /// Of each row of a block, whether its norm in the metric is known; `None` if all are.
    pub(crate) fn known(&self, block: &Block) -> Result<Option<Vec<bool>>, ReadError> {
        if !block.has(Column::PreconditionedSquaredNorm) {
            return Ok(Some(vec![false; block.rows()]));
        }
        let (first, last) = block.steps();
        if first > last || self.without.range(first..=last).next().is_none() {
            return Ok(None);
        }
        let steps = column::u64s(block, Column::Step)?;
        Ok(Some(steps.iter().map(|step| !self.without.contains(step)).collect()))
    }

    /// Puts the rates at which gradients act in the place of the learning rates of a block. Sweeps keep those of their
    /// checkpoints.
    pub(crate) fn set_rates(&self, block: &Block, learning_rates: &mut [f32]) -> Result<(), ReadError> {
        if self.on_sweeps {
            return Ok(());
        }
        let steps = column::u64s(block, Column::Step)?;
        learning_rates.iter_mut().zip(steps).for_each(|(rate, step)| *rate = self.rates.at(step) as f32);
        Ok(())
    }
}
