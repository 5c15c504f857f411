//! What the training hands to the background thread.

use super::outputs::Outputs;
use crate::step::StepInfo;
use crate::taps::{FoldedGradients, PerExample, Tap};
use candle_core::Tensor;
use crossbeam_channel::Sender;
use gradlog_format::log::Mode;
use gradlog_format::sketch::Form;
use std::sync::Arc;

/// One order for the background thread.
pub(super) enum Message {
    /// A pass, and the step that it completes, if it does.
    Pass { batch: Option<Box<Batch>>, step: Option<StepRow>, gap: Option<Gap>, bytes: usize },
    /// A probe set's name and number.
    ProbeSet { number: u32, name: String },
    /// Weights that were saved to a file.
    Checkpoint(CheckpointRow),
    /// Write and sync all there is, then answer.
    Flush(Sender<()>),
    /// Write all there is, with the totals, then answer.
    Finish(Sender<()>),
}

/// What the rows of a pass are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PassKind {
    Training,
    Probe {
        set: u32,
    },
    /// Examples that a replay takes through a checkpoint.
    Sweep,
}

/// Under which circumstances a replay takes its passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Replayed {
    pub mode: Mode,
    /// `η` of the checkpoint, NaN if it is not known.
    pub learning_rate: f32,
}

/// A checkpoint whose file is on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckpointRow {
    pub step: u64,
    pub epoch: u32,
    pub learning_rate: f32,
    pub bytes: u64,
    pub checksum: u32,
}

/// The examples of one pass.
pub(super) struct Batch {
    pub kind: PassKind,
    /// Not `None` in a replay.
    pub replayed: Option<Replayed>,
    pub ids: Vec<u64>,
    pub step: u64,
    pub epoch: u32,
    pub outputs: Outputs,
    /// `c_i`, with whatever the loss was multiplied by afterwards.
    pub coefficients: Vec<f32>,
    /// For rows of curvature, the weight of each.
    pub curvature: Option<Vec<f32>>,
    pub layers: Vec<LayerGradients>,
    /// `[batch, buckets]`: `c_i` times the examples' own gradients by all layers that were folded as backward came by.
    pub folded: Option<Vec<f32>>,
}

/// The gradients of one layer for the examples of a pass.
pub(super) struct LayerGradients {
    pub layer: usize,
    /// Whether they are `c_i` times the examples' own, as backward gives them, or the examples' own.
    pub weighted: bool,
    pub gradients: Gradients,
}

pub(super) enum Gradients {
    /// `[batch, inputs]` and `[batch, outputs]`, with any dimensions of size 1 between.
    Factored {
        input: Tensor,
        delta: Tensor,
    },
    Folded(FoldedGradients),
    /// Inputs and output gradients, to be folded on the background thread.
    Uses {
        layer: Arc<dyn Tap>,
        uses: Vec<(Tensor, Tensor)>,
    },
    /// A factored layer that the pass left out: its gradient is zero, and its columns stay.
    Zero,
    /// Per-example gradients that were taken before the step, to be folded on the background thread.
    Given(Vec<PerExample>),
}

impl Batch {
    /// What it holds while it waits: a pass without gradients is not free, and a large one is large.
    pub(super) fn bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(LayerGradients::bytes).sum();
        let folded = self.folded.as_ref().map_or(0, Vec::len);
        let weights = self.curvature.as_ref().map_or(0, Vec::len);
        8 * self.ids.len() + 4 * (self.coefficients.len() + weights + folded) + self.outputs.bytes() + layers
    }
}

impl LayerGradients {
    pub(super) fn form(&self) -> Form {
        match self.gradients {
            Gradients::Factored { .. } | Gradients::Zero => Form::Factored,
            _ => Form::Folded,
        }
    }

    fn bytes(&self) -> usize {
        let tensor = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        match &self.gradients {
            Gradients::Factored { input, delta } => tensor(input) + tensor(delta),
            Gradients::Given(given) => (given.iter())
                .map(|one| match one {
                    PerExample::Outer { inputs, deltas, .. } => tensor(inputs) + tensor(deltas),
                    PerExample::Rows { ids, deltas, .. } => tensor(ids) + tensor(deltas),
                    PerExample::Dense(values) => tensor(values),
                })
                .sum(),
            Gradients::Zero => 0,
            Gradients::Folded(folded) => 4 * (folded.sketches.len() + folded.squared_norms.len()),
            Gradients::Uses { uses, .. } => uses.iter().map(|(x, d)| tensor(x) + tensor(d)).sum(),
        }
    }
}

/// One optimizer step.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepRow {
    pub step: u64,
    pub epoch: u32,
    pub info: StepInfo,
    pub batch_size: u32,
    pub wall_clock_ms: u64,
}

/// Passes that were dropped since the last one that was not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap {
    pub step: u64,
    pub epoch: u32,
    pub visits: u64,
}
