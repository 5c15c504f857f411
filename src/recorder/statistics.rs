//! Statistics of BatchNorm layers that the settings say are frozen. If a pass changes them, the layers ran in training
//! mode, and no gradient of the pass is an example's own.

use super::config::{Config, OnBatchNorm};
use super::error::{quote_names, RecordError};
use crate::taps::{read_f32, Registry};
use candle_core::Var;

/// The running means that must not change. They are looked at in the passes 1, 2, 4, 8 and so on.
#[derive(Default)]
pub(super) struct FrozenStatistics {
    /// By the layer's name.
    means: Vec<(String, Var)>,
    passes: u64,
    before: Option<Vec<Vec<f32>>>,
    /// The layers that changed in an earlier pass.
    changed: Vec<String>,
}

impl FrozenStatistics {
    pub(super) fn new(registry: &Registry, config: &Config) -> Self {
        if config.on_batch_norm != OnBatchNorm::Frozen {
            return Self::default();
        }
        let untapped = registry.untapped_batch_norms();
        let means = registry.running_means.iter().filter(|(layer, _)| untapped.contains(layer)).cloned().collect();
        Self { means, ..Self::default() }
    }

    fn read(&self) -> candle_core::Result<Vec<Vec<f32>>> {
        self.means.iter().map(|(_, mean)| read_f32(mean.as_tensor())).collect()
    }

    /// Reads the means before a pass, if they are looked at in this pass.
    pub(super) fn look_before(&mut self) -> Result<(), RecordError> {
        if !self.means.is_empty() {
            self.passes += 1;
            self.before = if self.passes.is_power_of_two() { Some(self.read()?) } else { None };
        }
        Ok(())
    }

    /// Compares the means after a pass.
    pub(super) fn look_after(&mut self, step: u64) -> Result<(), RecordError> {
        if let (Some(before), true) = (self.before.take(), self.changed.is_empty()) {
            let after = self.read()?;
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let differs = before.iter().zip(&after).map(|(a, b)| bits(a) != bits(b));
            let changed = self.means.iter().zip(differs).filter(|(_, differs)| *differs);
            self.changed = changed.map(|((layer, _), _)| layer.clone()).collect();
        }
        if self.changed.is_empty() {
            return Ok(());
        }
        let what = format!(
            "the statistics of BatchNorm {} change in a pass, although `Config::on_batch_norm` says that they are frozen: \
             run it in evaluation mode (`forward_t(x, false)`), or set `OnBatchNorm::RecordShare`",
            quote_names(&self.changed)
        );
        Err(RecordError::Pass { step, what })
    }
}
