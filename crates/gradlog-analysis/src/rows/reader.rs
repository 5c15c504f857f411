//! The one reader of rows: which rows of a block count for a score, and why the others do not.

use super::gradient::Layout;
use super::inside::Inside;
use super::left_out::LeftOut;
use super::rule::{verdict, AbsentNumber, Predictions, RowRule, Verdict};
use super::sweep::Sweeps;
use super::window::Window;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{Column, Manifest};
use gradlog_format::run::{Block, ReadError};
use gradlog_kernels::simd::vectorized;

/// Which gradient a block must hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WantedGradient<'a> {
    /// None: the score is made of numbers alone.
    None,
    /// That of exactly these layers, in this form, in a run with this manifest.
    Whole(&'a Layout, &'a Manifest),
    /// The input factor of one layer, of this length.
    Input { layer: u16, width: usize, manifest: &'a Manifest },
}

/// Reads which rows count, block by block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowReader<'a> {
    pub window: &'a Window,
    /// The sweeps inside the window; those of a window on visits say nothing.
    pub sweeps: &'a Sweeps,
    pub rule: RowRule,
    pub gradient: WantedGradient<'a>,
}

/// Why no row of a block counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlockGap {
    /// It lacks a number that the score is made of.
    Missing,
    /// It lacks the learning rates of its steps.
    WithoutRate,
    /// It lacks norms in the metric of Adam, where others have them.
    WithoutMoments,
    /// It holds no gradients.
    WithoutGradient,
    /// It holds those of other layers, or in another form: in this one.
    OtherLayers(Layout),
}

/// The rows of a block, each of which can be judged.
#[derive(Debug)]
pub(crate) struct BlockRows {
    /// Which lie inside the window, and on sweeps are not repeated by a later row.
    pub inside: Inside,
    /// Why none of them counts, if that is known of the whole block; the fields below are then empty.
    pub gap: Option<BlockGap>,
    /// Of each number of the rule, the value of each row.
    pub numbers: Vec<Vec<f32>>,
    pub flags: Option<Vec<u8>>,
    /// How many predictions each row is made of; one each, where it is `None`.
    pub positions: Option<Vec<u32>>,
    /// Rows that would lie inside, but have no norm in the metric of Adam.
    without_moments: u64,
    /// Whether a row without weight is left out.
    pub leaves_out_unseen: bool,
    /// Whether a row with several predictions is left out.
    leaves_out_several: bool,
}

impl RowReader<'_> {
    /// Reads of a block what says which of its rows count.
    ///
    /// # Errors
    /// [`AnalysisError::SeveralPredictions`] where the rule refuses them; [`AnalysisError::Read`].
    pub(crate) fn read(&self, block: &Block) -> Result<BlockRows, AnalysisError> {
        let mut rows = BlockRows {
            inside: self.sweeps.rows_inside(self.window, block)?,
            gap: self.find_gap(block),
            numbers: Vec::new(),
            flags: None,
            positions: None,
            without_moments: 0,
            leaves_out_unseen: self.rule.leaves_out_unseen(self.window.is_on_sweeps()),
            leaves_out_several: self.rule.predictions == Predictions::OneOrLeftOut,
        };
        if rows.gap.is_some() {
            return Ok(rows);
        }
        if self.rule.predictions != Predictions::NotUsed {
            rows.positions = column::optional(block, Column::Positions, column::u32s)?;
        }
        if self.rule.predictions == Predictions::OneOrRefused {
            rows.refuse_several(block)?;
        }
        let is_there = |column: &&Column| self.rule.absent == AbsentNumber::LeftOut || block.has(**column);
        let numbers = self.rule.numbers.iter().filter(is_there);
        rows.numbers = numbers.map(|column| self.number(block, *column)).collect::<Result<_, _>>()?;
        rows.flags = column::optional(block, Column::Flags, column::u8s)?;
        Ok(rows)
    }

    fn find_gap(&self, block: &Block) -> Option<BlockGap> {
        let found = match self.gradient {
            WantedGradient::None => None,
            WantedGradient::Whole(layout, manifest) => {
                Some(Layout::read(block, manifest)).filter(|found| found != layout)
            }
            WantedGradient::Input { layer, width, manifest } => Some(Layout::read(block, manifest)).filter(|found| {
                !found.factored.iter().any(|factored| factored.layer == layer && factored.inputs == width)
            }),
        };
        if let Some(layout) = found {
            return Some(if layout.is_empty() { BlockGap::WithoutGradient } else { BlockGap::OtherLayers(layout) });
        }
        let lacks = |column: &Column| !self.is_one(*column) && *column != Column::Clip && !block.has(*column);
        let mut missing = self.rule.numbers.iter().filter(|column| lacks(column));
        match missing.next().filter(|_| self.rule.absent == AbsentNumber::LeftOut) {
            Some(Column::PreconditionedSquaredNorm) if block.has(Column::SquaredNorm) => Some(BlockGap::WithoutMoments),
            Some(Column::LearningRate) => Some(BlockGap::WithoutRate),
            Some(_) => Some(BlockGap::Missing),
            None => None,
        }
    }

    /// Whether the number is 1 in every row, whatever the block holds.
    fn is_one(&self, column: Column) -> bool {
        self.window.is_on_sweeps() && matches!(column, Column::Clip | Column::Coefficient)
    }

    fn number(&self, block: &Block, column: Column) -> Result<Vec<f32>, ReadError> {
        if self.is_one(column) || column == Column::Clip && !block.has(column) {
            return Ok(vec![1.0; block.rows()]);
        }
        column::f32s(block, column)
    }
}

impl BlockRows {
    /// Judges a row inside the window.
    #[inline]
    pub(crate) fn verdict(&self, row: usize) -> Verdict {
        let flags = self.flags.as_ref().map_or(0, |flags| flags[row]);
        let positions = self.positions.as_ref().map_or(1, |positions| positions[row]);
        let finite = self.numbers.iter().all(|number| number[row].is_finite());
        match verdict(flags, positions > 0, finite, self.leaves_out_unseen) {
            Verdict::Counts if self.leaves_out_several && positions > 1 => Verdict::SeveralPredictions,
            verdict => verdict,
        }
    }

    /// Whether every row inside counts, and none has a flag: what can be said of most blocks in one look.
    pub(crate) fn all_count(&self) -> bool {
        // Of a finite number the exponent has a zero bit.
        const INFINITE: u32 = f32::INFINITY.to_bits();
        let are_finite = |numbers: &Vec<f32>| {
            vectorized(
                #[inline(always)]
                || numbers.iter().fold(0, |most, number| most.max(number.to_bits() & INFINITE)) < INFINITE,
            )
        };
        let are_zero = |flags: &Vec<u8>| {
            vectorized(
                #[inline(always)]
                || flags.iter().fold(0, |any, flags| any | flags) == 0,
            )
        };
        let counts = |predictions: &u32| if self.leaves_out_several { *predictions == 1 } else { *predictions > 0 };
        self.gap.is_none()
            && self.positions.as_ref().is_none_or(|positions| positions.iter().all(counts))
            && self.flags.as_ref().is_none_or(are_zero)
            && self.numbers.iter().all(are_finite)
    }

    /// The rows inside that count; the others are counted in `left_out`.
    pub(crate) fn counting(&self, left_out: &mut LeftOut) -> Vec<usize> {
        if self.gap.is_some() {
            self.count_gap(left_out);
            return Vec::new();
        }
        let counts = |row: &usize| {
            let verdict = self.verdict(*row);
            left_out.count(verdict);
            verdict == Verdict::Counts
        };
        self.inside.rows().filter(counts).collect()
    }

    /// Takes out the rows that are not marked as known: they have no norm in the metric of Adam.
    pub(crate) fn keep_known(&mut self, known: Option<Vec<bool>>) {
        let Some(known) = known else { return };
        let before = self.inside.count();
        self.inside = std::mem::replace(&mut self.inside, Inside::All(0)).intersect(&known);
        self.without_moments += (before - self.inside.count()) as u64;
    }

    /// Counts the rows of a block of which none counts, and those that were taken out.
    pub(crate) fn count_gap(&self, left_out: &mut LeftOut) {
        left_out.without_moments += self.without_moments;
        let to = match self.gap {
            None => return,
            Some(BlockGap::Missing) => &mut left_out.missing,
            Some(BlockGap::WithoutRate) => &mut left_out.without_rate,
            Some(BlockGap::WithoutMoments) => &mut left_out.without_moments,
            Some(BlockGap::WithoutGradient) => &mut left_out.without_gradient,
            Some(BlockGap::OtherLayers(_)) => &mut left_out.other_layers,
        };
        *to += self.inside.count() as u64;
    }

    fn refuse_several(&self, block: &Block) -> Result<(), AnalysisError> {
        let Some(positions) = &self.positions else { return Ok(()) };
        let several = positions.iter().enumerate().find(|(row, count)| **count > 1 && self.inside.contains(*row));
        let Some((row, &positions)) = several else { return Ok(()) };
        Err(AnalysisError::SeveralPredictions { example: column::u64s(block, Column::Example)?[row], positions })
    }
}
