//! From a pass to the rows of a block: undoing the batch's weights, folding, norms, quantizing. Runs on the background thread.

use super::message::{Batch, Gradients, PassKind, Replayed};
use super::outputs::Outputs;
use crate::log::{BlockBuilder, Cells, Column, ColumnKey, LayerRecord};
use crate::sketch::{Encoding, Fold, Form, SketchConfig};
use crate::taps::{fold_uses, host, squared_norm, FoldedGradients, LazyFold, PerExample};
use candle_core::Result;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A layer as the background thread sees it.
pub(super) struct LayerSketcher {
    pub record: LayerRecord,
    pub fold: Arc<LazyFold>,
    /// The first layer with the same weight, where there are several.
    tied: Option<usize>,
    input_fold: Option<Fold>,
    delta_fold: Option<Fold>,
}

impl LayerSketcher {
    pub(super) fn new(record: LayerRecord, fold: Arc<LazyFold>, tied: Option<usize>, sketch: &SketchConfig) -> Self {
        let cap =
            |width: u32, cap: u32, seed: u64| (width > cap).then(|| Fold::new(seed, width as usize, cap as usize));
        let input_fold = cap(record.inputs, sketch.input_cap, record.seed_input);
        let delta_fold = cap(record.outputs, sketch.delta_cap, record.seed_delta);
        Self { record, fold, tied, input_fold, delta_fold }
    }
}

/// The gradients of a layer in main memory.
enum Ready {
    Factored { input: Vec<f32>, delta: Vec<f32> },
    Folded(FoldedGradients),
}

/// Turns passes into rows. Holds the scratch space between them.
pub(super) struct RowMaker {
    layers: Vec<LayerSketcher>,
    sketch: SketchConfig,
    scratch: Vec<f32>,
}

/// Whether the rows are few and asked about by name, and so worth a finer encoding; sweeps are as many as visits.
fn is_probe(kind: PassKind) -> bool {
    matches!(kind, PassKind::Probe { .. })
}

type Keys = Vec<(ColumnKey, Cells, u32)>;

impl RowMaker {
    pub(super) fn new(layers: Vec<LayerSketcher>, sketch: SketchConfig) -> Self {
        Self { layers, sketch, scratch: Vec::new() }
    }

    /// The columns that the rows of `batch` will have.
    pub(super) fn keys(&self, batch: &Batch) -> Keys {
        let mut keys: Keys = Vec::new();
        let mut plain = |column: Column, cells: Cells| keys.push((column.into(), cells, 1));
        plain(Column::Example, Cells::U64);
        plain(Column::Step, Cells::U64);
        plain(Column::Epoch, Cells::U32);
        plain(Column::Coefficient, Cells::F32);
        plain(Column::Flags, Cells::U8);
        match batch.kind {
            PassKind::Training => {
                plain(Column::LearningRate, Cells::F32);
                plain(Column::Clip, Cells::F32);
            }
            PassKind::Probe { .. } => plain(Column::ProbeSet, Cells::U32),
            PassKind::Sweep => plain(Column::LearningRate, Cells::F32),
        }
        if batch.replayed.is_some() {
            plain(Column::Mode, Cells::U8);
        }
        if batch.outputs.scored.is_some() {
            plain(Column::PredictionScore, Cells::U8);
            plain(Column::ScoredClass, Cells::U32);
        }
        for (column, values) in float_columns(&batch.outputs) {
            if values.is_some() {
                plain(column, Cells::F32);
            }
        }
        for (column, values) in integer_columns(&batch.outputs) {
            if values.is_some() {
                plain(column, Cells::U32);
            }
        }
        if !batch.layers.is_empty() {
            plain(Column::SquaredNorm, Cells::F32);
        }
        let mut folded = false;
        for gradients in &batch.layers {
            if gradients.form() == Form::Folded {
                folded = true;
                continue;
            }
            let record = &self.layers[gradients.layer].record;
            let layer = gradients.layer as u16;
            let probe = is_probe(batch.kind);
            let vector = |width| Cells::Vector(self.sketch.factor_encoding(width, probe));
            let (inputs, outputs) = (self.sketch.input_width(record.inputs), self.sketch.delta_width(record.outputs));
            keys.push((ColumnKey { column: Column::Input, layer }, vector(inputs), inputs));
            keys.push((ColumnKey { column: Column::InputScale, layer }, Cells::Bf16, 1));
            keys.push((ColumnKey { column: Column::Delta, layer }, vector(outputs), outputs));
            keys.push((ColumnKey { column: Column::DeltaScale, layer }, Cells::Bf16, 1));
        }
        if folded {
            let encoding = self.sketch.folded_encoding_of(is_probe(batch.kind));
            keys.push((Column::Folded.into(), Cells::Vector(encoding), self.sketch.folded));
            keys.push((Column::FoldedScale.into(), Cells::Bf16, 1));
        }
        keys
    }

    /// Appends the rows of `batch`, all but learning rate and clip, which are known when the step is.
    pub(super) fn push(&mut self, batch: Batch, builder: &mut BlockBuilder) -> Result<()> {
        let rows = batch.ids.len();
        let Batch { kind, replayed, ids, step, epoch, outputs, coefficients, layers } = batch;
        // All that can fail comes before the first number is appended, so that a failure leaves whole rows behind.
        let ready = (layers.into_iter())
            .map(|part| Ok((part.layer, part.weighted, self.ready(part.layer, part.gradients, rows)?)))
            .collect::<Result<Vec<_>>>()?;
        builder.u64s(Column::Example, ids);
        builder.u64s(Column::Step, std::iter::repeat_n(step, rows));
        builder.u32s(Column::Epoch, std::iter::repeat_n(epoch, rows));
        builder.f32s(Column::Coefficient, coefficients.iter().copied());
        if let PassKind::Probe { set } = kind {
            builder.u32s(Column::ProbeSet, std::iter::repeat_n(set, rows));
        }
        if let Some(Replayed { mode, learning_rate }) = replayed {
            builder.column(Column::Mode, Cells::U8, 1).extend(std::iter::repeat_n(mode.code(), rows));
            if kind == PassKind::Sweep {
                builder.f32s(Column::LearningRate, std::iter::repeat_n(learning_rate, rows));
            }
        }
        if let Some((score, classes)) = &outputs.scored {
            builder.column(Column::PredictionScore, Cells::U8, 1).extend(std::iter::repeat_n(score.code(), rows));
            builder.u32s(Column::ScoredClass, classes.iter().copied());
        }
        for (column, values) in float_columns(&outputs) {
            if let Some(values) = values {
                builder.f32s(column, values.iter().copied());
            }
        }
        for (column, values) in integer_columns(&outputs) {
            if let Some(values) = values {
                builder.u32s(column, values.iter().copied());
            }
        }
        let mut flags: Vec<u8> =
            (0..rows).map(|i| if outputs.finite(i) { 0 } else { Column::FLAG_NOT_FINITE }).collect();
        if !ready.is_empty() {
            self.gradients(kind, ready, &coefficients, &mut flags, builder);
        }
        builder.column(Column::Flags, Cells::U8, 1).extend(&flags);
        builder.advance(rows as u32, step, epoch);
        Ok(())
    }

    fn gradients(
        &mut self,
        kind: PassKind,
        layers: Vec<(usize, bool, Ready)>,
        coefficients: &[f32],
        flags: &mut [u8],
        builder: &mut BlockBuilder,
    ) {
        let rows = coefficients.len();
        let m = self.sketch.folded as usize;
        let mut norms = vec![0f64; rows];
        let mut folded: Option<Vec<f32>> = None;
        let mut tied: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        let mut weightless = false;
        for (number, weighted, gradients) in layers {
            weightless |= weighted;
            // Backward gives c_i times the example's own gradient; where c_i is 0 there is nothing to be seen of it.
            let undo = |i: usize| match coefficients[i] {
                _ if !weighted => 1.0,
                0.0 => 0.0,
                c => 1.0 / c,
            };
            match gradients {
                Ready::Folded(gradients) => {
                    let group = self.layers[number].tied;
                    let sum = match group {
                        Some(first) => tied.entry(first).or_insert_with(|| vec![0f32; rows * m]),
                        None => folded.get_or_insert_with(|| vec![0f32; rows * m]),
                    };
                    for (i, norm) in norms.iter_mut().enumerate() {
                        let factor = undo(i);
                        if group.is_none() {
                            *norm += f64::from(gradients.squared_norms[i]) * f64::from(factor) * f64::from(factor);
                        }
                        for (total, s) in
                            sum[i * m..(i + 1) * m].iter_mut().zip(&gradients.sketches[i * m..(i + 1) * m])
                        {
                            *total += s * factor;
                        }
                    }
                }
                Ready::Factored { input, delta } => {
                    self.factors(kind, number, &input, &delta, undo, &mut norms, flags, builder)
                }
            }
        }
        // Of a tensor that several layers share, only the sum of their gradients is one; its norm is that of its sketch.
        for sum in tied.into_values() {
            let total = folded.get_or_insert_with(|| vec![0f32; rows * m]);
            for (i, (norm, flag)) in norms.iter_mut().zip(flags.iter_mut()).enumerate() {
                let own = &sum[i * m..(i + 1) * m];
                *norm += f64::from(squared_norm(own));
                *flag |= Column::FLAG_NORM_ESTIMATED;
                total[i * m..(i + 1) * m].iter_mut().zip(own).for_each(|(total, s)| *total += s);
            }
        }
        if let Some(sum) = folded {
            let encoding = self.sketch.folded_encoding_of(is_probe(kind));
            encode_rows(encoding, &sum, m, Column::Folded.into(), Column::FoldedScale.into(), flags, builder);
        }
        for ((flag, norm), c) in flags.iter_mut().zip(&norms).zip(coefficients) {
            if !norm.is_finite() || *norm > f64::from(f32::MAX) {
                *flag |= Column::FLAG_NOT_FINITE;
            }
            if weightless && *c == 0.0 {
                *flag |= Column::FLAG_NO_WEIGHT;
            }
        }
        builder.f32s(Column::SquaredNorm, norms.iter().map(|n| *n as f32));
    }

    fn ready(&self, number: usize, gradients: Gradients, rows: usize) -> Result<Ready> {
        let fold = || self.layers[number].fold.get();
        Ok(match gradients {
            Gradients::Factored { input, delta } => Ready::Factored { input: host(&input)?, delta: host(&delta)? },
            Gradients::Folded(folded) => Ready::Folded(folded),
            Gradients::Uses { layer, uses } => {
                let uses: Vec<PerExample> = uses.iter().map(|(x, d)| layer.per_example(x, d)).collect::<Result<_>>()?;
                Ready::Folded(fold_uses(&uses, fold(), rows)?)
            }
            Gradients::Zero => {
                let record = &self.layers[number].record;
                let zeros = |width: u32| vec![0f32; rows * width as usize];
                Ready::Factored { input: zeros(record.inputs), delta: zeros(record.outputs) }
            }
            Gradients::Given(given) => Ready::Folded(fold_uses(&given, fold(), rows)?),
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn factors(
        &mut self,
        kind: PassKind,
        number: usize,
        input: &[f32],
        delta: &[f32],
        undo: impl Fn(usize) -> f32,
        norms: &mut [f64],
        flags: &mut [u8],
        builder: &mut BlockBuilder,
    ) {
        let layer = &self.layers[number];
        let (inputs, outputs) = (layer.record.inputs as usize, layer.record.outputs as usize);
        let bias = f64::from(u8::from(layer.record.bias));
        let key = |column| ColumnKey { column, layer: number as u16 };
        let own = self.scratch.len().max(delta.len());
        self.scratch.resize(own, 0.0);
        let unweighted = &mut self.scratch[..delta.len()];
        for (i, (to, from)) in unweighted.chunks_mut(outputs).zip(delta.chunks(outputs)).enumerate() {
            let factor = undo(i);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * factor);
            norms[i] +=
                f64::from(squared_norm(to)) * (f64::from(squared_norm(&input[i * inputs..(i + 1) * inputs])) + bias);
        }
        let mut side = |values: &[f32], width: usize, fold: &Option<Fold>, column, scale| {
            let projected: Option<Vec<f32>> =
                fold.as_ref().map(|fold| values.chunks(width).flat_map(|row| fold.apply(row)).collect());
            let width = fold.as_ref().map_or(width, Fold::outputs);
            let encoding = self.sketch.factor_encoding(width as u32, is_probe(kind));
            encode_rows(
                encoding,
                projected.as_deref().unwrap_or(values),
                width,
                key(column),
                key(scale),
                flags,
                builder,
            );
        };
        side(input, inputs, &layer.input_fold, Column::Input, Column::InputScale);
        side(unweighted, outputs, &layer.delta_fold, Column::Delta, Column::DeltaScale);
    }
}

/// Quantizes rows of `width` numbers into a column and the column of its scales.
fn encode_rows(
    encoding: Encoding,
    values: &[f32],
    width: usize,
    key: ColumnKey,
    scale_key: ColumnKey,
    flags: &mut [u8],
    builder: &mut BlockBuilder,
) {
    let mut scales = Vec::with_capacity(2 * flags.len());
    let column = builder.column(key, Cells::Vector(encoding), width as u32);
    for (row, flag) in values.chunks(width).zip(flags) {
        let quantized = encoding.encode(row, column);
        scales.extend(quantized.scale.to_le_bytes());
        if !quantized.finite {
            *flag |= Column::FLAG_NOT_FINITE;
        }
    }
    builder.column(scale_key, Cells::Bf16, 1).extend(scales);
}

fn float_columns(outputs: &Outputs) -> [(Column, Option<&Vec<f32>>); 7] {
    [
        (Column::Loss, Some(&outputs.loss)),
        (Column::El2n, outputs.el2n.as_ref()),
        (Column::Margin, outputs.margin.as_ref()),
        (Column::Confidence, outputs.confidence.as_ref()),
        (Column::Correct, outputs.correct.as_ref()),
        (Column::Target, outputs.target.as_ref()),
        (Column::Output, outputs.output.as_ref()),
    ]
}

fn integer_columns(outputs: &Outputs) -> [(Column, Option<&Vec<u32>>); 3] {
    [
        (Column::Label, outputs.label.as_ref()),
        (Column::Prediction, outputs.prediction.as_ref()),
        (Column::Positions, outputs.positions.as_ref()),
    ]
}

impl super::message::LayerGradients {
    pub(super) fn form(&self) -> Form {
        match self.gradients {
            Gradients::Factored { .. } | Gradients::Zero => Form::Factored,
            _ => Form::Folded,
        }
    }
}
