//! Walking the visits of a run as tiles of flat vectors, in the order of the run.
//!
//! Memory: the inflated columns of a few blocks, and the flat vectors of one tile of [`TILE_ROWS`] rows.

use super::flatten::{Flat, Flattener};
use crate::rows::driver::{fold_each, ReadTo};
use crate::rows::gradient::Gradients;
use crate::rows::reader::{RowReader, WantedGradient};
use crate::rows::rule::{RowRule, UnseenGradient, Verdict};
use crate::rows::sweep::Sweeps;
use crate::Progress;
use crate::{
    error::{NO_GRADIENTS, NO_RATES, RATES},
    rows::column,
    AnalysisError, LeftOut, Window,
};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Damage, ReadError, Run};

/// Rows whose flat vectors are held at a time.
pub(crate) const TILE_ROWS: usize = 256;

/// Which visits have a flat vector. One without weight has none, even where vectors are multiplied by the coefficient:
/// a vector of zeros would be taken for its gradient.
const RULE: RowRule =
    RowRule::gradients(&[Column::LearningRate, Column::Clip, Column::Coefficient], UnseenGradient::LeftOut);

/// What is known of a visit beside its gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visit {
    pub example: u64,
    pub step: u64,
    pub learning_rate: f32,
    pub clip: f32,
    pub coefficient: f32,
    /// Whether the visit lies inside the window.
    pub inside: bool,
    /// Whether its gradient can be used.
    pub usable: bool,
    pub label: Option<u32>,
}

/// What else a caller needs to know of each visit; nothing, for `()`.
pub(crate) trait VisitDetail: Copy + Send {
    /// The columns that it is made of.
    type Columns;

    fn read(block: &Block) -> Result<Self::Columns, ReadError>;

    fn new(columns: &Self::Columns, row: usize) -> Self;
}

impl VisitDetail for () {
    type Columns = ();

    fn read(_: &Block) -> Result<(), ReadError> {
        Ok(())
    }

    fn new((): &(), _: usize) -> Self {}
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

/// Usable rows of one block whose gradients have been read and not been made flat, at most [`TILE_ROWS`].
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// In the layout of the flattener.
    pub gradients: &'a Gradients,
    /// Rows of the block.
    pub rows: &'a [usize],
}

/// How a walk ended.
#[derive(Debug, Clone, Default)]
#[must_use = "an answer must say where the part of the run that it is made of ends"]
pub(crate) struct Walked {
    /// Visits that were handed over.
    pub visits: u64,
    pub left_out: LeftOut,
    pub damage: Option<Damage>,
}

impl Walked {
    /// The error of a walk that could use no visit.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`], inside [`AnalysisError::Cut`] if damage ended the walk.
    pub(crate) fn check(&self, score: &'static str) -> Result<(), AnalysisError> {
        if self.visits > 0 {
            return Ok(());
        }
        const LOOK: &str = "`SummaryQuestion` lists epochs, steps and layers";
        let (what, how) = match &self.left_out {
            LeftOut { without_gradient: 1.., .. } => ("gradients of its visits", NO_GRADIENTS),
            LeftOut { without_rate: 1.., .. } => (RATES, NO_RATES),
            LeftOut { other_layers: 1.., .. } => {
                ("visits inside the window whose layers were recorded in the form of the probes'", LOOK)
            }
            _ => ("usable visits inside the window", LOOK),
        };
        let error = AnalysisError::Missing { score, what, how };
        Err(match &self.damage {
            // What lies behind it is not what the recording lacks.
            Some(damage) => AnalysisError::Cut { source: Box::new(error), damage: damage.clone() },
            None => error,
        })
    }
}

/// The rows of one block; none if their gradients have another form.
pub(crate) struct Rows<D> {
    pub visits: Vec<Visit>,
    pub details: Vec<D>,
    pub left_out: LeftOut,
}

impl<D: Copy> Rows<D> {
    /// The visits and their details at some rows.
    pub(crate) fn select(&self, rows: &[usize]) -> (Vec<Visit>, Vec<D>) {
        rows.iter().map(|&row| (self.visits[row], self.details[row])).unzip()
    }
}

impl Walk<'_> {
    /// Reads the visits of a block, without their gradients. What is left out is counted inside the window.
    pub(crate) fn read<D: VisitDetail>(&self, block: &Block) -> Result<Rows<D>, AnalysisError> {
        let reader = RowReader {
            window: self.window,
            sweeps: &Sweeps::default(),
            rule: RULE,
            gradient: WantedGradient::Whole(&self.flattener.whole, self.run.manifest()),
        };
        let rows = reader.read(block)?;
        let examples = column::u64s(block, Column::Example)?;
        let mut out = Rows { visits: Vec::new(), details: Vec::new(), left_out: LeftOut::default() };
        let [rates, clips, coefficients] = rows.numbers.as_slice() else {
            rows.count_gap(&mut out.left_out);
            return Ok(out);
        };
        let steps = column::u64s(block, Column::Step)?;
        let labels = column::classes(block, Column::Label)?;
        let details = D::read(block)?;
        for (row, &example) in examples.iter().enumerate() {
            let (inside, verdict) = (rows.inside.contains(row), rows.verdict(row));
            if inside {
                out.left_out.count(verdict);
            }
            out.visits.push(Visit {
                example,
                step: steps[row],
                learning_rate: rates[row],
                clip: clips[row],
                coefficient: coefficients[row],
                inside,
                usable: verdict == Verdict::Counts,
                label: labels.as_ref().and_then(|labels| labels[row]),
            });
            out.details.push(D::new(&details, row));
        }
        Ok(out)
    }

    fn is_before_damage(&self, block: &Block) -> bool {
        self.before.is_none_or(|damage| damage.block.is_none_or(|at| block.sequence() < at))
    }

    /// Hands over all usable visits inside the window, in the order of the run, tile by tile: the visits, their details
    /// and their flat vectors. Those of a block that cannot be used follow without flat vectors, `flat.rows = 0`.
    ///
    /// # Errors
    /// What `each` says, or [`AnalysisError::Read`] if the file system refuses.
    pub(crate) fn walk_forwards<D: VisitDetail>(
        &self,
        progress: &Progress,
        mut each: impl FnMut(&[Visit], &[D], &Flat) -> Result<(), AnalysisError> + Send,
    ) -> Result<Walked, AnalysisError> {
        let nothing = Flat { blocks: vec![Vec::new(); self.flattener.blocks.len()], ..Flat::default() };
        self.walk_tiles(progress, |visits, details, tile| match tile {
            Some(tile) => each(visits, details, &self.flattener.flatten(tile.gradients, tile.rows)),
            None => each(visits, details, &nothing),
        })
    }

    /// The same with the gradients as the log has them; none for those visits that cannot be used.
    ///
    /// # Errors
    /// What `each` says, or [`AnalysisError::Read`] if the file system refuses.
    pub(crate) fn walk_tiles<D: VisitDetail>(
        &self,
        progress: &Progress,
        mut each: impl FnMut(&[Visit], &[D], Option<Tile<'_>>) -> Result<(), AnalysisError> + Send,
    ) -> Result<Walked, AnalysisError> {
        let mut walked = Walked::default();
        let keep = |block: &Block| {
            block.kind() == Some(BlockKind::Visits) && self.window.touches(block) && self.is_before_damage(block)
        };
        let read = |block: &Block| {
            let rows = self.read::<D>(block)?;
            let inside = rows.visits.iter().any(|visit| visit.inside);
            let gradients = inside.then(|| Gradients::read(block, &self.flattener.layout)).transpose()?;
            Ok((rows, gradients))
        };
        let fold = |(rows, gradients): (Rows<D>, Option<Gradients>)| {
            walked.left_out.add(&rows.left_out);
            let Some(gradients) = gradients else { return Ok(()) };
            let inside = (0..rows.visits.len()).filter(|row| rows.visits[*row].inside);
            let (usable, unusable): (Vec<usize>, Vec<usize>) = inside.partition(|row| rows.visits[*row].usable);
            for tile in usable.chunks(TILE_ROWS) {
                let (visits, details) = rows.select(tile);
                walked.visits += visits.len() as u64;
                each(&visits, &details, Some(Tile { gradients: &gradients, rows: tile }))?;
            }
            if unusable.is_empty() {
                return Ok(());
            }
            let (visits, details) = rows.select(&unusable);
            each(&visits, &details, None)
        };
        let ReadTo(damage) = fold_each(self.run, progress, keep, read, fold)?;
        walked.damage = damage.or_else(|| self.before.cloned());
        Ok(walked)
    }
}
