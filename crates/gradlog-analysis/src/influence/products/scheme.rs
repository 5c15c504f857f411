//! Which vectors of a gradient there are, and how they are multiplied.

use super::variance::PartVariance;
use crate::rows::gradient::Layout;
use gradlog_format::log::LayerRecord;
use gradlog_kernels::int8::{Isa, COLUMNS, ROWS};

/// Visits of a tile: their unpacked codes and a panel of probes fit the second-level cache.
pub(in crate::influence) const TILE_ROWS: usize = 8 * ROWS;

/// Which vectors there are, and how they are multiplied.
pub(in crate::influence) struct Scheme {
    pub layout: Layout,
    pub isa: Isa,
    pub(super) widths: Vec<usize>,
    /// Of each part, what its error depends on; empty if no errors are wanted.
    pub(super) variances: Vec<PartVariance>,
}

impl Scheme {
    pub(in crate::influence) fn new(layout: &Layout, layers: &[LayerRecord], places: &[u64], errors: bool) -> Self {
        let widths = layout.widths();
        let parts = widths.iter().zip(layout.projected(layers, places));
        let variances = parts.map(|(&width, projected)| PartVariance::new(width, projected));
        let variances = if errors { variances.collect() } else { Vec::new() };
        Self { layout: layout.clone(), isa: Isa::detect(), widths, variances }
    }

    pub(in crate::influence) fn errors(&self) -> bool {
        !self.variances.is_empty()
    }

    /// How many layers `Products::add` knows: the factored ones, and the folded vector.
    pub(in crate::influence) fn layers(&self) -> usize {
        self.layout.factored.len() + usize::from(self.layout.folded.is_some())
    }
}

/// How many panels hold this number of probes.
pub(in crate::influence) fn panels_of(probes: usize) -> usize {
    probes.div_ceil(COLUMNS)
}
