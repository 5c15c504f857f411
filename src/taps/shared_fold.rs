//! The folded vector that all folded layers of a run share: its width, and its sums during backward.

use super::on_device::FoldTables;
use super::placed::Placed;
use super::two_sided::{SideScales, Sides};
use candle_core::Result;
use gradlog_format::sketch::{Fold, SketchConfig};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The folded vector of a run. Between backward and `commit` it holds the sums of the current pass.
///
/// Layers add their gradients here as they are made. So a pass holds one vector per example, not one per example and
/// layer.
pub(crate) struct SharedFold {
    sketch: SketchConfig,
    width: OnceLock<u32>,
    /// Parameters of the layers that are always folded, whether or not the first pass uses them.
    always_folded: u64,
    /// Sketches in a row: the gradient's, and that of the preconditioned gradient if the pass has one.
    copies: usize,
    sums: Mutex<Sums>,
}

#[derive(Default)]
struct Sums {
    pass: u64,
    batch: usize,
    /// `[batch, row_length]`.
    values: Vec<f32>,
}

/// The rows of one pass, to add to.
pub(super) struct Rows<'a>(MutexGuard<'a, Sums>);

impl Rows<'_> {
    pub(super) fn values(&mut self) -> &mut [f32] {
        &mut self.0.values
    }
}

impl SharedFold {
    /// Makes the vector of a run. `width` is its number of elements, if it is already known. `always_folded` counts the
    /// parameters of layers that are never factored.
    pub(crate) fn new(sketch: SketchConfig, width: Option<u32>, always_folded: u64) -> Self {
        let known = OnceLock::new();
        if let Some(width) = width {
            known.get_or_init(|| width);
        }
        Self { sketch, width: known, always_folded, copies: 1, sums: Mutex::default() }
    }

    /// The vector of passes whose rows also have the preconditioned gradient. The width must be known, if it ever is.
    pub(crate) fn with_preconditioned(&self) -> Self {
        let fresh = Self::new(self.sketch.clone(), self.known_width(), self.always_folded);
        Self { copies: 2, ..fresh }
    }

    /// Decides the width from the number of parameters that the folded layers of the first pass have. It stays for the
    /// run.
    pub(crate) fn decide_width(&self, parameters: impl FnOnce() -> u64) {
        self.width.get_or_init(|| self.sketch.folded_width(parameters().max(self.always_folded)));
    }

    /// The width, once it is decided.
    pub(crate) fn known_width(&self) -> Option<u32> {
        self.width.get().copied()
    }

    /// Number of elements that are kept; 1 before it is decided.
    pub(crate) fn width(&self) -> usize {
        self.known_width().unwrap_or(1) as usize
    }

    /// Length of a row of [`SharedFold::take`].
    pub(crate) fn row_length(&self) -> usize {
        self.copies * self.buckets()
    }

    /// Number of elements before the rotation.
    pub(crate) fn buckets(&self) -> usize {
        self.width().next_power_of_two()
    }

    /// The rows of `pass`, initially zero. `None` if another layer of this pass saw another batch; `commit` reports
    /// that.
    pub(super) fn rows(&self, pass: u64, batch: usize) -> Option<Rows<'_>> {
        let length = batch * self.row_length();
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if sums.pass != pass {
            *sums = Sums { pass, batch, values: vec![0.0; length] };
        }
        (sums.batch == batch).then_some(Rows(sums))
    }

    /// Takes the sums of `pass`, `[batch, row_length]`, if there are any. Drops the sums of other passes.
    pub(crate) fn take(&self, pass: u64) -> Option<Vec<f32>> {
        let sums = std::mem::take(&mut *self.sums.lock().unwrap_or_else(PoisonError::into_inner));
        (sums.pass == pass && !sums.values.is_empty()).then_some(sums.values)
    }
}

/// A layer's projection into the shared vector, made at first use. It holds a byte for each parameter, and a layer with
/// one position per example never needs it.
pub(crate) struct LazyFold {
    seed: u64,
    parameters: usize,
    /// Whether other layers have the same weight. Then the sum of their gradients is kept by itself, for its norm.
    tied: bool,
    /// Where the layer lies in the shared vector if it fits there; `None` in a run that places no layers.
    place: Option<u64>,
    /// Where the layer has none of the coordinates, and how many: those of other layers with the same weight.
    gap: (usize, usize),
    /// What the preconditioned gradient is the gradient times.
    weights: Option<Placed<f32>>,
    /// What the weight's gradient is projected by before it is folded.
    sides: Option<Arc<Sides>>,
    /// What a second sketch of such a layer is multiplied by.
    scales: Option<SideScales>,
    shared: Arc<SharedFold>,
    /// The projection without a second sketch, which all projections of the layer have in common.
    made: Arc<OnceLock<Fold>>,
    /// The same with the second sketch.
    weighted: OnceLock<Fold>,
    tables: Arc<FoldTables>,
}

impl LazyFold {
    pub(crate) fn new(
        seed: u64,
        parameters: usize,
        (tied, place): (bool, Option<u64>),
        shared: Arc<SharedFold>,
    ) -> Self {
        Self {
            seed,
            parameters,
            tied,
            place,
            gap: (0, 0),
            weights: None,
            sides: None,
            scales: None,
            shared,
            made: Arc::default(),
            weighted: OnceLock::new(),
            tables: Arc::default(),
        }
    }

    /// The same, for a layer whose weight's gradient is projected by `sides` first.
    pub(crate) fn with_sides(self, sides: Option<Sides>) -> Self {
        let Some(sides) = sides else { return self };
        let (rows, columns) = sides.shape();
        let parameters = (self.parameters - (rows * columns).min(self.parameters)) + sides.numbers();
        // What a tied layer lacks lies behind its weight.
        let gap = (sides.numbers(), self.gap.1);
        Self { parameters, place: None, gap, sides: Some(Arc::new(sides)), ..self }
    }

    /// The same, and behind each sketch that of the gradient times `weights`.
    pub(crate) fn with_preconditioned(&self, weights: Placed<f32>, shared: Arc<SharedFold>) -> Self {
        Self { weights: Some(weights), ..self.again(shared) }
    }

    /// The same projection, in rows of `shared`, which has as many buckets.
    fn again(&self, shared: Arc<SharedFold>) -> Self {
        let Self { seed, parameters, tied, place, gap, .. } = *self;
        let (sides, made, tables) = (self.sides.clone(), self.made.clone(), self.tables.clone());
        Self { gap, sides, made, tables, ..Self::new(seed, parameters, (tied, place), shared) }
    }

    /// The same, for a layer that has none of the `length` coordinates from `at` on.
    pub(crate) fn with_gap(self, at: usize, length: usize) -> Self {
        Self { gap: (at, length), ..self }
    }

    /// The projection, without a second sketch.
    pub(super) fn plain(&self) -> &Fold {
        self.made.get_or_init(|| {
            let buckets = self.shared.buckets();
            let fits = |place: &usize| place.checked_add(self.parameters).is_some_and(|end| end <= buckets);
            let fold = match self.place.and_then(|place| usize::try_from(place).ok()).filter(fits) {
                Some(place) => Fold::placed(self.seed, self.parameters, buckets, place),
                None => Fold::new(self.seed, self.parameters, buckets),
            };
            fold.with_gap(self.gap.0, self.gap.1)
        })
    }

    /// The projection, with a second sketch by the weights that [`LazyFold::read_weights`] has brought to main memory.
    pub(crate) fn get(&self) -> &Fold {
        let Some(weights) = &self.weights else { return self.plain() };
        // Only a mistake of ours gives weights of another length. The second sketch is then left out, which the
        // recorder reports. A training must not panic.
        if weights.length() != self.plain().inputs() || weights.get().len() != weights.length() {
            return self.plain();
        }
        self.weighted.get_or_init(|| match weights.read() {
            Ok(weights) => self.plain().clone().with_weights(weights.clone()),
            Err(_) => self.plain().clone(),
        })
    }

    /// Brings what a second sketch is weighted by to main memory. This waits for the device that it was made on.
    pub(crate) fn read_weights(&self) -> Result<()> {
        self.weights.as_ref().map_or(Ok(()), |weights| weights.read().map(|_| ()))
    }

    /// What the gradient is multiplied by in a second sketch, if it is folded whole and has one.
    pub(super) fn weights(&self) -> Option<&Placed<f32>> {
        self.weights.as_ref()
    }

    /// The projections of a layer's two sides, if it has them.
    pub(crate) fn sides(&self) -> Option<&Sides> {
        self.sides.as_deref()
    }

    /// The same for a layer that is projected from both sides, and behind each sketch that of the gradient times
    /// `scales`.
    pub(crate) fn with_scales(&self, scales: SideScales, shared: Arc<SharedFold>) -> Self {
        Self { scales: Some(scales), ..self.again(shared) }
    }

    /// What the second sketch of such a layer is multiplied by.
    pub(super) fn scales(&self) -> Option<&SideScales> {
        self.scales.as_ref()
    }

    /// Length of a layer's row, with a second sketch if it has one.
    pub(crate) fn outputs(&self) -> usize {
        let plain = self.plain();
        let is_weighted = self.weights.as_ref().is_some_and(|weights| weights.length() == plain.inputs());
        plain.outputs() * (1 + usize::from(self.scales.is_some() || is_weighted))
    }

    /// The same projection on devices.
    pub(super) fn tables(&self) -> &FoldTables {
        &self.tables
    }

    /// Number of parameters, with those that the layer lacks. Of a layer that is projected from both sides, what that
    /// leaves.
    pub(crate) fn parameters(&self) -> usize {
        self.parameters
    }

    pub(super) fn shared_fold(&self) -> &SharedFold {
        &self.shared
    }

    /// The shared rows of `pass`; `None` for a tied layer, whose rows are kept by themselves.
    pub(super) fn rows(&self, pass: u64, batch: usize) -> Option<Rows<'_>> {
        if self.tied {
            None
        } else {
            self.shared.rows(pass, batch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_belong_to_their_pass() {
        let shared = SharedFold::new(SketchConfig::default(), None, 0);
        shared.decide_width(|| 64 * 1_000);
        shared.decide_width(|| 64 * 2_000);
        assert_eq!((shared.known_width(), shared.buckets()), (Some(1_000), 1_024));
        shared.rows(1, 2).unwrap().values()[0] = 1.0;
        assert!(shared.rows(1, 3).is_none(), "another batch in the same pass");
        assert_eq!(shared.rows(1, 2).unwrap().values()[0], 1.0);
        assert_eq!(shared.rows(2, 3).unwrap().values(), vec![0.0; 3 * 1_024], "a new pass begins at zero");
        assert!(shared.take(1).is_none());
        assert!(shared.rows(2, 3).is_some());
        assert_eq!(shared.take(2).unwrap().len(), 3 * 1_024);
        assert!(shared.take(2).is_none());
    }
}
