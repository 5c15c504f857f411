//! `v̂` of one layer, and what is made of it for the norms of visits in Adam's metric.
//!
//! In main memory it is made by loops. On a device it is made by candle's ops, so that no moment is copied and the
//! training does not wait.

use super::moments::{inverse_roots, read_layer, FactorScales};
use super::state::State;
use crate::step::{AdamStep, SecondMoments};
use crate::taps::{MetricWeights, Placed, Registered, SideScales};
use candle_core::{DType, Device, Result, Tensor};

/// `v̂` of all parameters of a layer, in their order.
pub(super) struct LayerMoments {
    numbers: Numbers,
    /// `ε` of the optimizer.
    step: AdamStep,
    /// The ratio of the layer's learning rate to that of the step, which `D` is multiplied by.
    rate: f32,
}

enum Numbers {
    Here(Vec<f32>),
    /// `[parameters]`, f32.
    There(Tensor),
}

impl LayerMoments {
    /// They stay on a device where gradients are sketched. `None` if a variable of the layer is not known.
    pub(super) fn of(
        state: &State,
        layer: &Registered,
        (second, step): (&SecondMoments, &AdamStep),
        rate: f32,
    ) -> Result<Option<Self>> {
        let numbers = match find_device(state, layer).filter(|device| state.sketching.is_on_device(device)) {
            Some(device) => join(state, layer, (second, step), &device)?.map(Numbers::There),
            None => read_layer(state, layer, second, step)?.map(Numbers::Here),
        };
        Ok(numbers.map(|numbers| Self { numbers, step: *step, rate }))
    }

    /// `D` of a factored layer with `inputs` and `outputs`, as an outer product.
    pub(super) fn factors(&self, (inputs, outputs): (usize, usize)) -> Result<FactorScales> {
        match &self.numbers {
            Numbers::Here(v) => Ok(FactorScales::new(v, (inputs, outputs), &self.step, self.rate)),
            Numbers::There(v) => {
                let (input, delta) = self.outer_product(v, (inputs, outputs))?;
                Ok(FactorScales::there(input, delta))
            }
        }
    }

    /// `D`, number by number.
    pub(super) fn weights(&self) -> Result<MetricWeights> {
        Ok(match &self.numbers {
            Numbers::Here(v) => MetricWeights::new(&inverse_roots(v, self.step.epsilon, self.rate)),
            Numbers::There(v) => MetricWeights::there((self.root(v)? * f64::from(self.rate))?.to_dtype(DType::BF16)?),
        })
    }

    /// `D^{1/2}`, number by number.
    pub(super) fn roots(&self) -> Result<Placed<f32>> {
        self.roots_from(0)
    }

    /// `D^{1/2}` of a layer that is projected from both sides, whose weight has `(rows, columns)`: of the weight as an
    /// outer product, of the rest number by number.
    pub(super) fn side_roots(&self, (rows, columns): (usize, usize)) -> Result<SideScales> {
        let (of_columns, of_rows) = match &self.numbers {
            Numbers::Here(v) => {
                let weight = &v[..(rows * columns).min(v.len())];
                let scales = FactorScales::new(weight, (columns, rows), &self.step, self.rate);
                let (of_columns, of_rows) = scales.into_sides();
                let root = |values: &Placed<f32>| -> Vec<f32> { values.get().iter().map(|v| v.sqrt()).collect() };
                (Placed::here(root(&of_columns)), Placed::here(root(&of_rows)))
            }
            Numbers::There(v) => {
                let weight = v.narrow(0, 0, rows * columns)?;
                let (of_columns, of_rows) = self.outer_product(&weight, (columns, rows))?;
                (Placed::there(of_columns.sqrt()?), Placed::there(of_rows.sqrt()?))
            }
        };
        Ok(SideScales::new(of_rows, of_columns, self.roots_from(rows * columns)?))
    }

    fn roots_from(&self, first: usize) -> Result<Placed<f32>> {
        Ok(match &self.numbers {
            Numbers::Here(v) => {
                let weights = inverse_roots(v.get(first..).unwrap_or_default(), self.step.epsilon, self.rate);
                Placed::here(weights.iter().map(|weight| weight.sqrt()).collect::<Vec<f32>>())
            }
            Numbers::There(v) => {
                let rest = v.narrow(0, first, v.elem_count().saturating_sub(first))?;
                match rest.elem_count() {
                    0 => Placed::here(Vec::new()),
                    _ => Placed::there((self.root(&rest)? * f64::from(self.rate))?.sqrt()?),
                }
            }
        })
    }

    /// As [`FactorScales::new`], on the device: what columns and rows are multiplied by. The numbers behind the weight
    /// are the bias.
    fn outer_product(&self, v: &Tensor, (inputs, outputs): (usize, usize)) -> Result<(Tensor, Tensor)> {
        let weight = v.narrow(0, 0, inputs * outputs)?.reshape((outputs, inputs))?;
        let (columns, mut rows) = (weight.sum(0)?, weight.sum(1)?);
        let (mut base, mut unit) = (rows.sum_keepdim(0)?, None);
        if v.elem_count() > inputs * outputs {
            let bias = v.narrow(0, inputs * outputs, outputs)?;
            let of_bias = bias.sum_keepdim(0)?;
            rows = (rows + bias)?;
            let (total, has_bias) = (rows.sum_keepdim(0)?, of_bias.gt(0f64)?);
            unit = Some(has_bias.where_cond(&(&of_bias / &total)?, &of_bias.ones_like()?)?);
            base = has_bias.where_cond(&of_bias, &total)?;
        }
        if let Some(unit) = unit {
            rows = rows.broadcast_mul(&unit)?;
        }
        Ok((self.root(&columns.broadcast_div(&base)?)?, (self.root(&rows)? * f64::from(self.rate))?))
    }

    /// `1/(√v + ε)`, and 0 for an element that never had a gradient.
    fn root(&self, v: &Tensor) -> Result<Tensor> {
        let roots = (v.sqrt()? + self.step.epsilon)?.recip()?;
        v.gt(0f64)?.where_cond(&roots, &v.zeros_like()?)
    }
}

/// Where the layer's parameters are, if it shows one.
fn find_device(state: &State, layer: &Registered) -> Option<Device> {
    let shown = layer.spec.parameters.iter().find_map(|parameter| parameter.tensor.as_ref());
    let others = || state.layers.iter().flat_map(|layer| &layer.spec.parameters);
    // A model is on one device, so another layer's will do.
    shown.or_else(|| others().find_map(|parameter| parameter.tensor.as_ref())).map(|tensor| tensor.device().clone())
}

/// As [`read_layer`], on the device.
fn join(
    state: &State,
    layer: &Registered,
    (second, step): (&SecondMoments, &AdamStep),
    device: &Device,
) -> Result<Option<Tensor>> {
    let mut all = Vec::new();
    for parameter in &layer.spec.parameters {
        let Some(variable) = state.taps.registry().variable_of(layer, parameter) else { return Ok(None) };
        let count = parameter.shape.elem_count();
        match second.tensor(variable)? {
            Some((moments, steps)) if moments.elem_count() == count => {
                let v = moments.to_device(device)?.to_dtype(DType::F32)?.flatten_all()?;
                let correction = step.second_correction(steps);
                all.push((v * f64::from(correction))?.minimum(f64::from(f32::MAX))?);
            }
            Some(_) => return Ok(None),
            // The optimizer has not moved it.
            None => all.push(Tensor::zeros(count, DType::F32, device)?),
        }
    }
    if all.is_empty() {
        return Ok(None);
    }
    Tensor::cat(&all, 0).map(Some)
}
