//! The sketch of each layer: its form, its length, its encoding.

use super::{row_bytes, Encoding};
use serde::{Deserialize, Serialize};

/// How a layer's gradient is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// The layer saw one position per example, so its gradient has rank one, `δ ⊗ [a; 1]`. Both factors are kept, each
    /// whole or projected. A dot product of gradients is the product of two dot products.
    Factored,
    /// The layer saw several positions per example, so its gradient is a sum of such products. The gradients of all
    /// such layers are folded into one vector ([`SketchConfig::folded_width`]).
    Folded,
}

/// Lengths and encodings of the sketches of a run.
///
/// The defaults were chosen by `benches/fidelity` (`benches/results`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SketchConfig {
    /// Longest input factor that is kept whole. Longer ones are projected.
    pub input_cap: u32,
    /// Longest output-gradient factor that is kept whole. Longer ones are projected.
    pub delta_cap: u32,
    /// Greatest length of a projected factor; see [`SketchConfig::projected_width`].
    pub projected: u32,
    /// Least length of the vector that all folded layers share.
    pub folded_min: u32,
    /// Greatest length of the vector that all folded layers share; see [`SketchConfig::folded_width`].
    pub folded_max: u32,
    /// How factors that are kept whole are stored; see [`SketchConfig::encoding_of`].
    pub encoding: Encoding,
    /// How projected factors and the folded vector are stored.
    pub projected_encoding: Encoding,
}

impl Default for SketchConfig {
    fn default() -> Self {
        Self {
            input_cap: 1024,
            delta_cap: 1024,
            projected: 2816,
            folded_min: 768,
            folded_max: 7680,
            encoding: Encoding::Q4,
            projected_encoding: Encoding::Signs,
        }
    }
}

impl SketchConfig {
    /// Nothing is projected and nothing is rounded: dot products are those of the gradients, up to f32 arithmetic.
    ///
    /// Factored layers are kept whole. Folded layers lie side by side in one vector, as long as they have parameters
    /// together (rounded up to a power of two). This holds for up to 2^20 (1,048,576) parameters in folded layers.
    /// Beyond that number, layers that do not fit are hashed onto the others.
    ///
    /// # Cost
    /// A visit takes 4 bytes for each input and output of a factored layer, and 4 for each parameter of a folded one:
    /// 4 MiB for 2^20 parameters. A layer that could be factored takes its place behind those that cannot. So a model
    /// with many parameters in both kinds may need more room than its folded layers have.
    pub fn exact() -> Self {
        Self {
            input_cap: u32::MAX,
            delta_cap: u32::MAX,
            projected: 4096,
            folded_min: 1 << 20,
            folded_max: 1 << 20,
            encoding: Encoding::F32,
            projected_encoding: Encoding::F32,
        }
    }

    /// Stored length of an input factor of `width` numbers.
    pub fn input_width(&self, width: u32) -> u32 {
        self.side_width(width, self.input_cap)
    }

    /// Stored length of an output-gradient factor of `width` numbers.
    pub fn delta_width(&self, width: u32) -> u32 {
        self.side_width(width, self.delta_cap)
    }

    fn side_width(&self, width: u32, cap: u32) -> u32 {
        if width <= cap {
            width
        } else {
            self.projected_width(width)
        }
    }

    /// Length of the projection of a factor of `width` numbers: [`SketchConfig::projected`], or the next power of two
    /// from `width` on if that is less. A rotation of that length is exact.
    pub fn projected_width(&self, width: u32) -> u32 {
        self.projected.min(width.checked_next_power_of_two().unwrap_or(u32::MAX))
    }

    /// Length of the folded vector for layers of `parameters` parameters together: one number for every 64, a multiple
    /// of 8, between [`SketchConfig::folded_min`] and [`SketchConfig::folded_max`], but never longer than the next
    /// power of two from `parameters` on: that length is exact.
    ///
    /// A larger model needs a longer vector. At this ratio recall was measured to be equal for models of different
    /// sizes.
    pub fn folded_width(&self, parameters: u64) -> u32 {
        let wanted = u32::try_from(parameters / 64 / 8 * 8).unwrap_or(u32::MAX);
        let power = parameters.max(1).checked_next_power_of_two();
        let exact = power.and_then(|power| u32::try_from(power).ok()).unwrap_or(u32::MAX);
        wanted.min(self.folded_max).max(self.folded_min.min(self.folded_max)).min(exact)
    }

    /// The encoding of a vector of `width` numbers: [`SketchConfig::projected_encoding`] if it is projected, else
    /// [`SketchConfig::encoding`].
    ///
    /// Vectors of up to 128 numbers and those of probes get at least 8 bits, vectors of up to 16 numbers f16. The few
    /// numbers of a classifier's output gradient carry much of the answer, and probes are few. So finer numbers cost
    /// little there, and they were measured to pay (`benches/results`).
    pub fn encoding_of(&self, width: u32, projected: bool, probe: bool) -> Encoding {
        match if projected { self.projected_encoding } else { self.encoding } {
            Encoding::Q8 | Encoding::Q4 | Encoding::Signs if width <= SHORTEST => Encoding::F16,
            Encoding::Q4 | Encoding::Signs if probe || width <= SHORT => Encoding::Q8,
            other => other,
        }
    }

    /// Bytes of one visit's factors for a layer of these widths, before compression: numbers, scales and what rounding
    /// left open. Numbers kept apart come on top, eight bytes each.
    pub fn factored_bytes(&self, inputs: u32, outputs: u32) -> u64 {
        let side = |width: u32, cap: u32| {
            let stored = self.side_width(width, cap);
            vector_bytes(self.encoding_of(stored, width > cap, false), stored)
        };
        side(inputs, self.input_cap) + side(outputs, self.delta_cap)
    }

    /// Bytes of one visit's folded vector of `width` numbers, before compression, as
    /// [`SketchConfig::factored_bytes`].
    pub fn folded_bytes(&self, width: u32) -> u64 {
        vector_bytes(self.encoding_of(width, true, false), width)
    }
}

/// Bytes of a vector with its scale and what rounding left open.
fn vector_bytes(encoding: Encoding, width: u32) -> u64 {
    let rounding = if matches!(encoding, Encoding::Q8 | Encoding::Q4) { 2 } else { 0 };
    row_bytes(encoding, width as usize) as u64 + rounding
}

/// Vectors up to this length are stored with 8 bits where others have fewer.
const SHORT: u32 = 128;

/// Vectors up to this length are stored as f16: numbers kept apart would cost as much.
const SHORTEST: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_the_layers() {
        let sketch = SketchConfig::default();
        assert_eq!((sketch.input_width(784), sketch.input_width(1024)), (784, 1024));
        assert_eq!(
            (sketch.input_width(1025), sketch.input_width(9216), sketch.input_width(u32::MAX)),
            (2048, 2816, 2816)
        );
        let folded = [0, 18_816, 64 * 1_003, 10_000_000, u64::MAX].map(|p| sketch.folded_width(p));
        assert_eq!(folded, [1, 768, 1_000, 7_680, 7_680]);
        assert_eq!([0, 17, 18_816].map(|p| SketchConfig::exact().folded_width(p)), [1, 32, 32_768]);
        assert_eq!(sketch.encoding_of(16, false, false), Encoding::F16);
        assert_eq!(sketch.encoding_of(17, false, false), Encoding::Q8);
        assert_eq!(sketch.encoding_of(512, false, true), Encoding::Q8);
        assert_eq!(sketch.encoding_of(512, true, false), Encoding::Signs);
        assert_eq!(sketch.encoding_of(512, true, true), Encoding::Q8);
        // 784 numbers of 4 bits with a scale and their rounding, and 10 of 16 bits with a scale.
        assert_eq!(sketch.factored_bytes(784, 10), 784 / 2 + 2 + 2 + 20 + 2);
    }
}
