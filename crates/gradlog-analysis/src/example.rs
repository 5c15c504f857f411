//! The curve of one example: what was recorded of it, visit by visit.

use crate::rows::basis::Uses;
use crate::rows::column;
use crate::rows::driver::{fold_each, fold_in_step_order, ReadTo};
use crate::rows::layer_norms::LayerNorms;
use crate::rows::layer_rates::LayerRates;
use crate::rows::sweep::{Sweeps, Untrained};
use crate::{AnalysisError, Basis, LeftOut, Progress, Window};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, Damage, ReadError, Run};
use std::collections::HashSet;

#[cfg(test)]
mod tests;

/// Asks for the curve of one training example: its loss, margin, prediction and the like at each visit.
///
/// ```no_run
/// use gradlog_analysis::{ExampleQuestion, Run};
///
/// for visit in ExampleQuestion::new(4475).compute(&Run::open("runs/mnist")?)?.visits {
///     println!("step {}: loss {:?}, predicted {:?}", visit.step, visit.loss, visit.prediction);
/// }
/// # Ok::<(), gradlog_analysis::AnalysisError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExampleQuestion {
    example: u64,
    window: Window,
    progress: Progress,
}

window_options!(ExampleQuestion);
source_options!(ExampleQuestion);
progress_options!(ExampleQuestion);

/// What was recorded of one example.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ExampleHistory {
    /// Its id.
    pub example: u64,
    /// What it rests on. If it is sweeps, "visits" below are rows of these.
    pub basis: Basis,
    /// Its visits inside the window, in the order of the steps. A visit with a NaN or an infinity is among them.
    pub visits: Vec<ExampleVisit>,
    /// What was left out of the example, by the reason: rows of sweeps that later ones replace.
    pub left_out: LeftOut,
    /// Where the run stopped being readable, if it did; the visits are then those of what came before.
    pub damage: Option<Damage>,
}

/// One visit of an example. A number is `None` where it was not recorded, and NaN where it was recorded as NaN.
///
/// The numbers are those of the forward and the backward pass of the visit, so they belong to the weights just before
/// the step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ExampleVisit {
    /// The optimizer step that the visit took part in, or the one after which the checkpoint of a sweep was taken.
    pub step: u64,
    /// Its epoch.
    pub epoch: u32,
    /// The example's own loss, in the unit of the loss; the mean over its predictions, where it has several.
    pub loss: Option<f32>,
    /// The logit of the label minus the largest other logit (Pleiss et al. 2020, arXiv 2001.10528, §3).
    pub margin: Option<f32>,
    /// `‖p − onehot(y)‖₂`, 0 to √2 (Paul et al. 2021, arXiv 2107.07075, §2).
    pub el2n: Option<f32>,
    /// The probability of the label, 0 to 1.
    pub confidence: Option<f32>,
    /// The share of the predictions that are right: 0 or 1 where there is one prediction.
    pub correct: Option<f32>,
    /// The label.
    pub label: Option<u32>,
    /// The predicted class; of several predictions, the one that the log keeps.
    pub prediction: Option<u32>,
    /// `‖g‖²` of the example's own gradient, of the layers that are trained. `None` also where the loss gave the
    /// example no weight, so that its gradient was not seen.
    pub squared_norm: Option<f64>,
    /// Whether the squared norm is an estimate from a sketch, and not exact.
    pub is_norm_estimated: bool,
    /// The learning rate of the step.
    pub learning_rate: Option<f32>,
    /// The derivative of the differentiated loss by the example's own loss: `1/B` under a mean over a batch of `B`.
    pub coefficient: Option<f32>,
}

impl ExampleQuestion {
    /// The curve of the training example with this id, over the whole run.
    pub fn new(id: u64) -> Self {
        Self { example: id, window: Window::default(), progress: Progress::default() }
    }

    /// Reads the visits of the example.
    ///
    /// # Errors
    /// [`AnalysisError::NotVisited`] if the example has no visit inside the window, with the ids that have;
    /// [`AnalysisError::OutsideRun`] for a window without visits, [`AnalysisError::NoSuchSweep`] for one without
    /// sweeps; [`AnalysisError::Cut`] if the visits may lie behind damage; [`AnalysisError::Read`] if the file
    /// system refuses. Damage behind visits of the example is not an error.
    ///
    /// # Cost
    /// One pass over the ids, and over the small columns of the blocks that hold the example. Memory: 72 bytes for each
    /// of its visits.
    pub fn compute(&self, run: &Run) -> Result<ExampleHistory, AnalysisError> {
        self.window.refuse_outside(&[run])?;
        let sweeps = Sweeps::find(run, &self.window, Untrained::Counts)?;
        let mut visits = Vec::new();
        let mut left_out = LeftOut::default();
        let keep = |block: &Block| self.window.is_on(block) && self.window.touches(block);
        let rates = LayerRates::read(run)?;
        let on_sweeps = self.window.is_on_sweeps();
        let norms = LayerNorms { rates: &rates, manifest: run.manifest(), uses_rates: false, on_sweeps };
        let read = |block: &Block| self.read_block(&sweeps, &norms, block);
        let fold = |found: &Found, rows: std::ops::Range<usize>| {
            if rows.start == 0 {
                left_out.replaced += found.replaced;
            }
            visits.extend(found.visits.iter().filter(|(row, _)| rows.contains(row)).map(|(_, visit)| *visit));
            Ok(())
        };
        let ReadTo(damage) = fold_in_step_order(run, &self.progress, keep, read, fold)?;
        // A replay takes checkpoints in any order.
        visits.sort_by_key(|visit| visit.step);
        if visits.is_empty() {
            return Err(match (self.not_visited(run)?, damage) {
                (error, None) => error,
                (error, Some(damage)) => AnalysisError::Cut { source: Box::new(error), damage },
            });
        }
        let has_gradients = visits.iter().any(|visit: &ExampleVisit| visit.squared_norm.is_some());
        let uses = if has_gradients { Uses::Gradients } else { Uses::Outputs };
        let basis = Basis::of(run, &self.window, sweeps.rows(), uses)?.with_left_out(&left_out);
        Ok(ExampleHistory { example: self.example, basis, visits, left_out, damage })
    }

    fn read_block(&self, sweeps: &Sweeps, norms: &LayerNorms<'_>, block: &Block) -> Result<Found, AnalysisError> {
        let examples = column::u64s(block, Column::Example)?;
        let rows: Vec<usize> = (0..examples.len()).filter(|row| examples[*row] == self.example).collect();
        if rows.is_empty() {
            return Ok(Found::default());
        }
        let (inside, counted) = (self.window.rows_inside(block)?, sweeps.rows_inside(&self.window, block)?);
        let mut columns = Columns::read(block)?;
        if let Some(squared_norms) = &mut columns.squared_norms {
            norms.correct(block, squared_norms)?;
        }
        let replaced = rows.iter().filter(|row| inside.contains(**row) && !counted.contains(**row)).count() as u64;
        let visits = rows.into_iter().filter(|row| counted.contains(*row)).map(|row| (row, columns.visit(row)));
        Ok(Found { visits: visits.collect(), replaced })
    }

    /// The error of an example without visits: it says which examples have some inside the window.
    fn not_visited(&self, run: &Run) -> Result<AnalysisError, AnalysisError> {
        let keep = |block: &Block| self.window.is_on(block) && self.window.touches(block);
        let read = |block: &Block| Ok(self.window.rows_inside(block)?.select(column::u64s(block, Column::Example)?));
        let mut ids: HashSet<u64> = HashSet::new();
        // The pass before this one met the same damage.
        let _ = fold_each(run, &Progress::default(), keep, read, |found| {
            ids.extend(found);
            Ok(())
        })?;
        let known = ids.iter().min().zip(ids.iter().max()).map(|(first, last)| *first..=*last);
        Ok(AnalysisError::NotVisited { id: self.example, known, count: ids.len() as u64 })
    }
}

/// The example's rows in one block.
#[derive(Default)]
struct Found {
    /// Row and visit.
    visits: Vec<(usize, ExampleVisit)>,
    /// Rows of sweeps that later ones replace.
    replaced: u64,
}

/// The columns of a block that a visit is made of.
pub(crate) struct Columns {
    steps: Vec<u64>,
    epochs: Vec<u32>,
    losses: Option<Vec<f32>>,
    margins: Option<Vec<f32>>,
    el2ns: Option<Vec<f32>>,
    confidences: Option<Vec<f32>>,
    corrects: Option<Vec<f32>>,
    labels: Option<Vec<Option<u32>>>,
    predictions: Option<Vec<Option<u32>>>,
    pub(crate) squared_norms: Option<Vec<f32>>,
    flags: Option<Vec<u8>>,
    pub(crate) learning_rates: Option<Vec<f32>>,
    coefficients: Option<Vec<f32>>,
}

impl Columns {
    pub(crate) fn read(block: &Block) -> Result<Self, ReadError> {
        let numbers = |column| column::optional(block, column, column::f32s);
        Ok(Self {
            steps: column::u64s(block, Column::Step)?,
            epochs: column::u32s(block, Column::Epoch)?,
            losses: numbers(Column::Loss)?,
            margins: numbers(Column::Margin)?,
            el2ns: numbers(Column::El2n)?,
            confidences: numbers(Column::Confidence)?,
            corrects: numbers(Column::Correct)?,
            labels: column::classes(block, Column::Label)?,
            predictions: column::classes(block, Column::Prediction)?,
            squared_norms: numbers(Column::SquaredNorm)?,
            flags: column::optional(block, Column::Flags, column::u8s)?,
            learning_rates: numbers(Column::LearningRate)?,
            coefficients: numbers(Column::Coefficient)?,
        })
    }

    pub(crate) fn visit(&self, row: usize) -> ExampleVisit {
        let number = |values: &Option<Vec<f32>>| values.as_ref().map(|values| values[row]);
        let class = |values: &Option<Vec<Option<u32>>>| values.as_ref().and_then(|values| values[row]);
        let flags = self.flags.as_ref().map_or(0, |flags| flags[row]);
        let squared_norm = number(&self.squared_norms).filter(|_| flags & Column::FLAG_NO_WEIGHT == 0);
        ExampleVisit {
            step: self.steps[row],
            epoch: self.epochs[row],
            loss: number(&self.losses),
            margin: number(&self.margins),
            el2n: number(&self.el2ns),
            confidence: number(&self.confidences),
            correct: number(&self.corrects),
            label: class(&self.labels),
            prediction: class(&self.predictions),
            squared_norm: squared_norm.map(Column::decode_squared_norm),
            is_norm_estimated: squared_norm.is_some() && flags & Column::FLAG_NORM_ESTIMATED != 0,
            learning_rate: number(&self.learning_rates),
            coefficient: number(&self.coefficients),
        }
    }
}
