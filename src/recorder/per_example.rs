//! Gradients from one backward pass for each example, for models that cannot be tapped.

use super::error::RecordError;
use super::message::{Gradients, LayerGradients};
use super::outputs::Outputs;
use super::pass_core::PassCore;
use crate::taps::{read_f32, wide_squared_norm, FoldedGradients};
use candle_core::{DType, Device, Tensor, Var};

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
        let layers = if self.is_recorded() { self.recorder.variable_layers() } else { Vec::new() };
        if layers.is_empty() && self.is_recorded() {
            return Err(
                self.error("`per_example` needs the model's variables: call `taps.declare_variables(&varmap)` first")
            );
        }
        let parameters = || layers.iter().map(|(_, variable, _)| variable.elem_count() as u64).sum();
        self.recorder.with_shared_fold(|shared| shared.decide_width(parameters));
        let mut folded: Vec<FoldedGradients> = layers
            .iter()
            .map(|(_, _, fold)| FoldedGradients {
                sketches: vec![0.0; batch * fold.get().outputs()],
                squared_norms: vec![0.0; batch],
            })
            .collect();
        let mut losses = Vec::with_capacity(batch);
        for i in 0..batch {
            let own = loss(i)?;
            losses.push(own.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().sum::<f32>());
            if layers.is_empty() {
                continue;
            }
            let grads = own.backward()?;
            for ((_, variable, fold), folded) in layers.iter().zip(&mut folded) {
                let variable: &Var = variable;
                let Some(grad) = grads.get(variable.as_tensor()) else {
                    continue;
                };
                let (grad, fold) = (read_f32(grad)?, fold.get());
                let m = fold.outputs();
                folded.squared_norms[i] = wide_squared_norm(&grad);
                fold.add(0, &grad, &mut folded.sketches[i * m..(i + 1) * m]);
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
        let tensor = Tensor::from_slice(&losses, batch, &Device::Cpu)?;
        if self.outputs.is_none() {
            let coefficients = self.weighing.coefficients(&vec![1; batch]);
            let outputs = Outputs::from_losses(losses);
            self.check_losses(&outputs, &coefficients);
            self.outputs = Some((outputs, coefficients));
        }
        Ok(tensor)
    }
}
