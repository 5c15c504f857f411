//! Walking the visits of a run as tiles of flat vectors, forwards, or backwards step by step.
//!
//! Memory: the inflated columns of a few blocks, and the flat vectors of one tile of [`TILE_ROWS`] rows.

use super::flatten::{Flat, Flattener};
use crate::rows::driver::{blocks_in_flight, fold_each, Progress, ReadTo};
use crate::rows::gradient::{Gradients, Layout};
use crate::{error::NO_GRADIENTS, rows::column, AnalysisError, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Damage, ReadError, Run};
use rayon::prelude::*;

/// Rows whose flat vectors are held at a time.
const TILE_ROWS: usize = 256;

/// What is known of a visit beside its gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visit {
    pub example: u64,
    pub step: u64,
    pub learning_rate: f32,
    pub clip: f32,
    pub coefficient: f32,
    pub loss: f32,
    pub confidence: Option<f32>,
    /// Whether the visit lies inside the window.
    pub inside: bool,
    /// Whether its gradient can be used.
    pub usable: bool,
    pub label: Option<u32>,
    pub prediction: Option<u32>,
}

/// Visits that were left out, by the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub not_finite: u64,
    pub no_weight: u64,
    pub without_gradient: u64,
    pub other_layers: u64,
}

impl LeftOut {
    fn add(&mut self, other: &LeftOut) {
        self.not_finite += other.not_finite;
        self.no_weight += other.no_weight;
        self.without_gradient += other.without_gradient;
        self.other_layers += other.other_layers;
    }
}

/// Which visits are walked, and how they are made flat.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub run: &'a Run,
    pub flattener: &'a Flattener,
    pub window: &'a Window,
    /// Where the run is known to stop being readable: blocks from there on are not walked.
    pub before: Option<&'a Damage>,
}

/// How a walk ended.
#[derive(Debug, Clone, Default)]
#[must_use = "an answer has to say where what it stands on ends"]
pub(crate) struct Walked {
    /// Visits that were handed over.
    pub visits: u64,
    pub left_out: LeftOut,
    pub damage: Option<Damage>,
}

impl Walked {
    /// The error of a walk that met visits but could use none.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`] or [`AnalysisError::OtherLayers`].
    pub(crate) fn check(&self, score: &'static str) -> Result<(), AnalysisError> {
        if self.visits > 0 {
            return Ok(());
        }
        let what = if self.left_out.without_gradient > 0 {
            "gradients of its visits"
        } else if self.left_out.other_layers > 0 {
            "visits inside the window whose layers were recorded in the form of the probes'"
        } else {
            "usable visits inside the window"
        };
        let how = if self.left_out.without_gradient > 0 {
            NO_GRADIENTS
        } else {
            "`gradlog info` lists epochs, steps and layers"
        };
        Err(AnalysisError::Missing { score, what, how })
    }
}

/// The rows of one block.
struct Rows {
    visits: Vec<Visit>,
    gradients: Option<Gradients>,
    left_out: LeftOut,
}

impl Walk<'_> {
    fn read(&self, block: &Block, everything: bool) -> Result<Rows, AnalysisError> {
        let inside = self.window.rows(block)?;
        let examples = column::u64s(block, Column::Example)?;
        let chosen = |row: usize| inside.as_ref().is_none_or(|inside| inside[row]);
        let mut left_out = LeftOut::default();
        let layout = Layout::of(block, &self.run.manifest().layers);
        if layout != self.flattener.layout {
            let count = (0..examples.len()).filter(|row| chosen(*row)).count() as u64;
            let to = if layout.is_empty() { &mut left_out.without_gradient } else { &mut left_out.other_layers };
            *to = count;
            return Ok(Rows { visits: Vec::new(), gradients: None, left_out });
        }
        let steps = column::u64s(block, Column::Step)?;
        let rates = column::f32s(block, Column::LearningRate)?;
        let clips = column::optional(block, Column::Clip, column::f32s)?;
        let coefficients = column::f32s(block, Column::Coefficient)?;
        let losses = column::f32s(block, Column::Loss)?;
        let confidences = column::optional(block, Column::Confidence, column::f32s)?;
        let flags = column::optional(block, Column::Flags, column::u8s)?;
        let labels = column::classes(block, Column::Label)?;
        let predictions = column::classes(block, Column::Prediction)?;
        let mut visits = Vec::with_capacity(examples.len());
        for (row, &example) in examples.iter().enumerate() {
            let flags = flags.as_ref().map_or(0, |flags| flags[row]);
            let clip = clips.as_ref().map_or(1.0, |clips| clips[row]);
            let numbers = [rates[row], clip, coefficients[row]];
            let finite = flags & Column::FLAG_NOT_FINITE == 0 && numbers.iter().all(|number| number.is_finite());
            let weighed = flags & Column::FLAG_NO_WEIGHT == 0;
            if chosen(row) {
                left_out.not_finite += u64::from(!finite);
                left_out.no_weight += u64::from(finite && !weighed);
            }
            visits.push(Visit {
                example,
                step: steps[row],
                learning_rate: rates[row],
                clip,
                coefficient: coefficients[row],
                loss: losses[row],
                confidence: confidences.as_ref().map(|confidences| confidences[row]),
                inside: chosen(row),
                usable: finite && weighed,
                label: labels.as_ref().and_then(|labels| labels[row]),
                prediction: predictions.as_ref().and_then(|predictions| predictions[row]),
            });
        }
        let gradients = if everything || visits.iter().any(|visit| visit.inside) {
            Some(Gradients::read(block, &layout)?)
        } else {
            None
        };
        Ok(Rows { visits, gradients, left_out })
    }

    fn before_damage(&self, block: &Block) -> bool {
        self.before.is_none_or(|damage| damage.block.is_none_or(|at| block.sequence() < at))
    }

    /// Hands over all usable visits inside the window, in the order of the run, tile by tile; those of a block that cannot
    /// be used follow without flat vectors, `flat.rows = 0`.
    ///
    /// # Errors
    /// What `each` says, or [`AnalysisError::Read`] if the file system refuses.
    pub(crate) fn forwards(
        &self,
        progress: Progress<'_>,
        mut each: impl FnMut(&[Visit], &Flat) -> Result<(), AnalysisError> + Send,
    ) -> Result<Walked, AnalysisError> {
        let mut walked = Walked::default();
        let keep = |block: &Block| {
            block.kind() == Some(BlockKind::Visits) && self.window.touches(block) && self.before_damage(block)
        };
        let fold = |rows: Rows| {
            walked.left_out.add(&rows.left_out);
            let Some(gradients) = rows.gradients else { return Ok(()) };
            let usable: Vec<usize> =
                (0..rows.visits.len()).filter(|row| rows.visits[*row].inside && rows.visits[*row].usable).collect();
            for tile in usable.chunks(TILE_ROWS) {
                let visits: Vec<Visit> = tile.iter().map(|row| rows.visits[*row]).collect();
                walked.visits += visits.len() as u64;
                each(&visits, &self.flattener.flatten(&gradients, tile))?;
            }
            let unusable: Vec<Visit> =
                rows.visits.iter().filter(|visit| visit.inside && !visit.usable).copied().collect();
            if unusable.is_empty() {
                return Ok(());
            }
            let nothing = Flat { rows: 0, blocks: vec![Vec::new(); self.flattener.blocks.len()] };
            each(&unusable, &nothing)
        };
        let ReadTo(damage) = fold_each(self.run, progress, keep, |block| self.read(block, false), fold)?;
        walked.damage = damage.or_else(|| self.before.cloned());
        Ok(walked)
    }

    /// Hands over all usable visits, inside the window or not, from the last step to the first: tiles of one step each.
    ///
    /// `blocks` are visit blocks in the order of the run, all of which are known to be sound. Counts only what lies inside
    /// the window.
    ///
    /// # Errors
    /// What `each` says; [`AnalysisError::Read`] if the file system refuses, if a block has changed since, or if the steps
    /// are not in order.
    pub(crate) fn backwards(
        &self,
        blocks: &[Block],
        progress: Progress<'_>,
        mut each: impl FnMut(&[Visit], &Flat) -> Result<(), AnalysisError>,
    ) -> Result<Walked, AnalysisError> {
        let mut walked = Walked::default();
        let mut later = u64::MAX;
        for group in blocks.rchunks(blocks_in_flight()) {
            let read: Vec<Result<Rows, AnalysisError>> = group
                .par_iter()
                .map(|block| {
                    let rows = self.read(block, true);
                    progress(block.bytes());
                    rows
                })
                .collect();
            for (rows, block) in read.into_iter().zip(group).rev() {
                let rows = rows?;
                walked.left_out.add(&rows.left_out);
                let Some(gradients) = rows.gradients else { continue };
                for stretch in rows.visits.chunk_by(|a, b| a.step == b.step).rev() {
                    if stretch[0].step > later {
                        return Err(unordered(block, stretch[0].step, later).into());
                    }
                    later = stretch[0].step;
                }
                let mut end = rows.visits.len();
                for stretch in rows.visits.chunk_by(|a, b| a.step == b.step).rev() {
                    let first = end - stretch.len();
                    end = first;
                    let usable: Vec<usize> =
                        (first..first + stretch.len()).filter(|row| rows.visits[*row].usable).collect();
                    for tile in usable.chunks(TILE_ROWS) {
                        let visits: Vec<Visit> = tile.iter().map(|row| rows.visits[*row]).collect();
                        walked.visits += visits.iter().filter(|visit| visit.inside).count() as u64;
                        each(&visits, &self.flattener.flatten(&gradients, tile))?;
                    }
                }
            }
        }
        Ok(walked)
    }
}

fn unordered(block: &Block, step: u64, later: u64) -> ReadError {
    block.damaged(format!(
        "a visit of step {step} stands before one of step {later}, so steps cannot be walked backwards"
    ))
}
