//! The cost of recording: an estimate from the layers, and the counts after the run.

use gradlog_format::log::{Column, LayerRecord, Manifest};
use gradlog_format::sketch::Form;
use std::time::Duration;

/// What a run will take on disk before compression, estimated from its layers.
///
/// Before the first pass, the estimate assumes one position per example for every linear layer, which is then kept as
/// two factors. A layer with many positions is folded into the shared vector, which takes less. After the first pass
/// [`Recorder::cost`](crate::Recorder::cost) knows which layers are folded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Bytes of gradient sketches in a visit.
    pub sketch_bytes_per_visit: u64,
    /// Bytes of ids, losses and predictions in a visit.
    pub output_bytes_per_visit: u64,
    /// The most bytes of cards in the whole run, that is, of what examples look like: what
    /// [`Config::cards`](crate::Config::cards) allows. They take none unless
    /// [`Recorder::describe`](crate::Recorder::describe) is called.
    pub card_bytes_max: u64,
}

/// The numbers of a visit beside its gradient, with a classification loss: other losses have fewer.
const VISIT_COLUMNS: [Column; 15] = [
    Column::Example,
    Column::Step,
    Column::Epoch,
    Column::LearningRate,
    Column::Clip,
    Column::Coefficient,
    Column::Flags,
    Column::Loss,
    Column::El2n,
    Column::Margin,
    Column::Confidence,
    Column::Correct,
    Column::Label,
    Column::Prediction,
    Column::SquaredNorm,
];

impl Cost {
    pub(super) fn expected(manifest: &Manifest, forms: &[Option<Form>], folded_width: Option<u32>) -> Self {
        let sketch = &manifest.sketch;
        let form = |number: usize, layer: &LayerRecord| {
            let expected = if layer.inputs > 0 { Form::Factored } else { Form::Folded };
            forms.get(number).copied().flatten().unwrap_or(expected)
        };
        let (mut factored, mut parameters) = (0, None);
        for (number, layer) in manifest.layers.iter().enumerate() {
            match form(number, layer) {
                Form::Factored => factored += sketch.factored_bytes(layer.inputs, layer.outputs),
                Form::Folded => parameters = Some(parameters.unwrap_or(0) + layer.parameters),
            }
        }
        let width = folded_width.or(parameters.map(|parameters| sketch.folded_width(parameters)));
        let folded = if parameters.is_some() { width.map_or(0, |width| sketch.folded_bytes(width)) } else { 0 };
        // Most of these compress well.
        let numbers = VISIT_COLUMNS.iter().filter_map(|column| column.cells()).map(|cells| cells.row_bytes(1));
        Self { sketch_bytes_per_visit: factored + folded, output_bytes_per_visit: numbers.sum(), card_bytes_max: 0 }
    }

    /// The same, of visits that also have a norm in Adam's metric.
    pub(super) fn with_norm_in_metric(mut self) -> Self {
        let cells = Column::PreconditionedSquaredNorm.cells();
        self.output_bytes_per_visit += cells.map_or(0, |cells| cells.row_bytes(1));
        self
    }

    /// Bytes in a visit.
    pub fn bytes_per_visit(&self) -> u64 {
        self.sketch_bytes_per_visit + self.output_bytes_per_visit
    }

    /// Bytes of a run that visits `examples` examples in each of `epochs` epochs, without cards.
    pub fn total_bytes(&self, examples: u64, epochs: u64) -> u64 {
        self.bytes_per_visit().saturating_mul(examples).saturating_mul(epochs)
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bytes_per_visit() {
            0 => write!(f, "nothing is recorded"),
            bytes => write!(f, "at most {bytes} bytes a visit before compression"),
        }?;
        match self.card_bytes_max {
            0 => Ok(()),
            bytes => write!(f, ", and at most {:.1} MB of cards if examples are described", bytes as f64 / 1e6),
        }
    }
}

/// What was recorded, and what it cost.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RecordingSummary {
    /// Training visits handed over and written.
    pub visits: u64,
    /// Bytes in the run's segments.
    pub bytes: u64,
    /// Bytes of a visit on disk, with its share of headers and without probes.
    pub bytes_per_visit: f64,
    /// Visits that took part in their steps and are not in the log: the queue was full
    /// ([`Overflow::DropNewest`](crate::Overflow::DropNewest)), or their pass could not be recorded.
    pub dropped: u64,
    /// Probes that were committed and are not in the log.
    pub dropped_probes: u64,
    /// Steps that the loop abandoned, or that were skipped because they are not finite.
    pub abandoned_steps: u64,
    /// Visits of these steps. They are not in the log, and no sum over the training lacks them.
    pub abandoned: u64,
    /// Examples of the run that are described, see [`Recorder::describe`](crate::Recorder::describe).
    pub cards: u64,
    /// Calls of it that were refused, or whose card did not come through the queue.
    pub refused_cards: u64,
    /// Time that the training thread waited for the recorder while it handed over passes and steps.
    pub blocked: Duration,
    /// Time that the training thread waited in `flush` and `finish`, until everything was on the device.
    pub flush_wait: Duration,
    /// Time that the background thread worked.
    pub background: Duration,
    /// Bytes that passes left on a device, and that one copy for each pass brought to main memory. Copies that
    /// [`Sketching::InMainMemory`](crate::Sketching::InMainMemory) makes are not counted.
    pub device_bytes: u64,
    /// Passes whose copy went to pinned memory and was started when they were handed over. On CUDA alone; the others
    /// are copied by the background thread when it comes to them.
    pub copied_ahead: u64,
    /// Why such copies are no longer started, if one of them failed. All passes are then copied as without them.
    pub copy_failure: Option<String>,
}

impl std::fmt::Display for RecordingSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} visits of {:.0} bytes each, {:.1} MB in all, {} dropped; training waited {:.2} s, and {:.2} s \
             for flushes and the end; the background thread worked {:.2} s",
            self.visits,
            self.bytes_per_visit,
            self.bytes as f64 / 1e6,
            self.dropped,
            self.blocked.as_secs_f64(),
            self.flush_wait.as_secs_f64(),
            self.background.as_secs_f64()
        )?;
        if let Some(failure) = &self.copy_failure {
            write!(f, "; copies to pinned memory failed, and others took their place: {failure}")?;
        }
        if self.dropped_probes > 0 {
            write!(f, "; {} probes dropped", self.dropped_probes)?;
        }
        if self.cards > 0 {
            write!(f, "; {} examples described", self.cards)?;
        }
        if self.refused_cards > 0 {
            write!(f, "; {} cards refused", self.refused_cards)?;
        }
        if self.abandoned_steps > 0 {
            write!(f, "; {} steps of {} visits abandoned", self.abandoned_steps, self.abandoned)?;
        }
        Ok(())
    }
}
