//! One run of the user's closure, and what the taps saw of it.

use super::batch_rows::BatchRows;
use crate::recorder::error::RecordError;
use crate::recorder::handle::Recorder;
use crate::recorder::held::Watching;
use crate::recorder::message::PassKind;
use crate::recorder::pass::Pass;
use crate::taps::{Captured, Registered};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// What a run of some rows left.
pub(super) struct Observed {
    /// The loss of each row.
    pub losses: Vec<f32>,
    /// The factor of each row's own loss in what was differentiated.
    pub factors: Vec<f64>,
    /// The layer and the input of each use of a tapped layer, in the order of the forward pass.
    pub inputs: Vec<(usize, Tensor)>,
    /// What each layer's tap caught.
    pub layers: Vec<LayerRun>,
    /// Features and output gradients of the declared last layer. These are each row's own, without its factor.
    pub last: Option<(Tensor, Tensor)>,
    /// candle's gradients of the whole run.
    pub grads: GradStore,
}

/// What one tap caught.
pub(super) struct LayerRun {
    pub uses: usize,
    pub caught: Vec<Captured>,
}

/// Runs the rows forward and backward. With `plain`, tapped layers run candle's own ops. Returns `None` if the recorder
/// does not record.
pub(super) fn observe<F>(
    recorder: &mut Recorder,
    rows: &BatchRows,
    plain: bool,
    run: &mut F,
) -> Result<Option<Observed>, RecordError>
where
    F: FnMut(&mut Pass<'_>, &BatchRows) -> Result<Tensor, RecordError>,
{
    let Some(taps) = recorder.state.as_ref().map(|state| state.taps.clone()) else { return Ok(None) };
    let _watching = Watching::begin(&taps, plain);
    let mut pass = Pass::new(recorder.begin(rows.ids().to_vec(), PassKind::Training)?);
    if !pass.core.is_recorded() {
        return Ok(None);
    }
    pass.core.is_check = true;
    let loss = run(&mut pass, rows)?;
    let grads = loss.backward()?;
    let seen = taps.end_watch();
    let core = &mut pass.core;
    let registered: Arc<Vec<Registered>> = core.recorder.layers();
    let Some(numbers) = core.outputs.take() else {
        return Err(core.error(
            "the checked closure computed no loss: return `pass.cross_entropy`, `mse`, \
             `binary_cross_entropy_with_logits` or `losses`",
        ));
    };
    if let Some(setting) = core.late {
        return Err(
            core.error(format!("`{setting}` was set after the loss, where it has no effect: set it before the loss"))
        );
    }
    let (outputs, coefficients) = numbers.read()?;
    let upstream = match core.upstream.get()? {
        Some(upstream) => upstream,
        None if registered.is_empty() => 1.0,
        None => return Err(core.error(
            "the checked closure returned another tensor than the loss of its pass: return that loss, perhaps times \
                 a constant",
        )),
    };
    let layers: Vec<LayerRun> = (registered.iter())
        .map(|layer| {
            let taken = layer.slot.take(core.number);
            LayerRun { uses: taken.uses, caught: taken.caught }
        })
        .collect();
    let layer = |slot: &Arc<_>| registered.iter().position(|layer| Arc::ptr_eq(&layer.slot, slot));
    Ok(Some(Observed {
        losses: outputs.loss,
        factors: coefficients.iter().map(|c| f64::from(*c) * upstream).collect(),
        inputs: seen.into_iter().filter_map(|seen| Some((layer(&seen.slot)?, seen.input))).collect(),
        layers,
        last: core.features.take().zip(core.output_delta.take()),
        grads,
    }))
}

impl Observed {
    /// The relative difference that rounding may make, for the least precise type that a tap saw.
    pub(super) fn tolerance(&self) -> f64 {
        let caught = self.layers.iter().flat_map(|layer| &layer.caught);
        let types = caught.filter_map(|captured| match captured {
            Captured::Use { delta, .. } => Some(delta.dtype()),
            Captured::Folded(_) | Captured::Sketched(_) => None,
        });
        let tolerance = |dtype| match dtype {
            DType::F64 => 1e-4,
            DType::F16 | DType::BF16 => 0.1,
            _ => 1e-3,
        };
        types.map(tolerance).fold(1e-4, f64::max).max(if self.layers.is_empty() { 1e-3 } else { 0.0 })
    }
}
