//! Gradients from one backward pass for each example, for models that cannot be tapped.

use super::error::{quote_names, RecordError};
use super::held::HeldVariables;
use super::later::Later;
use super::message::{Gradients, LayerGradients, PassKind};
use super::outputs::Outputs;
use super::pass_core::PassCore;
use crate::taps::{read_f32, FoldedGradients, LazyFold, SquaredNorms};
use candle_core::{DType, Device, Tensor, TensorId, Var};
use std::collections::HashSet;
use std::sync::Arc;

impl PassCore<'_> {
    pub(super) fn per_example(
        &mut self,
        mut loss: impl FnMut(usize) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, RecordError> {
        if !self.recorder.is_enabled() {
            return Err(self
                .error("`per_example` needs an enabled recorder: skip the call if `recorder.is_enabled()` is false"));
        }
        if self.is_check {
            return Err(self.error(
                "`per_example` takes each gradient from one example alone, so there is nothing to check: check models \
                 with tapped layers, or without recorded gradients",
            ));
        }
        if self.outputs.is_none() {
            self.check_first_loss()?;
        }
        let batch = self.ids.len();
        let mut layers = if self.is_recorded() { self.recorder.variable_layers() } else { Vec::new() };
        if let Some(preconditioner) = &self.preconditioner {
            layers.iter_mut().for_each(|(layer, _, fold)| *fold = preconditioner.folds[*layer].clone());
        }
        if layers.is_empty() && self.is_recorded() {
            return Err(
                self.error("`per_example` needs the model's variables: call `taps.declare_variables(&varmap)` first")
            );
        }
        let metric = self.recorder.state.as_ref().and_then(|state| state.visit_metric().cloned());
        for (layer, _, fold) in &layers {
            fold.read_weights()?;
            metric.as_ref().map_or(Ok(()), |metric| metric.read_weights(*layer))?;
        }
        let parameters = || layers.iter().map(|(_, variable, _)| variable.elem_count() as u64).sum();
        self.with_shared_fold(|shared| shared.decide_width(parameters));
        let mut folded: Vec<FoldedGradients> = layers
            .iter()
            .map(|(_, _, fold)| FoldedGradients {
                sketches: vec![0.0; batch * fold.get().outputs()],
                squared_norms: vec![SquaredNorms::default(); batch],
                estimated: false,
            })
            .collect();
        let mut losses = Vec::with_capacity(batch);
        let mut reached = HashSet::new();
        let held = self.hold_variables(&layers)?;
        for i in 0..batch {
            let own = loss(i);
            // What the forward pass changed is set back before anything else, an error of its own included.
            let changed = held.restore()?;
            if !changed.is_empty() {
                return Err(self.describe_changed(&changed));
            }
            let own = own?;
            losses.push(own.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().sum::<f32>());
            if layers.is_empty() {
                continue;
            }
            let grads = own.backward()?;
            for ((layer, variable, fold), folded) in layers.iter().zip(&mut folded) {
                let variable: &Var = variable;
                let Some(grad) = grads.get(variable.as_tensor()) else {
                    continue;
                };
                reached.insert(variable.id());
                let (grad, fold) = (read_f32(grad)?, fold.get());
                let m = fold.outputs();
                let weights = metric.as_ref().and_then(|metric| metric.weights(*layer));
                folded.squared_norms[i] = SquaredNorms::of(&grad, 0, weights);
                fold.add(0, &grad, &mut folded.sketches[i * m..(i + 1) * m]);
            }
        }
        if !layers.is_empty() {
            let is_reached = |id: TensorId| reached.contains(&id);
            if let Some(what) = self.recorder.look_at_reach(is_reached) {
                return Err(self.error(what));
            }
        }
        self.per_example = layers
            .iter()
            .zip(folded)
            .map(|((layer, _, _), folded)| LayerGradients {
                layer: *layer,
                weighted: false,
                gradients: Gradients::Folded(folded),
            })
            .collect();
        self.compare_losses(&losses)?;
        let tensor = Tensor::from_slice(&losses, batch, &Device::Cpu)?;
        if self.outputs.is_none() {
            let coefficients = self.weighing.coefficients(&vec![1; batch]);
            let outputs = Outputs::from_losses(losses);
            self.check_losses(&outputs, &coefficients);
            self.outputs = Some(Later::Here((outputs, coefficients)));
        }
        Ok(tensor)
    }

    /// Refuses losses that are not those of the pass.
    fn compare_losses(&mut self, own: &[f32]) -> Result<(), RecordError> {
        self.read_outputs()?;
        let (true, Some(Later::Here((outputs, _)))) = (self.is_recorded(), &self.outputs) else { return Ok(()) };
        let Some(state) = &mut self.recorder.state else { return Ok(()) };
        let compared = &mut state.own_losses[usize::from(self.kind != PassKind::Training)];
        let what = compared.compare(&self.ids, own, &outputs.loss, !state.statistics.is_empty());
        what.map_or(Ok(()), |what| Err(self.error(what)))
    }

    /// Copies of what `loss` must not change: all variables in the first pass, and later the statistics alone.
    fn hold_variables(&mut self, layers: &[(usize, Var, Arc<LazyFold>)]) -> Result<HeldVariables, RecordError> {
        let names = self.recorder.layers();
        let Some(state) = &mut self.recorder.state else { return Ok(HeldVariables::hold_named(Vec::new())?) };
        let mut named = state.statistics.clone();
        if !std::mem::replace(&mut state.held_all, true) {
            let name = |layer: &usize| names.get(*layer).map_or_else(String::new, |layer| layer.name.clone());
            named.extend(layers.iter().map(|(layer, variable, _)| (name(layer), variable.clone())));
        }
        Ok(HeldVariables::hold_named(named)?)
    }

    fn describe_changed(&self, changed: &[String]) -> RecordError {
        self.error(format!(
            "the forward pass of one example changes {}, which are set back. A BatchNorm in training mode takes its statistics from \
             the batch, and a batch of one makes them NaN: run it in evaluation mode, `forward_t(x, false)`. Other variables may \
             change only between passes",
            quote_names(changed)
        ))
    }
}
