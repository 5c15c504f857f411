//! The messages from the training to the background thread.

use super::bundle::Bundle;
use super::cards::CardRow;
use super::fence::Fence;
use super::guard::Found;
use super::later::Pending;
use super::layer_rates::Decay;
use super::metric::VisitMetric;
use super::outputs::Outputs;
use super::preconditioner::Preconditioning;
use super::watch::Seen;
use crate::step::StepInfo;
use crate::taps::{DeviceSketch, FoldedGradients, PerExample, Tap};
use candle_core::Tensor;
use crossbeam_channel::Sender;
use gradlog_format::log::Mode;
use gradlog_format::sketch::Form;
use std::sync::Arc;

/// One message to the background thread.
pub(super) enum Message {
    /// A pass, and the end of the step if it is the last one.
    Pass { batch: Option<Box<Batch>>, end: Option<StepEnd>, gap: Option<Gap>, events: Vec<Found>, bytes: usize },
    /// A probe set's name and number.
    ProbeSet { number: u32, name: String },
    /// Cards, and how many were refused.
    Cards { cards: Vec<CardRow>, refused: u64, bytes: usize },
    /// Layers of which it is known now whether steps change them.
    LayersSeen(Vec<Seen>),
    /// A checkpoint's row.
    Checkpoint(CheckpointRow),
    /// The verdict of a check.
    Check(CheckRow),
    /// Write and sync everything, then answer.
    Flush(Sender<()>),
    /// Write everything and the totals, then answer.
    Finish(Sender<()>),
}

/// The kind of a pass's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PassKind {
    Training,
    Probe {
        set: u32,
    },
    /// Training examples that a replay runs through a checkpoint.
    Sweep,
}

impl PassKind {
    /// A number for each kind and probe set. Equal examples of different passes are rounded independently.
    pub(super) fn number(self) -> u64 {
        match self {
            PassKind::Training => 0,
            PassKind::Sweep => 1,
            PassKind::Probe { set } => 2 + u64::from(set),
        }
    }
}

/// The mode and the learning rate of a replay's passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Replayed {
    pub mode: Mode,
    /// `η` of the checkpoint; NaN if it is not known.
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

/// The verdict of a check of the gradients.
#[derive(Debug, Clone)]
pub(super) struct CheckRow {
    pub step: u64,
    pub epoch: u32,
    pub examples: u32,
    /// One bit for each kind of finding.
    pub findings: u32,
    pub text: String,
}

/// The examples of one pass.
pub(super) struct Batch {
    /// What must be complete before the tensors below are read or freed. It is dropped first.
    pub fence: Fence,
    pub kind: PassKind,
    /// `Some` in a replay.
    pub replayed: Option<Replayed>,
    pub ids: Vec<u64>,
    pub step: u64,
    pub epoch: u32,
    pub outputs: Outputs,
    /// `c_i`, times what the loss was multiplied by before backward.
    pub coefficients: Vec<f32>,
    /// Columns and coefficients that are on a device. The two above are empty until they are read.
    pub unread: Option<Pending<(Outputs, Vec<f32>)>>,
    /// For rows of curvature, the weight of each.
    pub curvature: Option<Vec<f32>>,
    pub layers: Vec<LayerGradients>,
    /// What of them lies on a device.
    pub bundle: Option<Bundle>,
    /// Whether a layer ran in the pass and got no gradient, which its tap allows.
    pub no_gradient: bool,
    /// `[batch, buckets]`: `c_i` times each example's own gradient, over all layers that backward folded.
    pub folded: Option<Vec<f32>>,
    pub preconditioning: Preconditioning,
    /// In which metric the norms of the rows are made as well.
    pub metric: Option<Arc<VisitMetric>>,
    /// Whether the guard looked at the norms before the step.
    pub judged: bool,
}

/// The gradients of one layer for the examples of a pass.
pub(super) struct LayerGradients {
    pub layer: usize,
    /// Whether the gradients carry the factor `c_i`, as backward gives them.
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
    /// Sketches on the device that the tensors are on.
    OnDevice(DeviceSketch),
    /// Inputs and output gradients, to be folded on the background thread.
    Uses {
        layer: Arc<dyn Tap>,
        uses: Vec<(Tensor, Tensor)>,
    },
    /// A factored layer that the pass left out. Its gradient is zero; its columns stay.
    Zero,
    /// Per-example gradients that were taken before the step, to be folded on the background thread.
    Given(Vec<PerExample>),
}

impl Batch {
    /// Bytes that the batch holds while it waits. Call it once: a metric counts with the first batch that has it.
    pub(super) fn bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(LayerGradients::bytes).sum();
        let bundle = self.bundle.as_ref().map_or(0, Bundle::bytes);
        let folded = self.folded.as_ref().map_or(0, Vec::len);
        let weights = self.curvature.as_ref().map_or(0, Vec::len);
        let metric = self.metric.as_ref().map_or(0, |metric| metric.count_bytes_once());
        8 * self.ids.len()
            + 4 * (self.coefficients.len() + weights + folded)
            + self.number_bytes()
            + layers
            + bundle
            + metric
    }

    fn number_bytes(&self) -> usize {
        self.outputs.bytes() + self.unread.as_ref().map_or(0, Pending::bytes)
    }

    /// Reads what is on a device. Says whether there was anything.
    ///
    /// # Errors
    /// candle's errors, and what is wrong with the pass's targets.
    pub(super) fn read_numbers(&mut self) -> candle_core::Result<bool> {
        let Some(unread) = self.unread.take() else { return Ok(false) };
        (self.outputs, self.coefficients) = unread.read()?;
        Ok(true)
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
            Gradients::Given(given) => given.iter().flat_map(PerExample::tensors).map(tensor).sum(),
            Gradients::Zero => 0,
            Gradients::Folded(folded) => 4 * folded.sketches.len() + std::mem::size_of_val(&folded.squared_norms[..]),
            Gradients::OnDevice(sketch) => sketch.tensors().into_iter().map(tensor).sum(),
            Gradients::Uses { uses, .. } => uses.iter().map(|(x, d)| tensor(x) + tensor(d)).sum(),
        }
    }
}

/// One optimizer step.
#[derive(Debug, Clone)]
pub(super) struct StepRow {
    pub step: u64,
    pub epoch: u32,
    pub info: StepInfo,
    /// Layers whose learning rate differs from that of the step: number, and ratio of the two.
    pub factors: Vec<(u32, f32)>,
    /// Weight decays of parameters that differ from that of the step.
    pub decays: Vec<Decay>,
    pub batch_size: u32,
    pub wall_clock_ms: u64,
}

/// How a step ends.
#[derive(Debug, Clone)]
pub(super) enum StepEnd {
    /// The optimizer takes it.
    Taken(Box<StepRow>),
    /// Nobody takes it, or nobody knows its learning rate: its visits are not recorded.
    Void,
}

/// Visits that are not in the log, since the last pass that was sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gap {
    pub step: u64,
    pub epoch: u32,
    /// Visits that were dropped.
    pub visits: u64,
    /// Visits of steps that were never taken.
    pub abandoned: u64,
}
