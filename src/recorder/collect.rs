//! Collects at `commit` what a pass has caught. Either every tapped layer is in the result, or an error names the
//! missing layer and the reason.

use super::error::{quote_names, RecordError};
use super::fence::Fence;
use super::flow::{Flow, Inputs};
use super::loss;
use super::message::{Batch, Gradients, LayerGradients};
use super::pass_core::PassCore;
use super::preconditioner::Preconditioning;
use crate::taps::{sketch_on_device, Captured, DeviceSketch, PerExample, Presence, Registered, SharedFold, Taken, Tap};
use candle_core::Tensor;
use gradlog_format::sketch::Form;
use std::sync::Arc;

impl PassCore<'_> {
    /// Makes the batch that goes to the background thread.
    pub(super) fn collect(&mut self) -> Result<Batch, RecordError> {
        let Some(numbers) = self.outputs.take() else {
            return Err(self.error(
                "the pass has no loss: compute it with `pass.cross_entropy`, `mse`, `binary_cross_entropy_with_logits` or \
                 `losses`",
            ));
        };
        if let Some(setting) = self.late {
            return Err(self
                .error(format!("`{setting}` was set after the loss, where it has no effect: set it before the loss")));
        }
        self.check_positions_used()?;
        if self.features.is_some() && !self.recorder.has_last_layer() {
            return Err(self.error(
                "`pass.features` was called, but no last layer is declared, so nothing is recorded from the features: call \
                 `taps.declare_last_layer` before the recorder is made, or leave `pass.features` out",
            ));
        }
        let upstream = self.upstream.parts();
        let mut layers = std::mem::take(&mut self.per_example);
        let registered = self.recorder.layers();
        let tapped = registered.iter().any(|layer| layer.layer.is_some());
        if tapped && upstream.is_none() {
            let caught = registered.iter().map(|layer| layer.slot.take(self.number).caught.len()).sum::<usize>();
            return Err(self.error(if !self.has_graph {
                "the loss depends on no variable, so it has no gradient: compute it from the model's output, and do not detach \
                 it or read it out before"
            } else if caught == 0 {
                "no backward pass reached the loss: call `backward` before `commit`, on the loss that the pass returned or on a \
                 multiple of it. candle runs no backward through a product with the number 0: for a pass that shall not count, \
                 drop the pass, or set `pass.weights` to zeros before the loss"
            } else {
                "a backward pass was seen, but not through the loss that the pass returned: call `backward` on that loss"
            }));
        }
        let (outputs, coefficients, unread) = self.finish_numbers(numbers, upstream)?;
        let (mut unreached, mut severed, mut twice) = (Vec::new(), Vec::new(), Vec::new());
        let (mut left_out, mut no_gradient) = (Vec::new(), false);
        let mut flow = Flow::default();
        let mut inputs = Inputs::default();
        for (number, layer) in registered.iter().enumerate() {
            match &layer.layer {
                Some(tap) => {
                    let taken = layer.slot.take(self.number);
                    flow.note(&layer.name, &taken);
                    inputs.note(&layer.name, &taken, self.ids.len());
                    let is_optional = layer.presence == Presence::Optional;
                    if taken.uses == 0 && !is_optional {
                        unreached.push(layer.name.clone());
                        continue;
                    }
                    if taken.caught.len() < taken.uses && !is_optional {
                        severed.push(layer.name.clone());
                        continue;
                    }
                    if taken.caught.is_empty() {
                        no_gradient |= taken.uses > 0;
                        if self.zero_form(number, layer, &taken) == Form::Folded {
                            left_out.push(number);
                        } else {
                            layers.push(LayerGradients { layer: number, weighted: false, gradients: Gradients::Zero });
                        }
                        continue;
                    }
                    // Backward folds the gradients of a layer that forward used once. A second gradient then comes from
                    // a second backward.
                    let is_sum = |captured: &Captured| matches!(captured, Captured::Folded(_) | Captured::Sketched(_));
                    let folded = taken.caught.iter().any(is_sum);
                    if taken.caught.len() > taken.uses || folded && taken.caught.len() > 1 {
                        twice.push(layer.name.clone());
                        continue;
                    }
                    let caught = self.check_batch(layer, taken.caught)?;
                    let gradients = self.layer_gradients(number, layer, tap, caught)?;
                    layers.push(LayerGradients { layer: number, weighted: true, gradients });
                }
                None if layer.spec.factors.is_some() => layers.push(self.last_layer_gradients(number, layer)?),
                None if layers.iter().any(|part| part.layer == number) => {}
                None => {
                    return Err(self.error("the model's variables were declared, but `pass.per_example` was not called: call it before `commit`"))
                }
            }
        }
        let all = registered.iter().filter(|layer| layer.layer.is_some()).count();
        if !severed.is_empty() {
            return Err(RecordError::Severed { step: self.recorder.step(), layers: severed, why: flow.explain() });
        }
        if !twice.is_empty() {
            return Err(self.error(format!(
                "backward went through {} more than once: a pass is one forward and one backward. Add the losses first, or use one \
                 pass for each (`accumulate` on all but the last)",
                quote_names(&twice)
            )));
        }
        // Gradients from features, from `per_example` and the coefficients would count each of the passes.
        if self.upstream.count() > 1 {
            return Err(self.error(format!(
                "backward went through the loss {} times: a pass is one forward and one backward, and more than once it would \
                 count as a larger step. Add the losses first, or use one pass for each (`accumulate` on all but the last)",
                self.upstream.count()
            )));
        }
        if !unreached.is_empty() && unreached.len() == all {
            return Err(self.error(
                "the forward pass went through no tapped layer: call `model.forward` after `recorder.pass`, on the model that holds \
                 the tapped layers, and not under `taps.pause()`",
            ));
        }
        self.check_strays(&registered)?;
        if !unreached.is_empty() {
            return Err(self.error(format!(
                "the forward pass did not reach {}: if a pass may leave a layer out, tap it with `taps.tap_optional`. A layer that \
                 ran through `tapped.inner()` or under `taps.pause()` was not seen: call the tapped layer itself",
                quote_names(&unreached)
            )));
        }
        inputs.check_position_ids(self.ids.len()).map_err(|what| self.error(what))?;
        // A fused op that folded has already decided the width. Otherwise it is decided here.
        let parameters = |number: usize| registered[number].spec.elements() as u64;
        let folded = layers.iter().filter(|part| part.form() == Form::Folded).map(|part| part.layer);
        let sums: Vec<usize> = folded.chain(left_out.iter().copied()).collect();
        if !sums.is_empty() {
            self.with_shared_fold(|shared| shared.decide_width(|| sums.into_iter().map(parameters).sum()));
        }
        for part in &mut layers {
            if let Gradients::Uses { layer, uses } = &part.gradients {
                if let Some(sketch) = self.sketch_on_device(part.layer, layer, uses)? {
                    part.gradients = Gradients::OnDevice(sketch);
                }
            }
        }
        let sums = |shared: &SharedFold| {
            let taken = shared.take(self.number);
            // A layer that the pass left out has a zero gradient. Its column stays.
            taken.or_else(|| (!left_out.is_empty()).then(|| vec![0.0; self.ids.len() * shared.row_length()]))
        };
        let folded = self.with_shared_fold(sums).flatten();
        let preconditioning = match self.preconditioner.clone() {
            Some(preconditioner) => Preconditioning::Wanted(preconditioner),
            None => Preconditioning::None,
        };
        // A second record of a probe has its own projections.
        let metric = self.recorder.state.as_ref().filter(|_| self.preconditioner.is_none());
        let metric = metric.and_then(|state| state.visit_metric().cloned());
        Ok(Batch {
            fence: Fence::default(),
            folded,
            preconditioning,
            metric,
            kind: self.kind,
            replayed: self.recorder.replay_state(),
            ids: std::mem::take(&mut self.ids),
            step: self.recorder.step(),
            epoch: self.recorder.epoch(),
            outputs,
            coefficients,
            unread,
            curvature: self.curvature.take(),
            layers,
            bundle: None,
            no_gradient,
            judged: false,
        })
    }

    /// Refuses a backward pass that went on into a forward pass made before this pass. Its gradients belong to this
    /// pass's examples and would be missing.
    fn check_strays(&self, registered: &[Registered]) -> Result<(), RecordError> {
        let strayed = registered.iter().filter(|layer| layer.slot.has_strayed(self.number));
        let names: Vec<String> = strayed.map(|layer| layer.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(self.error(format!(
            "backward went on through {} into a forward pass that was made before this pass or under `taps.pause()`, and that part \
             of the gradients cannot be recorded: `detach` the state that is carried over (as in truncated backpropagation through \
             time) and what a paused forward gives to the loss, or run all forward passes of one backward inside one pass",
            quote_names(&names)
        )))
    }

    /// The form of an optional layer that got no gradient in this pass. A layer that ran shows its form; one that did
    /// not run leaves it open.
    fn zero_form(&mut self, number: usize, layer: &Registered, taken: &Taken) -> Form {
        let is_sum = layer.spec.factors.is_none() || layer.folded || layer.tied.is_some() || taken.sums;
        let seen = if is_sum { Form::Folded } else { Form::Factored };
        if taken.uses > 0 {
            return self.recorder.decide_form(number, seen);
        }
        self.recorder.known_form(number).unwrap_or(seen)
    }

    /// Checks that every capture has this pass's batch as its first dimension.
    fn check_batch(&self, layer: &Registered, caught: Vec<Captured>) -> Result<Vec<Captured>, RecordError> {
        let batch = self.ids.len();
        for captured in &caught {
            let (what, found) = match captured {
                Captured::Use { x, delta } => {
                    let first = |t: &Tensor| t.dims().first().copied().unwrap_or(0);
                    if first(x) == batch {
                        ("an output", first(delta))
                    } else {
                        ("an input", first(x))
                    }
                }
                Captured::Folded(folded) => ("an input", folded.squared_norms.len()),
                Captured::Sketched(sketch) => ("an input", sketch.norms.elem_count()),
            };
            if found != batch {
                return Err(self.error(format!(
                    "layer `{}` saw {what} whose first dimension is {found} in a pass over {batch} ids, so its rows belong to no \
                     known example. {}",
                    layer.name,
                    advise_on_rows(found, batch)
                )));
            }
        }
        Ok(caught)
    }

    fn layer_gradients(
        &mut self,
        number: usize,
        layer: &Registered,
        tap: &Arc<dyn Tap>,
        mut caught: Vec<Captured>,
    ) -> Result<Gradients, RecordError> {
        let rank_one = match (&caught[..], layer.spec.factors) {
            ([Captured::Use { x, delta }], Some((inputs, outputs))) => {
                let batch = self.ids.len();
                x.elem_count() == batch * inputs && delta.elem_count() == batch * outputs
            }
            _ => false,
        };
        // Gradients of a tied parameter are added, and factors cannot be added.
        let is_factored = rank_one && layer.tied.is_none() && !layer.folded;
        let seen = if is_factored { Form::Factored } else { Form::Folded };
        match self.recorder.decide_form(number, seen) {
            Form::Factored if !rank_one => Err(self.error(format!(
                "layer `{}` saw one position per example before and sees several now, and a run keeps one form: tap the layer with \
                 `taps.tap_folded`, which records sums over positions from the first pass on, and start a new run",
                layer.name
            ))),
            Form::Factored => match caught.pop() {
                Some(Captured::Use { x, delta }) => Ok(Gradients::Factored { input: x, delta }),
                _ => Err(self.error("a captured gradient is missing: please report this as a bug in gradlog")),
            },
            Form::Folded => {
                if let [Captured::Folded(_) | Captured::Sketched(_)] = &caught[..] {
                    match caught.pop() {
                        Some(Captured::Folded(folded)) => return Ok(Gradients::Folded(folded)),
                        Some(Captured::Sketched(sketch)) => return Ok(Gradients::OnDevice(sketch)),
                        _ => {}
                    }
                }
                let uses = caught.into_iter().filter_map(|captured| match captured {
                    Captured::Use { x, delta } => Some((x, delta)),
                    Captured::Folded(_) | Captured::Sketched(_) => None,
                });
                if tap.per_example_reads_parameters() {
                    let given = uses.map(|(x, delta)| tap.per_example(&x, &delta)).collect::<candle_core::Result<_>>()?;
                    return Ok(Gradients::Given(given));
                }
                Ok(Gradients::Uses { layer: tap.clone(), uses: uses.collect() })
            }
        }
    }

    /// Sketches what backward has not: layers that were used several times, and those without positions that are
    /// folded. The width of the folded vector must be decided. `None` if this is done in main memory.
    fn sketch_on_device(
        &self,
        number: usize,
        tap: &Arc<dyn Tap>,
        uses: &[(Tensor, Tensor)],
    ) -> Result<Option<DeviceSketch>, RecordError> {
        let Some(state) = self.recorder.state.as_ref() else { return Ok(None) };
        let is_far = uses.iter().all(|(_, delta)| state.sketching.is_on_device(delta.device()));
        if !is_far || uses.is_empty() {
            return Ok(None);
        }
        let given: Vec<PerExample> =
            uses.iter().map(|(x, delta)| tap.per_example(x, delta)).collect::<candle_core::Result<_>>()?;
        let (fold, metric) = match (&self.preconditioner, state.visit_metric()) {
            (Some(preconditioner), _) => (&preconditioner.folds[number], None),
            (None, Some(metric)) => (metric.fold(number).unwrap_or(&state.folds[number]), metric.norms(number)),
            (None, None) => (&state.folds[number], None),
        };
        Ok(sketch_on_device(&given, fold, metric, self.ids.len())?)
    }

    fn last_layer_gradients(&mut self, number: usize, layer: &Registered) -> Result<LayerGradients, RecordError> {
        let (Some(features), Some((inputs, outputs))) = (self.features.take(), layer.spec.factors) else {
            return Err(self.error(format!(
                "`{}` is recorded from its features: give its input to `pass.features` before the loss",
                layer.name
            )));
        };
        let Some(delta) = self.output_delta.take() else {
            return Err(self.error(
                "the last layer's output gradient follows from a loss in closed form: use `pass.cross_entropy` (which takes soft \
                 targets, too), `mse` or `binary_cross_entropy_with_logits`, or tap the layer, which takes any loss",
            ));
        };
        let (batch, positions) = (self.ids.len(), loss::count_positions(&features)?);
        // A transposed tensor has as many numbers, so each dimension is compared.
        let has_width = |dims: &[usize], width: usize| {
            dims == [batch, positions, width] || positions == 1 && dims == [batch, width]
        };
        // A loss of one output for each example also takes outputs without that dimension.
        let is_narrow =
            outputs == 1 && (delta.dims() == [batch, positions] || positions == 1 && delta.dims() == [batch]);
        let fits = has_width(features.dims(), inputs) && (has_width(delta.dims(), outputs) || is_narrow);
        if !fits {
            return Err(self.error(format!(
                "features of shape {:?} and outputs of shape {:?} do not fit `{}`, which was declared with {inputs} inputs and \
                 {outputs} outputs",
                features.shape(),
                delta.shape(),
                layer.name
            )));
        }
        let form = if positions == 1 && !layer.folded { Form::Factored } else { Form::Folded };
        // The background thread reads the features later. A buffer that the loop refills would have changed by then.
        let features = features.force_contiguous()?;
        let gradients = match (self.recorder.decide_form(number, form), form) {
            (Form::Factored, Form::Factored) => Gradients::Factored { input: features, delta },
            (Form::Folded, _) => {
                let deltas = delta.reshape((batch, positions, outputs))?;
                let inputs = features.reshape((batch, positions, inputs))?;
                Gradients::Given(vec![PerExample::Outer { inputs, deltas, bias: layer.spec.bias }])
            }
            (Form::Factored, Form::Folded) => {
                let what = format!(
                    "`{}` had one position per example before and has several now, and a run keeps one form: declare it with \
                     `LastLayer::folded`, and start a new run",
                    layer.name
                );
                return Err(self.error(what));
            }
        };
        Ok(LayerGradients { layer: number, weighted: false, gradients })
    }
}

/// What to do about a layer that saw `found` rows in a pass over `batch` ids.
fn advise_on_rows(found: usize, batch: usize) -> String {
    if found > batch && found.is_multiple_of(batch) {
        let times = found / batch;
        return format!(
            "If each example has {times} positions, keep them in a dimension of their own, `[batch, positions, width]` and not \
             `[batch * positions, width]`. If each example has {times} views (augmentations, pairs), give `recorder.pass` an id for \
             each row, in the order of the rows, and a loss for each row: an id may occur several times, and its views are then \
             visits whose scores add up. If it takes one input for the whole batch (position ids), expand that to `[batch, ...]`"
        );
    }
    if found < batch {
        return format!(
            "If the layer takes a part of the batch (an expert, a head for some of the examples), run it on all {batch} rows and \
             multiply its output by 0 where it does not apply: the other examples then get the gradient zero. If it takes one \
             input for the whole batch (position ids), expand that to `[batch, ...]`. A layer that a pass leaves out altogether \
             is tapped with `taps.tap_optional`"
        );
    }
    "Keep the batch as the first dimension of every tapped layer, with other dimensions behind it: `[batch, positions, width]`. \
     Expand an input that all examples share, such as position ids, to `[batch, ...]`"
        .into()
}
