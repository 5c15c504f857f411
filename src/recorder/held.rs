//! What a check and `per_example` borrow and give back: the values of the variables, and the layers' projections.

use crate::taps::{named_variables, LazyFold, Registered, SharedFold, Taps};
use candle_core::{DType, Result, Tensor, Var};
use candle_nn::VarMap;
use gradlog_format::sketch::SketchConfig;
use std::sync::Arc;

/// Copies of all variables. A forward pass may change some, such as the statistics of a BatchNorm. They are set back
/// when this is dropped.
pub(super) struct HeldVariables {
    pub named: Vec<(String, Var)>,
    copies: Vec<Tensor>,
}

impl HeldVariables {
    pub(super) fn hold(variables: &VarMap) -> Result<Self> {
        Self::hold_named(named_variables(variables))
    }

    pub(super) fn hold_named(named: Vec<(String, Var)>) -> Result<Self> {
        let copies = named.iter().map(|(_, var)| var.as_tensor().copy().map(|copy| copy.detach()));
        let copies = copies.collect::<Result<_>>()?;
        Ok(Self { named, copies })
    }

    /// Sets changed variables back. Returns the names of those that had changed.
    pub(super) fn restore(&self) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for ((name, var), copy) in self.named.iter().zip(&self.copies) {
            if differs(&var.as_detached_tensor(), copy)? {
                var.set(copy)?;
                changed.push(name.clone());
            }
        }
        Ok(changed)
    }
}

/// Whether two tensors differ. A NaN equals another NaN.
fn differs(a: &Tensor, b: &Tensor) -> Result<bool> {
    let count = |mask: Tensor| mask.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>();
    if count(a.ne(b)?)? == 0.0 {
        return Ok(false);
    }
    let both_nan = (a.ne(a)? * b.ne(b)?)?;
    Ok(count((a.ne(b)? - both_nan)?)? != 0.0)
}

impl Drop for HeldVariables {
    fn drop(&mut self) {
        // If candle fails here, it has failed before, and that error was returned.
        let _ = self.restore();
    }
}

/// The projections of the run's layers, taken out of their taps for a check. They are put back when this is dropped.
pub(super) struct HeldFolds {
    layers: Arc<Vec<Registered>>,
    folds: Vec<Option<Arc<LazyFold>>>,
}

/// Length of the vectors that stand for gradients while a check looks at the fused path.
const CHECKED_BUCKETS: u32 = 4096;

impl HeldFolds {
    /// Takes the projections out: fused ops then keep inputs and output gradients.
    pub(super) fn hold(layers: Arc<Vec<Registered>>) -> Self {
        let folds = layers.iter().map(|layer| layer.slot.replace_fold(None)).collect();
        Self { layers, folds }
    }

    /// Gives each layer a projection of its own, which no other layer shares. Returns them.
    pub(super) fn replace(&self) -> Vec<Arc<LazyFold>> {
        let shared = Arc::new(SharedFold::new(SketchConfig::default(), Some(CHECKED_BUCKETS), 0));
        let fold = |(number, layer): (usize, &Registered)| {
            let fold = Arc::new(LazyFold::new(number as u64, layer.spec.elements(), (true, None), shared.clone()));
            layer.slot.replace_fold(Some(fold.clone()));
            fold
        };
        self.layers.iter().enumerate().map(fold).collect()
    }

    /// Takes the projections out again.
    pub(super) fn clear(&self) {
        for layer in self.layers.iter() {
            layer.slot.replace_fold(None);
        }
    }
}

impl Drop for HeldFolds {
    fn drop(&mut self) {
        for (layer, fold) in self.layers.iter().zip(&mut self.folds) {
            layer.slot.replace_fold(fold.take());
        }
    }
}

/// A watch over the forward passes of a check. It ends when this is dropped.
pub(super) struct Watching(Taps);

impl Watching {
    pub(super) fn begin(taps: &Taps, plain: bool) -> Self {
        taps.begin_watch(plain);
        Self(taps.clone())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.end_watch();
    }
}
