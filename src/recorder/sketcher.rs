//! The projections that the background thread needs for one layer.

use crate::taps::LazyFold;
use gradlog_format::log::LayerRecord;
use gradlog_format::sketch::{Projection, SketchConfig};
use std::sync::Arc;

/// A layer on the background thread.
pub(super) struct LayerSketcher {
    pub record: LayerRecord,
    pub fold: Arc<LazyFold>,
    /// The first layer with the same weight, if there are several.
    pub tied: Option<usize>,
    pub input: Option<Projection>,
    pub delta: Option<Projection>,
}

impl LayerSketcher {
    pub(super) fn new(record: LayerRecord, fold: Arc<LazyFold>, tied: Option<usize>, sketch: &SketchConfig) -> Self {
        let side = |width: u32, cap: u32, seed: u64| {
            (width > cap).then(|| Projection::new(seed, width as usize, sketch.projected_width(width) as usize))
        };
        let input = side(record.inputs, sketch.input_cap, record.seed_input);
        let delta = side(record.outputs, sketch.delta_cap, record.seed_delta);
        Self { record, fold, tied, input, delta }
    }
}
