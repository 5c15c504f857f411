//! Adam's metric for visits: the squared norm `‖D^{1/2} g‖² = Σ g² D` with `D = 1/(√v̂ + ε)`.
//!
//! TracIn multiplies probes by `D`, which are few. Self-influence needs the norm of each visit, which only the recorder
//! can make: a log has no `D`. It is made beside the plain norm, from the same numbers in the cache.
//!
//! - In a factored layer `D` is the outer product that probes have, so the norm is two weighted sums. Self-influence is
//!   then TracIn of an example with itself. The exact diagonal would take as many products as the layer has parameters.
//! - In a folded layer `D` is exact, element by element. The norm is made before the gradient is folded and has none of
//!   the noise of a fold. So `ε` is that of the optimizer, and not the raised one of probes.
//! - In a layer that is projected from both sides no parameter's gradient is made. There `D` of the weight is an outer
//!   product, too: the two factors are scaled by its root. The norm is exact where the plain one is; else it is that of
//!   the sketch of the scaled gradient, which is made for the norm alone.
//! - Of a tensor that several layers share, the norm is estimated by that of a second sketch, as the plain one is.
//!
//! `D` is that of a step before: it is made again after an eighth of the optimizer's steps so far, and after
//! [`STEPS_MAX`] at most. An element that had no gradient until then has `D = 0` and does not count.

use super::handle::Recorder;
use super::layer_moments::LayerMoments;
use super::message::{Batch, PassKind};
use super::moments::{FactorScales, Moments};
use super::state::State;
use crate::step::StepReport;
use crate::taps::{LazyFold, MetricWeights, NormMetric};
use candle_core::Result;
use gradlog_format::sketch::Form;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// A metric is at most as old as this many steps. FORMAT.md and the analysis say so.
const STEPS_MAX: u64 = 64;
/// It is made again after this part of the optimizer's steps: moments change as fast as their mean grows.
const PART: u64 = 8;
/// Ratios of learning rates that differ by less are the same.
const TOLERANCE: f32 = 1e-5;

/// The metric of visits, and what is needed to make it again.
#[derive(Default)]
pub(super) struct MetricState {
    /// The step before which it was made.
    made_at: u64,
    current: Option<Arc<VisitMetric>>,
    /// Layers whose learning rate differed from that of the last step, as it was told: number, and ratio of the two.
    told: Option<Vec<(u32, f32)>>,
}

/// `D` of all layers, in a training each times the ratio of the layer's learning rate to that of the step.
pub(super) struct VisitMetric {
    layers: Vec<LayerMetric>,
    rate_factors: Vec<(u32, f32)>,
    /// Whether a batch has counted its bytes.
    counted: AtomicBool,
}

/// `D` of a layer, in the forms that it may be recorded in.
struct LayerMetric {
    factors: Option<FactorScales>,
    norms: Option<NormMetric>,
    /// Of a tensor that layers share, the projection that also gives the sketch of `D^{1/2} g`.
    fold: Option<Arc<LazyFold>>,
}

impl VisitMetric {
    /// `None` if a layer's variables are not known.
    fn new(state: &State, moments: &Moments, rate_factors: Vec<(u32, f32)>) -> Result<Option<Self>> {
        let Moments { second, step, .. } = moments;
        let mut layers = Vec::with_capacity(state.layers.len());
        for (number, (layer, form)) in state.layers.iter().zip(&state.forms).enumerate() {
            let of_layer = rate_factors.iter().find(|(own, _)| *own as usize == number);
            let rate = of_layer.map_or(1.0, |(_, factor)| *factor);
            let Some(v) = LayerMoments::of(state, layer, (second, step), rate)? else { return Ok(None) };
            let (is_tied, own, shared) = (layer.tied.is_some(), &state.folds[number], || state.shared_fold.clone());
            let may_be = |wanted: Form| form.is_none_or(|form| form == wanted);
            let factors = layer.spec.factors.filter(|_| may_be(Form::Factored) && !is_tied);
            let fold = match own.sides() {
                _ if !is_tied => None,
                Some(sides) => Some(own.with_scales(v.side_roots(sides.shape())?, shared())),
                None => Some(own.with_preconditioned(v.roots()?, shared())),
            };
            let norms = match own.sides() {
                _ if is_tied || !may_be(Form::Folded) => None,
                Some(sides) => Some(NormMetric::Sides(v.side_roots(sides.shape())?)),
                None => Some(NormMetric::Weights(v.weights()?)),
            };
            let factors = factors.map(|factors| v.factors(factors)).transpose()?;
            layers.push(LayerMetric { factors, norms, fold: fold.map(Arc::new) });
        }
        Ok(Some(Self { layers, rate_factors, counted: AtomicBool::new(false) }))
    }

    /// In which metric a layer's gradients have norms.
    pub(super) fn norms(&self, layer: usize) -> Option<&NormMetric> {
        self.layers.get(layer)?.norms.as_ref()
    }

    /// Of a layer that is folded whole, what its parameters count in a norm.
    pub(super) fn weights(&self, layer: usize) -> Option<&MetricWeights> {
        self.norms(layer)?.weights()
    }

    /// Brings a layer's weights to main memory. This waits for the device that they were made on.
    pub(super) fn read_weights(&self, layer: usize) -> Result<()> {
        self.weights(layer).map_or(Ok(()), MetricWeights::read)
    }

    /// As [`VisitMetric::read_weights`], of a layer that is recorded by factors.
    pub(super) fn read_factors(&self, layer: usize) -> Result<()> {
        let factors = self.layers.get(layer).and_then(|layer| layer.factors.as_ref());
        factors.map_or(Ok(()), FactorScales::read)
    }

    /// Of a layer that shares a tensor, the projection with a second sketch.
    pub(super) fn fold(&self, layer: usize) -> Option<&Arc<LazyFold>> {
        self.layers.get(layer)?.fold.as_ref()
    }

    /// `‖D^{1/2} δ aᵀ‖²`, and the bias's; NaN for a layer that is not recorded by factors.
    pub(super) fn squared_norm_of_factors(&self, layer: usize, input: &[f32], delta: &[f32], bias: bool) -> f64 {
        let scales = self.layers.get(layer).and_then(|layer| layer.factors.as_ref());
        scales.map_or(f64::NAN, |scales| scales.squared_norm(input, delta, bias))
    }

    /// Bytes of the weights at the first call, later 0.
    pub(super) fn count_bytes_once(&self) -> usize {
        if self.counted.swap(true, Ordering::Relaxed) {
            return 0;
        }
        // A sign and a weight of each parameter.
        let of_fold = |layer: &LayerMetric| layer.fold.as_ref().map_or(0, |fold| 5 * fold.parameters());
        let of_weights = |layer: &LayerMetric| layer.norms.as_ref().map_or(0, NormMetric::bytes);
        self.layers.iter().map(|layer| of_fold(layer) + of_weights(layer)).sum()
    }
}

impl Batch {
    /// Whether its rows have norms in a metric: visits and sweeps.
    pub(super) fn has_norms_in_metric(&self) -> bool {
        let is_asked = matches!(self.kind, PassKind::Probe { .. });
        self.metric.is_some() && !is_asked && !self.layers.is_empty()
    }
}

impl MetricState {
    /// Notes the ratios of learning rates that a step told. A step at the rate 0 has none.
    pub(super) fn note_rates(&mut self, learning_rate: f64, factors: &[(u32, f32)]) {
        if learning_rate != 0.0 {
            self.told = Some(factors.to_vec());
        }
    }

    fn is_due(&self, step: u64, moments: &Moments, rate_factors: &[(u32, f32)]) -> bool {
        let Some(current) = &self.current else { return true };
        let interval = (moments.step.steps_taken / PART).clamp(1, STEPS_MAX);
        step.saturating_sub(self.made_at) >= interval || !are_same(&current.rate_factors, rate_factors)
    }
}

fn are_same(a: &[(u32, f32)], b: &[(u32, f32)]) -> bool {
    let is_in = |(layer, factor): &(u32, f32), others: &[(u32, f32)]| {
        let other = others.iter().find(|(other, _)| other == layer).map_or(1.0, |(_, other)| *other);
        (other - factor).abs() <= TOLERANCE * factor
    };
    a.iter().all(|own| is_in(own, b)) && b.iter().all(|own| is_in(own, a))
}

impl State {
    /// Makes the metric of the visits that follow, if it is time and the moments are known.
    pub(super) fn prepare_metric(&mut self) {
        let Some(moments) = &self.moments else { return self.set_metric(None) };
        let factors = match self.replayed {
            // The log has those of the training.
            Some(_) => &[][..],
            None => self.metric.told.as_ref().unwrap_or(&moments.rate_factors),
        };
        if self.metric.is_due(self.step, moments, factors) && moments.read_at == self.step {
            // A device that cannot be read stops the training elsewhere. Here visits have no norm in the metric.
            let made = VisitMetric::new(self, moments, factors.to_vec()).ok().flatten().map(Arc::new);
            self.metric.made_at = self.step;
            self.set_metric(made);
        } else if self.step.saturating_sub(self.metric.made_at) > STEPS_MAX {
            self.set_metric(None);
        }
    }

    pub(super) fn set_metric(&mut self, metric: Option<Arc<VisitMetric>>) {
        if metric.is_none() && self.metric.current.is_none() {
            return;
        }
        for (number, layer) in self.layers.iter().enumerate() {
            layer.slot.set_metric(metric.as_ref().and_then(|metric| metric.norms(number)).cloned());
        }
        self.metric.current = metric;
        self.set_folds();
    }

    /// Gives the layers the projections of visits.
    pub(super) fn set_folds(&self) {
        for (number, (layer, own)) in self.layers.iter().zip(&self.folds).enumerate() {
            let in_metric = self.metric.current.as_ref().and_then(|metric| metric.fold(number));
            layer.slot.set_fold(Some(in_metric.unwrap_or(own).clone()));
        }
    }

    pub(super) fn visit_metric(&self) -> Option<&Arc<VisitMetric>> {
        self.metric.current.as_ref()
    }
}

impl Recorder {
    /// Reads the moments of an optimizer that took steps before this recorder saw any, as in a resumed training.
    pub(super) fn read_first_moments(&mut self, optimizer: &impl StepReport) {
        if self.state.as_ref().is_some_and(|state| state.moments.is_none()) {
            self.read_moments(optimizer);
            if let Some(state) = self.state.as_mut().filter(|state| state.moments.is_some()) {
                state.prepare_metric();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_rates_are_compared_by_layer() {
        assert!(are_same(&[], &[]) && are_same(&[(1, 1.0)], &[]) && are_same(&[(1, 0.1)], &[(1, 0.100_000_1)]));
        assert!(!are_same(&[(1, 0.1)], &[]) && !are_same(&[], &[(1, 0.1)]) && !are_same(&[(1, 0.1)], &[(2, 0.1)]));
        assert!(!are_same(&[(1, 0.0)], &[]) && are_same(&[(1, 0.0)], &[(1, 0.0)]));
    }
}
