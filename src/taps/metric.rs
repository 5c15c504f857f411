//! The metric of an optimizer that scales each parameter, for norms of single gradients.

use super::gradient::wide_squared_norm;
use super::placed::Placed;
use super::two_sided::SideScales;
use candle_core::{Device, Result, Tensor};
use gradlog_kernels::simd::{weighted_squared_norm, weighted_squared_norm_f64, Weight};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use std::ops::AddAssign;

/// In which metric the norms of a layer's gradients are made as well.
#[derive(Clone)]
pub(crate) enum NormMetric {
    /// `Σ w g²`, for a layer whose gradients are made whole.
    Weights(MetricWeights),
    /// `‖g'‖²` of the scaled gradient `g'`, for a layer that is projected from both sides.
    Sides(SideScales),
}

impl NormMetric {
    pub(crate) fn weights(&self) -> Option<&MetricWeights> {
        match self {
            Self::Weights(weights) => Some(weights),
            Self::Sides(_) => None,
        }
    }

    pub(super) fn sides(&self) -> Option<&SideScales> {
        match self {
            Self::Weights(_) => None,
            Self::Sides(scales) => Some(scales),
        }
    }

    /// Bytes of main memory that it holds.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Weights(weights) => weights.bytes(),
            Self::Sides(scales) => scales.bytes(),
        }
    }
}

/// What each parameter of a folded layer counts in a squared norm.
///
/// Weights are stored as bf16: each is at most 0.4 % off, at random, so their sum is far closer. They are read once for
/// each example, so bytes are what they cost.
#[derive(Clone)]
pub(crate) struct MetricWeights(Placed<bf16>);

impl MetricWeights {
    pub(crate) fn new(weights: &[f32]) -> Self {
        let mut rounded = vec![bf16::ZERO; weights.len()];
        rounded.convert_from_f32_slice(weights);
        Self(Placed::here(rounded))
    }

    /// Those of a tensor `[parameters]` of bf16 on a device.
    pub(crate) fn there(weights: Tensor) -> Self {
        Self(Placed::there(weights))
    }

    pub(super) fn bytes(&self) -> usize {
        2 * self.0.get().len()
    }

    /// Makes [`MetricWeights::squared_norm`] possible. This waits for the device that they were made on.
    pub(crate) fn read(&self) -> Result<()> {
        self.0.read().map(|_| ())
    }

    /// `[parameters]`, bf16.
    pub(super) fn on(&self, device: &Device) -> Result<Tensor> {
        self.0.on(device)
    }

    /// `Σ w g²` over the numbers `first..` of a gradient; NaN before the weights are in main memory.
    pub(crate) fn squared_norm(&self, first: usize, values: &[f32]) -> f64 {
        let weights: &[u16] = self.0.get().reinterpret_cast();
        if weights.len() < self.0.length() {
            return f64::NAN;
        }
        wide_weighted_norm(values, weights.get(first..).unwrap_or_default())
    }
}

/// Squared norms of the gradient of one example.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct SquaredNorms {
    /// `‖G_i‖²`.
    pub plain: f64,
    /// `‖D^{1/2} G_i‖²` in the metric that the layer has; 0 if it has none.
    pub in_metric: f64,
}

impl SquaredNorms {
    /// Those of the numbers `first..` of a gradient.
    pub(crate) fn of(values: &[f32], first: usize, metric: Option<&MetricWeights>) -> Self {
        Self {
            plain: wide_squared_norm(values),
            in_metric: metric.map_or(0.0, |metric| metric.squared_norm(first, values)),
        }
    }
}

impl SquaredNorms {
    /// Those of a gradient whose squares are `factor` times as large.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self { plain: self.plain * factor, in_metric: self.in_metric * factor }
    }
}

impl AddAssign for SquaredNorms {
    fn add_assign(&mut self, other: Self) {
        self.plain += other.plain;
        self.in_metric += other.in_metric;
    }
}

/// `Σ w v²`, as exact as in f64 where f32 loses it.
pub(crate) fn wide_weighted_norm<W: Weight>(values: &[f32], weights: &[W]) -> f64 {
    // As in `wide_squared_norm`; a weight can also take a product beyond f32.
    const LEAST: f32 = 1e-30;
    match weighted_squared_norm(values, weights) {
        sum if sum >= LEAST && sum.is_finite() => f64::from(sum),
        _ => weighted_squared_norm_f64(values, weights),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_close_and_belong_to_their_places() {
        let weights: Vec<f32> = (0..5000).map(|i| 1e-3 * 1.01f32.powi(i % 2000)).collect();
        let values: Vec<f32> = (0..5000).map(|i| (i as f32).sin()).collect();
        let metric = MetricWeights::new(&weights);
        assert_eq!(metric.bytes(), 10_000);
        let right = |from: usize, to: usize| -> f64 {
            (from..to).map(|i| f64::from(weights[i]) * f64::from(values[i]).powi(2)).sum()
        };
        for (from, to) in [(0, 5000), (2048, 4096), (4900, 5000)] {
            let made = metric.squared_norm(from, &values[from..to]);
            assert!((made / right(from, to) - 1.0).abs() < 1e-3, "{made} {}", right(from, to));
        }
        let tiny = MetricWeights::new(&[1e6; 40]).squared_norm(0, &[1e-26; 40]);
        assert!((tiny / 4e-45 - 1.0).abs() < 4e-3, "{tiny}");
        let large = MetricWeights::new(&[1e6; 40]).squared_norm(0, &[1e17; 40]);
        assert!((large / 4e41 - 1.0).abs() < 4e-3, "{large}");
    }
}
