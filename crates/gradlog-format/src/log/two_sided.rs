//! Layers whose gradients are projected from both sides before they are folded (FORMAT.md, "Two-sided").

use super::codec::{self, DecodeError};
use super::extension::Extension;
use super::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Tag of the extension field with the layers that are projected from both sides.
const TAG_TWO_SIDED: u16 = 4;

/// A layer whose weight's gradient is projected from both sides, before it is folded with the others.
///
/// With the weight's gradient `G` as a matrix `[R, C]`, its first dimension against all others, the layer stands in the
/// folded vector as `F_R G F_Cᵀ`, of `rows · columns` numbers, row-major, then its other parameters as they are. `F_R`
/// is the fold of `seed_delta` from `R` numbers to `rows`, `F_C` that of `seed_input` from `C` to `columns`. A layer's
/// gradient is then never made: positions are projected, and `rows · columns` numbers are summed over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TwoSided {
    /// The number of the layer.
    pub layer: u32,
    /// What the first dimension of its weight is folded to.
    pub rows: u32,
    /// What the other dimensions of its weight, as one, are folded to.
    pub columns: u32,
}

impl TwoSided {
    /// How many numbers stand for the gradient of the weight.
    pub fn numbers(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.columns)
    }
}

impl Manifest {
    /// The extension field that says which layers are projected from both sides. They must ascend.
    ///
    /// # Errors
    /// [`DecodeError`] if there are too many for the format.
    pub fn two_sided_field(layers: &[TwoSided]) -> Result<Extension, DecodeError> {
        Ok(Extension { tag: TAG_TWO_SIDED, bytes: codec::encode(&layers)? })
    }

    /// The layers that are projected from both sides, by their numbers.
    ///
    /// # Errors
    /// [`DecodeError`] if the field is not what FORMAT.md says. [`Run::open`](crate::run::Run::open) refuses such a
    /// run.
    pub fn two_sided(&self) -> Result<HashMap<u32, TwoSided>, DecodeError> {
        let Some(field) = self.extensions.iter().find(|field| field.tag == TAG_TWO_SIDED) else {
            return Ok(HashMap::new());
        };
        let layers: Vec<TwoSided> = codec::decode(&field.bytes)?;
        let known = |one: &TwoSided| (one.layer as usize) < self.layers.len() && one.rows > 0 && one.columns > 0;
        if !layers.iter().all(known) || !layers.windows(2).all(|pair| pair[0].layer < pair[1].layer) {
            return Err(DecodeError("it names layers that the run has not, out of order, or without numbers".into()));
        }
        // Tied layers have one seed.
        let mut tied: HashMap<u64, Option<(u32, u32)>> = HashMap::new();
        let projected: HashMap<u32, TwoSided> = layers.into_iter().map(|one| (one.layer, one)).collect();
        for (number, layer) in (0..).zip(&self.layers) {
            let sides = projected.get(&number).map(|one| (one.rows, one.columns));
            if *tied.entry(layer.seed_folded).or_insert(sides) != sides {
                return Err(DecodeError(format!("`{}` is tied to a layer that it projects otherwise", layer.name)));
            }
        }
        Ok(projected)
    }
}
