//! What a block of probes says of its rows.

use crate::rows::gradient::Layout;
use crate::rows::rule::{verdict, Verdict};
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column, Mode, PredictionScore};
use gradlog_format::run::{Block, Run};

/// The most bytes that the sketched gradient of one probe may take once it is decoded.
const GRADIENT_BYTES_MAX: usize = 1 << 30;

/// What one block of a probe set says.
pub(super) enum ProbeBlock {
    /// A set's name.
    Name { block: Block, number: u32, name: String },
    /// Rows of one set or several.
    Rows(Box<ProbeRows>),
}

/// The rows of one block.
pub(super) struct ProbeRows {
    pub block: Block,
    pub layout: Layout,
    pub sets: Vec<u32>,
    pub ids: Vec<u64>,
    pub steps: Vec<u64>,
    flags: Option<Vec<u8>>,
    pub labels: Option<Vec<Option<u32>>>,
    pub predictions: Option<Vec<Option<u32>>>,
    modes: Option<Vec<u8>>,
    scores: Option<Vec<u8>>,
    pub classes: Option<Vec<u32>>,
    weights: Option<Vec<f32>>,
}

/// What a record's gradient is of: a loss, or a score of the prediction of a class.
type Measure = Option<PredictionScore>;

/// What the first usable record is like. All others must be like it.
#[derive(Default)]
pub(super) struct FirstRecord {
    pub layout: Option<Layout>,
    measure: Option<Measure>,
}

impl ProbeRows {
    /// The weight of a row of curvature; `None` for a probe.
    pub(super) fn weight(&self, row: usize) -> Option<f32> {
        self.weights.as_ref().map(|weights| weights[row])
    }

    /// How the model ran, where a replay says so.
    pub(super) fn mode(&self, row: usize) -> Option<Mode> {
        self.modes.as_ref().and_then(|modes| Mode::from_code(modes[row]))
    }

    /// Of which score and class the gradient is; `None` where it is of the loss.
    pub(super) fn scored(&self, row: usize) -> Option<(PredictionScore, u32)> {
        self.measure(row).flatten().zip(self.classes.as_ref().map(|classes| classes[row]))
    }

    /// `None` for a score that a newer version added.
    fn measure(&self, row: usize) -> Option<Measure> {
        match self.scores.as_ref().map_or(0, |scores| scores[row]) {
            0 => Some(None),
            code => PredictionScore::from_code(code).map(Some),
        }
    }

    /// Whether a record's gradient can be used. Zeros of a probe without weight are not its gradient.
    pub(super) fn is_usable(&self, row: usize, first: &mut FirstRecord) -> bool {
        let flags = self.flags.as_ref().map_or(0, |flags| flags[row]);
        let weight = self.weight(row);
        verdict(flags, true, weight.is_none_or(f32::is_finite), true) == Verdict::Counts
            && !self.layout.is_empty()
            && *first.layout.get_or_insert_with(|| self.layout.clone()) == self.layout
            // A sum over gradients of different things would be the influence on none of them.
            && self.measure(row).is_some_and(|own| *first.measure.get_or_insert(own) == own)
            && weight.is_none_or(|weight| weight >= 0.0)
    }
}

/// Reads a block, and checks it whole: what is decoded later is then known to be sound.
pub(super) fn read(run: &Run, block: &Block) -> Result<ProbeBlock, AnalysisError> {
    if block.kind() == Some(BlockKind::ProbeSet) {
        let (number, name) = block.probe_set()?;
        return Ok(ProbeBlock::Name { block: block.clone(), number, name });
    }
    block.check()?;
    let layout = Layout::read(block, run.manifest());
    // Matrices of this size are made of it, and a few kilobytes of zstd can claim any.
    if layout.decoded_bytes() > GRADIENT_BYTES_MAX {
        let what = format!("a gradient of {} bytes, more than any recorder writes", layout.decoded_bytes());
        return Err(block.damaged(what).into());
    }
    Ok(ProbeBlock::Rows(Box::new(ProbeRows {
        layout,
        sets: column::u32s(block, Column::ProbeSet)?,
        ids: column::u64s(block, Column::Example)?,
        steps: column::u64s(block, Column::Step)?,
        flags: column::optional(block, Column::Flags, column::u8s)?,
        labels: column::classes(block, Column::Label)?,
        predictions: column::classes(block, Column::Prediction)?,
        modes: column::optional(block, Column::Mode, column::u8s)?,
        scores: column::optional(block, Column::PredictionScore, column::u8s)?,
        classes: column::optional(block, Column::ScoredClass, column::u32s)?,
        weights: column::optional(block, Column::CurvatureWeight, column::f32s)?,
        block: block.clone(),
    })))
}
