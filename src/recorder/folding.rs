//! How the gradients of layers with several positions are made short.

use super::config::Sketching;
use crate::taps::{Registered, Sides};
use gradlog_format::log::{LayerRecord, Manifest, TwoSided};

/// The longest sides of a two-sided projection.
pub(super) const SIDE_MAX: u32 = 1 << 12;

/// What [`Folding::Auto`] projects the sides of a large layer to, off the CPU.
const SIDE_AUTO: u32 = 256;

/// Layers of more numbers than this are large.
const LARGE: usize = 1 << 22;

/// Layers whose weight the taps of this crate lay out as `[rows, columns]`.
const KINDS: [&str; 9] =
    ["linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "embedding", "lstm", "gru", "rnn"];

/// How the gradients of layers with several positions per example are made short, before they are folded into the
/// vector that all such layers share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Folding {
    /// [`Folding::TwoSided`] with 256 numbers a side for embeddings, and for layers of more than 4,194,304 parameters,
    /// whose weight is not in main memory. [`Folding::Whole`] for all others.
    #[default]
    Auto,
    /// Each example's gradient is made, and all its numbers are folded. The dot product of two gradients is estimated
    /// with the variance that [`Fold`](crate::format::sketch::Fold) states, and norms are exact.
    ///
    /// # Cost
    /// `positions · R · C` multiplications for an example and a weight `[R, C]`, which also make the weight's gradient
    /// in fused layers and in linear layers on a device. On a device 8 bytes for each parameter.
    Whole,
    /// The two factors of a gradient are projected at each position to at most `side` numbers, and multiplied: `F_R G
    /// F_Cᵀ` stands for the gradient `G`, a matrix `[R, C]`. The gradient itself is never made. For wide layers with
    /// few positions, and for large ones on a device.
    ///
    /// Dot products keep their mean, and vary more: for gradients of one rank by about `3 ‖G‖² ‖H‖² / side` of each
    /// layer. Norms are exact where `16 · positions · (R + C) ≤ 3 R C`, else they are those of the sketches, and the
    /// visits say so. In Adam's metric probes and norms are scaled by outer products, as those of factored layers are.
    ///
    /// Layers of other kinds, and those with fewer than `4 · side²` numbers, are folded whole. Tied layers are
    /// projected alike, and their norm is that of their sketches' sum.
    ///
    /// # Cost
    /// `positions · side · (R + C + side)` multiplications for an example on a device; `positions · (R + C + side²)`
    /// on the CPU, on the background thread, which then gets both factors of each position. Twice as many where norms
    /// in Adam's metric are made, too.
    TwoSided {
        /// The most numbers of a projected side, 1 to 4,096. The top ten of a small transformer's probes, of which
        /// `Whole` finds 87 %, are found to 49 % with 16 numbers, 65 % with 32 and 83 % with 64
        /// (`docs/device.md`).
        side: u32,
    },
}

impl Folding {
    /// What is wrong with it.
    pub(super) fn find_fault(self) -> Option<String> {
        match self {
            Self::TwoSided { side } if side == 0 || side > SIDE_MAX => {
                Some(format!("`side` is {side}: give 1 to 4,096"))
            }
            _ => None,
        }
    }

    /// The layers that are projected from both sides.
    pub(super) fn choose(self, layers: &[Registered], sketching: Sketching) -> Vec<TwoSided> {
        // The gradients of tied layers are added, so they are projected alike or not at all.
        let group = |layer: &'_ Registered| -> Vec<&Registered> {
            layers.iter().filter(|other| layer.tied.is_some() && other.tied == layer.tied).collect()
        };
        let is_large = |layer: &Registered| {
            layer.spec.parameters.first().is_some_and(|first| {
                let is_far = first.tensor.as_ref().is_some_and(|tensor| !tensor.device().is_cpu());
                is_far && (layer.spec.kind == "embedding" || first.shape.elem_count() > LARGE)
            })
        };
        let has_matrix = |layer: &Registered| layer.layer.is_some() && KINDS.contains(&layer.spec.kind);
        let of_layer = |(number, layer): (usize, &Registered)| {
            let (first, group) = (layer.spec.parameters.first()?, group(layer));
            let side = match self {
                Self::TwoSided { side } => side,
                Self::Auto if sketching == Sketching::InMainMemory => return None,
                Self::Auto if is_large(layer) || group.iter().any(|other| is_large(other)) => SIDE_AUTO,
                _ => return None,
            };
            let (rows, columns) = matrix(first.shape.dims())?;
            let (kept_rows, kept_columns) = (rows.min(side as usize), columns.min(side as usize));
            let fits = has_matrix(layer) && group.iter().all(|other| has_matrix(other));
            let pays = 4 * kept_rows * kept_columns <= rows.saturating_mul(columns);
            let layer = u32::try_from(number).ok()?;
            (fits && pays).then_some(TwoSided { layer, rows: kept_rows as u32, columns: kept_columns as u32 })
        };
        layers.iter().enumerate().filter_map(of_layer).collect()
    }
}

/// A weight as a matrix: its first dimension against all others.
fn matrix(dims: &[usize]) -> Option<(usize, usize)> {
    let (first, others) = dims.split_first().filter(|(_, others)| !others.is_empty())?;
    Some((*first, others.iter().product()))
}

/// The projections of a layer's sides. They are as the manifest says, so that a run that goes on keeps them.
pub(super) fn make_sides(manifest: &Manifest, layer: &Registered, number: usize) -> Option<Sides> {
    // A manifest that says it wrongly is refused where runs are opened.
    let projected = manifest.two_sided().unwrap_or_default();
    // The gradients of tied layers are added, so they have one projection.
    let (one, record) =
        (projected.get(&u32::try_from(number).ok()?)?, manifest.layers.get(layer.tied.unwrap_or(number))?);
    let shape = matrix(layer.spec.parameters.first()?.shape.dims())?;
    let LayerRecord { seed_input, seed_delta, .. } = *record;
    Some(Sides::new((seed_delta, seed_input), shape, (one.rows as usize, one.columns as usize)))
}

/// The difference in what is projected from both sides, between a run and what is to be recorded into it.
pub(super) fn find_difference(run: &Manifest, wanted: &Manifest) -> Option<String> {
    let words = |manifest: &Manifest| {
        let mut found: Vec<TwoSided> = manifest.two_sided().unwrap_or_default().into_values().collect();
        found.sort_by_key(|one| one.layer);
        let name = |one: &TwoSided| {
            let name = manifest.layers.get(one.layer as usize).map_or("?", |layer| layer.name.as_str());
            format!("`{name}` to {} x {}", one.rows, one.columns)
        };
        match found.iter().map(name).collect::<Vec<String>>() {
            none if none.is_empty() => "no layer".to_owned(),
            names => names.join(", "),
        }
    };
    let (before, now) = (words(run), words(wanted));
    (before != now).then(|| format!("it projects {before} from both sides, now {now}: set `Config::folding`"))
}
