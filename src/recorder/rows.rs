//! Turns a pass into the rows of a block: undoes the batch's weights, folds, computes norms, and quantizes. Runs on the
//! background thread.

use super::guard::{Found, Guard, NormWatch, PassRows};
use super::message::{Batch, Gradients, PassKind, Replayed};
use super::metric::VisitMetric;
use super::sketcher::LayerSketcher;
use super::vector_rows::{RowScratch, VectorRows};
use crate::taps::{add, add_uses, fold_uses, move_to_host, with_slice};
use crate::taps::{FoldedGradients, LazyFold, PerExample, SharedFold, SquaredNorms};
use candle_core::{Device, Result, Tensor};
use gradlog_format::log::{BlockBuilder, Cells, Column, Preconditioner};
use gradlog_format::sketch::{draw, Magnitudes, SketchConfig};
use gradlog_kernels::simd::{prefetch, squared_norm_f64, vectorized};
use gradlog_kernels::stage::{self, Stage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The gradients of a layer, in main memory.
enum HostGradients {
    /// Both contiguous f32 in main memory.
    Factored {
        input: Tensor,
        delta: Tensor,
    },
    Folded(FoldedGradients),
}

/// Turns passes into rows. Keeps its scratch space between them.
pub(super) struct RowMaker {
    pub(super) layers: Vec<LayerSketcher>,
    pub(super) sketch: SketchConfig,
    pub(super) shared_fold: Arc<SharedFold>,
    /// The divisor from a coefficient in this worker's loss to the coefficient in the joint step.
    divisor: f32,
    scratch: Scratch,
    watch: NormWatch,
}

/// Buffers that are used again from row to row.
#[derive(Default)]
struct Scratch {
    unweighted: Vec<f32>,
    row: RowScratch,
    /// For each row, the seed of its roundings.
    seeds: Vec<u64>,
}

/// Keeps the seeds of roundings apart from those of projections.
const ROUNDING_STREAM: u64 = 0x524F_554E_4449_4E47; // "ROUNDING"

impl RowMaker {
    pub(super) fn new(
        layers: Vec<LayerSketcher>,
        sketch: SketchConfig,
        shared_fold: Arc<SharedFold>,
        divisor: f32,
        guard: Guard,
    ) -> Self {
        let watch = NormWatch::new(guard);
        Self { layers, sketch, shared_fold, divisor, scratch: Scratch::default(), watch }
    }

    /// Appends the rows of `batch`, without learning rate and clip, which are known when the step ends.
    pub(super) fn push(&mut self, batch: Batch, builder: &mut BlockBuilder) -> Result<()> {
        let rows = batch.ids.len();
        let (is_preconditioned, has_norms) = (batch.is_preconditioned(), batch.has_norms_in_metric());
        let Batch {
            kind,
            replayed,
            ids,
            step,
            epoch,
            outputs,
            coefficients,
            curvature,
            layers,
            mut folded,
            no_gradient,
            metric,
            judged,
            ..
        } = batch;
        let metric = metric.as_deref();
        // Everything that can fail comes before the first append, so a failure leaves whole rows.
        let ready = (layers.into_iter())
            .map(|part| {
                let shared = part.weighted.then_some(&mut folded);
                Ok((
                    part.layer,
                    part.weighted,
                    self.load_gradients(part.layer, part.gradients, metric, (rows, shared))?,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        stage::enter(Stage::Other);
        let row_seed = |id: &u64| draw(draw(ROUNDING_STREAM ^ kind.number(), *id), step);
        self.scratch.seeds.clear();
        self.scratch.seeds.extend(ids.iter().map(row_seed));
        builder.u64s(Column::Example, ids.iter().copied());
        builder.u64s(Column::Step, std::iter::repeat_n(step, rows));
        builder.u32s(Column::Epoch, std::iter::repeat_n(epoch, rows));
        // Probes take no optimizer step, so their coefficient is not divided by the number of workers.
        let divisor = if kind == PassKind::Training { self.divisor } else { 1.0 };
        builder.f32s(Column::Coefficient, coefficients.iter().map(|c| c / divisor));
        if let PassKind::Probe { set } = kind {
            builder.u32s(Column::ProbeSet, std::iter::repeat_n(set, rows));
        }
        if is_preconditioned {
            let code = Preconditioner::SecondMoments.code();
            builder.column(Column::Preconditioner, Cells::U8, 1).extend(std::iter::repeat_n(code, rows));
        }
        if let Some(weights) = curvature {
            builder.f32s(Column::CurvatureWeight, weights);
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
        for (column, values) in outputs.float_columns() {
            if let Some(values) = values {
                builder.f32s(column, values.iter().copied());
            }
        }
        for (column, values) in outputs.integer_columns() {
            if let Some(values) = values {
                builder.u32s(column, values.iter().copied());
            }
        }
        let all = if no_gradient { Column::FLAG_NO_GRADIENT } else { 0 };
        let mut flags: Vec<u8> =
            (0..rows).map(|i| if outputs.is_finite(i) { all } else { all | Column::FLAG_NOT_FINITE }).collect();
        if !ready.is_empty() {
            let of_rows = (kind, is_preconditioned, metric);
            self.append_gradients(of_rows, ready, folded, &coefficients, &mut flags, builder)?;
            let norms = &self.watch.squared;
            let encoded = |norm: fn(&SquaredNorms) -> f64| norms.iter().map(norm).map(Column::encode_squared_norm);
            builder.f32s(Column::SquaredNorm, encoded(|norms| norms.plain));
            if has_norms {
                builder.f32s(Column::PreconditionedSquaredNorm, encoded(|norms| norms.in_metric));
            }
            if kind == PassKind::Training {
                let (losses, flags) = (&outputs.loss, &flags);
                self.watch.look(&PassRows { place: (step, epoch), ids: &ids, losses, flags, judged });
            }
        }
        builder.column(Column::Flags, Cells::U8, 1).extend(&flags);
        builder.advance(rows as u32, step, epoch);
        Ok(())
    }

    /// The name of a layer.
    pub(super) fn layer_name(&self, number: usize) -> Option<&str> {
        self.layers.get(number).map(|layer| layer.record.name.as_str())
    }

    /// Lets the guard look at losses that the training thread has not seen.
    pub(super) fn watch_losses(&mut self, batch: &Batch, ends_step: bool) {
        if batch.kind == PassKind::Training {
            self.watch.look_at_losses(batch, ends_step);
        }
    }

    /// Forgets the losses of a step that nobody takes.
    pub(super) fn forget_step(&mut self) {
        self.watch.forget_step();
    }

    /// What the guard noticed since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.watch.found)
    }

    /// Leaves the squared norm of each row in [`NormWatch::squared`].
    fn append_gradients(
        &mut self,
        (kind, is_preconditioned, metric): (PassKind, bool, Option<&VisitMetric>),
        layers: Vec<(usize, bool, HostGradients)>,
        mut folded: Option<Vec<f32>>,
        coefficients: &[f32],
        flags: &mut [u8],
        builder: &mut BlockBuilder,
    ) -> Result<()> {
        let rows = coefficients.len();
        let m = self.shared_fold.buckets();
        let mut norms = std::mem::take(&mut self.watch.squared);
        norms.clear();
        norms.resize(rows, SquaredNorms::default());
        self.watch.parts.begin(rows);
        // Backward gives c_i times the example's own gradient. If c_i is 0, the gradient cannot be recovered.
        let undo = |i: usize, weighted: bool| match coefficients[i] {
            _ if !weighted => 1.0,
            0.0 => 0.0,
            c => 1.0 / c,
        };
        for (i, row) in folded.iter_mut().flat_map(|sums| sums.chunks_exact_mut(m)).enumerate() {
            let factor = undo(i, true);
            row.iter_mut().for_each(|v| *v *= factor);
        }
        let mut tied: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        let mut weightless = false;
        for (number, weighted, gradients) in layers {
            weightless |= weighted;
            match gradients {
                HostGradients::Folded(gradients) => {
                    if gradients.estimated {
                        flags.iter_mut().for_each(|flag| *flag |= Column::FLAG_NORM_ESTIMATED);
                    }
                    stage::enter(Stage::Fold);
                    let group = self.layers[number].tied;
                    let (sum, length) = match group {
                        // A second sketch is that in the metric.
                        Some(first) => (tied.entry(first).or_insert_with(|| vec![0f32; rows * 2 * m]), 2 * m),
                        None => {
                            for (i, (norms, own)) in norms.iter_mut().zip(&gradients.squared_norms).enumerate() {
                                *norms += own.times(f64::from(undo(i, weighted)).powi(2));
                            }
                            (folded.get_or_insert_with(|| vec![0f32; rows * m]), m)
                        }
                    };
                    let own_length = (gradients.sketches.len() / rows.max(1)).max(1);
                    let pairs = sum.chunks_exact_mut(length).zip(gradients.sketches.chunks_exact(own_length));
                    for (i, (total, own)) in pairs.enumerate() {
                        let factor = undo(i, weighted);
                        total.iter_mut().zip(own).for_each(|(total, s)| *total += s * factor);
                    }
                }
                HostGradients::Factored { input, delta } => with_slice(&input, |input| {
                    let undo = |i| undo(i, weighted);
                    with_slice(&delta, |delta| {
                        self.append_factors((kind, metric), number, input, delta, undo, &mut norms, flags, builder);
                        Ok(())
                    })
                })?,
            }
            self.watch.parts.note(number, norms.iter().map(|norms| norms.plain));
        }
        stage::enter(Stage::Other);
        // For a tensor that several layers share, only the sum of their gradients is its gradient. Its norm is
        // estimated by that of the sketch.
        for (first, sum) in tied {
            let total = folded.get_or_insert_with(|| vec![0f32; rows * m]);
            for (i, (norms, flag)) in norms.iter_mut().zip(flags.iter_mut()).enumerate() {
                let (own, in_metric) = sum[i * 2 * m..(i + 1) * 2 * m].split_at(m);
                if !is_preconditioned {
                    norms.plain += squared_norm_f64(own);
                    norms.in_metric += squared_norm_f64(in_metric);
                    *flag |= Column::FLAG_NORM_ESTIMATED;
                }
                add(&mut total[i * m..(i + 1) * m], own);
            }
            self.watch.parts.note(first, norms.iter().map(|norms| norms.plain));
        }
        if let Some(mut sums) = folded {
            let mut into = VectorRows::new(self.folded_column(kind), builder);
            if is_preconditioned {
                // Of a gradient times D, only the sketch is known.
                for ((row, norms), flag) in sums.chunks_exact(m).zip(&mut norms).zip(flags.iter_mut()) {
                    norms.plain += squared_norm_f64(row);
                    *flag |= Column::FLAG_NORM_ESTIMATED;
                }
            }
            for (row, flag) in sums.chunks_exact_mut(m).zip(flags.iter_mut()) {
                mark_finite(flag, into.push_folded(row, &mut self.scratch.row, builder));
            }
            stage::enter(Stage::Other);
            into.finish(builder);
        }
        for ((flag, norms), c) in flags.iter_mut().zip(&norms).zip(coefficients) {
            if !norms.plain.is_finite() || norms.plain > f64::from(f32::MAX) {
                *flag |= Column::FLAG_NOT_FINITE;
            }
            if weightless && *c == 0.0 {
                *flag |= Column::FLAG_NO_WEIGHT;
            }
        }
        self.watch.squared = norms;
        Ok(())
    }

    /// Brings a layer's gradients to main memory. If they are as weighted as the `shared` sums of the pass, and need no
    /// vector of their own, they are added to these.
    fn load_gradients(
        &self,
        number: usize,
        gradients: Gradients,
        metric: Option<&VisitMetric>,
        (rows, shared): (usize, Option<&mut Option<Vec<f32>>>),
    ) -> Result<HostGradients> {
        let m = self.shared_fold.buckets();
        let in_metric = metric.and_then(|metric| metric.fold(number));
        let norms = metric.and_then(|metric| metric.norms(number));
        let fold_all = |uses: &[PerExample]| {
            stage::enter(Stage::Fold);
            let fold: &LazyFold = in_metric.unwrap_or(&self.layers[number].fold);
            let fits = self.layers[number].tied.is_none() && fold.outputs() == m;
            match shared.filter(|sums| fits && sums.as_ref().is_none_or(|sums| sums.len() == rows * m)) {
                Some(sums) => add_uses(uses, fold, norms, rows, sums.get_or_insert_with(|| vec![0f32; rows * m])),
                None => fold_uses(uses, fold, norms, rows),
            }
        };
        Ok(match gradients {
            Gradients::Factored { input, delta } => {
                metric.map_or(Ok(()), |metric| metric.read_factors(number))?;
                HostGradients::Factored { input: move_to_host(&input)?, delta: move_to_host(&delta)? }
            }
            Gradients::Folded(folded) => HostGradients::Folded(folded),
            Gradients::OnDevice(sketch) => HostGradients::Folded(sketch.read()?),
            Gradients::Uses { layer, uses } => {
                let uses: Vec<PerExample> = uses.iter().map(|(x, d)| layer.per_example(x, d)).collect::<Result<_>>()?;
                HostGradients::Folded(fold_all(&uses)?)
            }
            Gradients::Zero => {
                let record = &self.layers[number].record;
                let zeros = |width: u32| Tensor::zeros(rows * width as usize, candle_core::DType::F32, &Device::Cpu);
                HostGradients::Factored { input: zeros(record.inputs)?, delta: zeros(record.outputs)? }
            }
            Gradients::Given(given) => HostGradients::Folded(fold_all(&given)?),
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn append_factors(
        &mut self,
        (kind, metric): (PassKind, Option<&VisitMetric>),
        number: usize,
        input: &[f32],
        delta: &[f32],
        undo: impl Fn(usize) -> f32,
        norms: &mut [SquaredNorms],
        flags: &mut [u8],
        builder: &mut BlockBuilder,
    ) {
        let Scratch { mut unweighted, row: mut scratch, seeds } = std::mem::take(&mut self.scratch);
        let layer = &self.layers[number];
        let (inputs, outputs) = (layer.record.inputs as usize, layer.record.outputs as usize);
        let bias = layer.record.bias;
        let column = |column| self.side_column(layer, number as u16, column, kind);
        let mut inputs_to = VectorRows::new(column(Column::Input), builder);
        let mut deltas_to = VectorRows::new(column(Column::Delta), builder);
        // Goes row by row, so that a row's numbers are read from memory once.
        let rows = input.chunks_exact(inputs).zip(delta.chunks_exact(outputs));
        for (i, (((a, d), (norms, flag)), seed)) in rows.zip(norms.iter_mut().zip(flags)).zip(&seeds).enumerate() {
            let factor = undo(i);
            stage::enter(Stage::Read);
            // The next row comes from memory while this one is worked on.
            prefetch(input.get((i + 1) * inputs..(i + 2) * inputs).unwrap_or_default());
            scale_into(d, factor, &mut unweighted);
            let (of_a, of_d) = (Magnitudes::of(a), Magnitudes::of(&unweighted));
            let input_square = of_a.squared_norm() + f64::from(u8::from(bias));
            norms.plain += of_d.squared_norm() * input_square;
            if let Some(metric) = metric {
                norms.in_metric += metric.squared_norm_of_factors(number, a, &unweighted, bias);
            }
            let seed_of = |record_seed: u64| draw(record_seed, *seed);
            let of_input = seed_of(layer.record.seed_input);
            mark_finite(flag, inputs_to.push((a, &of_a), layer.input.as_ref(), of_input, &mut scratch, builder));
            prefetch(delta.get((i + 1) * outputs..(i + 2) * outputs).unwrap_or_default());
            let of_delta = seed_of(layer.record.seed_delta);
            mark_finite(
                flag,
                deltas_to.push((&unweighted, &of_d), layer.delta.as_ref(), of_delta, &mut scratch, builder),
            );
        }
        stage::enter(Stage::Other);
        inputs_to.finish(builder);
        deltas_to.finish(builder);
        self.scratch = Scratch { unweighted, row: scratch, seeds };
    }
}

/// Replaces the numbers of `into` by `factor` times those of `values`.
fn scale_into(values: &[f32], factor: f32, into: &mut Vec<f32>) {
    into.resize(values.len(), 0.0);
    vectorized(
        #[inline(always)]
        || into.iter_mut().zip(values).for_each(|(into, value)| *into = value * factor),
    );
}

/// Flags a row with a vector that was not finite.
fn mark_finite(flag: &mut u8, finite: bool) {
    if !finite {
        *flag |= Column::FLAG_NOT_FINITE;
    }
}
