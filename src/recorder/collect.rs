//! Collects at `commit` what a pass has caught. Either every tapped layer is in the result, or an error names the
//! missing layer and the reason.

use super::error::{quote_names, RecordError};
use super::loss;
use super::message::{Batch, Gradients, LayerGradients};
use super::pass_core::PassCore;
use crate::taps::{Captured, PerExample, Presence, Registered, SharedFold, Tap};
use candle_core::Tensor;
use gradlog_format::sketch::Form;
use std::sync::Arc;

impl PassCore<'_> {
    /// Makes the batch that goes to the background thread.
    pub(super) fn collect(&mut self) -> Result<Batch, RecordError> {
        let Some((outputs, mut coefficients)) = self.outputs.take() else {
            return Err(self.error(
                "the pass has no loss: compute it with `pass.cross_entropy`, `mse`, `binary_cross_entropy_with_logits` or \
                 `losses`",
            ));
        };
        if let Some(setting) = self.late {
            return Err(self
                .error(format!("`{setting}` was set after the loss, where it has no effect: set it before the loss")));
        }
        let upstream = self.upstream.get();
        let mut layers = std::mem::take(&mut self.per_example);
        let registered = self.recorder.layers();
        let tapped = registered.iter().any(|layer| layer.layer.is_some());
        if tapped && upstream.is_none() {
            let caught = registered.iter().map(|layer| layer.slot.take(self.number).caught.len()).sum::<usize>();
            return Err(self.error(if caught == 0 {
                "no backward pass was seen: call `loss.backward()` before `commit`, on the loss that the pass returned"
            } else {
                "a backward pass was seen, but not through the loss that the pass returned: call `backward` on that loss"
            }));
        }
        let factor = upstream.unwrap_or(1.0) as f32;
        coefficients.iter_mut().for_each(|c| *c *= factor);
        let (mut unreached, mut severed, mut twice) = (Vec::new(), Vec::new(), Vec::new());
        let mut left_out = Vec::new();
        for (number, layer) in registered.iter().enumerate() {
            match &layer.layer {
                Some(tap) => {
                    let taken = layer.slot.take(self.number);
                    if taken.uses == 0 {
                        let is_folded =
                            layer.spec.factors.is_none() || self.recorder.known_form(number) == Some(Form::Folded);
                        if layer.presence == Presence::Required {
                            unreached.push(layer.name.clone());
                        } else if is_folded {
                            left_out.push(number);
                        } else {
                            layers.push(LayerGradients { layer: number, weighted: false, gradients: Gradients::Zero });
                        }
                        continue;
                    }
                    if taken.caught.len() < taken.uses {
                        severed.push(layer.name.clone());
                        continue;
                    }
                    // Backward folds the gradients of a layer that forward used once. A second gradient then comes from
                    // a second backward.
                    let folded = taken.caught.iter().any(|captured| matches!(captured, Captured::Folded(_)));
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
            return Err(RecordError::Severed { step: self.recorder.step(), layers: severed });
        }
        if !twice.is_empty() {
            return Err(self.error(format!(
                "backward went through {} more than once: a pass is one forward and one backward. Add the losses first, or use one \
                 pass for each (`accumulate` on all but the last)",
                quote_names(&twice)
            )));
        }
        if !unreached.is_empty() && unreached.len() == all {
            return Err(self.error(
                "the forward pass went through no tapped layer: call `model.forward` after `recorder.pass`, on the model that holds \
                 the tapped layers",
            ));
        }
        self.check_strays(&registered)?;
        if !unreached.is_empty() {
            return Err(self.error(format!(
                "the forward pass did not reach {}: if a pass may leave a layer out, tap it with `taps.tap_optional`",
                quote_names(&unreached)
            )));
        }
        // A fused op that folded has already decided the width. Otherwise it is decided here.
        let parameters = |number: usize| registered[number].spec.elements() as u64;
        let folded = layers.iter().filter(|part| part.form() == Form::Folded).map(|part| part.layer);
        let sums: Vec<usize> = folded.chain(left_out.iter().copied()).collect();
        if !sums.is_empty() {
            self.recorder.with_shared_fold(|shared| shared.decide_width(|| sums.into_iter().map(parameters).sum()));
        }
        let sums = |shared: &SharedFold| {
            let taken = shared.take(self.number);
            // A layer that the pass left out has a zero gradient. Its column stays.
            taken.or_else(|| (!left_out.is_empty()).then(|| vec![0.0; self.ids.len() * shared.buckets()]))
        };
        let folded = self.recorder.with_shared_fold(sums).flatten();
        Ok(Batch {
            folded,
            kind: self.kind,
            replayed: self.recorder.replay_state(),
            ids: std::mem::take(&mut self.ids),
            step: self.recorder.step(),
            epoch: self.recorder.epoch(),
            outputs,
            coefficients,
            curvature: self.curvature.take(),
            layers,
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
            "backward went on through {} into a forward pass that was made before this pass, and that part of the gradients \
             cannot be recorded: `detach` the state that is carried over (as in truncated backpropagation through time), or run \
             all forward passes of one backward inside one pass",
            quote_names(&names)
        )))
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
            };
            if found != batch {
                return Err(self.error(format!(
                    "layer `{}` saw {what} whose first dimension is {found} in a pass over {batch} ids: keep the batch as the first \
                     dimension through every tapped layer (`[batch, positions, width]`, not `[batch * positions, width]`; expand \
                     position ids to `[batch, positions]`)",
                    layer.name
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
        let seen = if rank_one && layer.tied.is_none() { Form::Factored } else { Form::Folded };
        match self.recorder.decide_form(number, seen) {
            Form::Factored if !rank_one => Err(self.error(format!(
                "layer `{}` saw one position per example before and sees several now: a run keeps one form, so use the layer in one \
                 way, or tap two layers that share the weight",
                layer.name
            ))),
            Form::Factored => match caught.pop() {
                Some(Captured::Use { x, delta }) => Ok(Gradients::Factored { input: x, delta }),
                _ => Err(self.error("a captured gradient is missing: please report this as a bug in gradlog")),
            },
            Form::Folded => {
                if let [Captured::Folded(_)] = &caught[..] {
                    if let Some(Captured::Folded(folded)) = caught.pop() {
                        return Ok(Gradients::Folded(folded));
                    }
                }
                let uses = caught.into_iter().filter_map(|captured| match captured {
                    Captured::Use { x, delta } => Some((x, delta)),
                    Captured::Folded(_) => None,
                });
                if tap.per_example_reads_parameters() {
                    let given = uses.map(|(x, delta)| tap.per_example(&x, &delta)).collect::<candle_core::Result<_>>()?;
                    return Ok(Gradients::Given(given));
                }
                let uses = uses.collect();
                Ok(Gradients::Uses { layer: tap.clone(), uses })
            }
        }
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
                "the last layer's output gradient follows from a loss in closed form: use `pass.cross_entropy`, `mse` or \
                 `binary_cross_entropy_with_logits`, or tap the layer",
            ));
        };
        let (batch, positions) = (self.ids.len(), loss::count_positions(&features)?);
        let fits =
            features.elem_count() == batch * positions * inputs && delta.elem_count() == batch * positions * outputs;
        if !fits {
            return Err(self.error(format!(
                "features of shape {:?} and outputs of shape {:?} do not fit `{}`, which was declared with {inputs} inputs and \
                 {outputs} outputs",
                features.shape(),
                delta.shape(),
                layer.name
            )));
        }
        let form = if positions == 1 { Form::Factored } else { Form::Folded };
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
                    "`{}` had one position per example before and has several now: a run keeps one form, so give it one \
                     position in every pass",
                    layer.name
                );
                return Err(self.error(what));
            }
        };
        Ok(LayerGradients { layer: number, weighted: false, gradients })
    }
}
