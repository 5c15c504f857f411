//! Which sketch a layer gets, and how long it is.

use super::{row_bytes, Encoding};
use serde::{Deserialize, Serialize};

/// The two ways in which a layer's gradient is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// The layer saw one position per example, so its gradient has rank one, `δ ⊗ [a; 1]`: both factors are kept,
    /// each as it is or folded to its cap. A dot product of gradients is the product of two dot products.
    Factored,
    /// The layer saw many positions, so its gradient is a sum: it is folded, with those of all such layers, into one
    /// vector of [`SketchConfig::folded`] numbers.
    Folded,
}

/// Lengths and encodings of the sketches of a run.
///
/// The defaults were chosen by `benches/fidelity` (`benches/results`): of the ten strongest proponents of a test example by exact
/// gradients they find 0.98 in an MLP at 539 bytes a visit, 0.93 in a CNN at 869 and 0.76 in a transformer at 416.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SketchConfig {
    /// Longest input factor that is kept; a wider layer's input is folded to this many numbers.
    pub input_cap: u32,
    /// Longest output-gradient factor that is kept. Unrelated examples have nearly orthogonal output gradients,
    /// which multiply the error of the input side by almost zero, so this side deserves the larger cap.
    pub delta_cap: u32,
    /// Length of the vector that all folded layers share.
    pub folded: u32,
    /// How the factors are stored; see [`SketchConfig::factor_encoding`].
    pub encoding: Encoding,
    /// How the folded vector is stored; see [`SketchConfig::folded_encoding_of`].
    pub folded_encoding: Encoding,
}

impl Default for SketchConfig {
    fn default() -> Self {
        Self { input_cap: 1024, delta_cap: 1024, folded: 1024, encoding: Encoding::Q4, folded_encoding: Encoding::Q4 }
    }
}

impl SketchConfig {
    /// No caps and no rounding: every factored layer is exact. For tests and small models.
    pub fn exact() -> Self {
        Self {
            input_cap: u32::MAX,
            delta_cap: u32::MAX,
            folded: 4096,
            encoding: Encoding::F32,
            folded_encoding: Encoding::F32,
        }
    }

    /// Stored length of an input factor of `width` numbers.
    pub fn input_width(&self, width: u32) -> u32 {
        width.min(self.input_cap)
    }

    /// Stored length of an output-gradient factor of `width` numbers.
    pub fn delta_width(&self, width: u32) -> u32 {
        width.min(self.delta_cap)
    }

    /// How a factor of `width` numbers is stored: [`SketchConfig::encoding`], but 8 bit where that is 4 bit and the vector is short or a
    /// probe's. The few numbers of a classifier's output gradient carry much of the answer, and probes are few: both are cheap to keep
    /// finer, and measured to pay (`benches/results`).
    pub fn factor_encoding(&self, width: u32, probe: bool) -> Encoding {
        finer(self.encoding, probe || width <= SHORT)
    }

    /// How the folded vector is stored: [`SketchConfig::folded_encoding`], but 8 bit for a probe where that is 4 bit.
    pub fn folded_encoding_of(&self, probe: bool) -> Encoding {
        finer(self.folded_encoding, probe)
    }

    /// Bytes of one visit's factors for a layer of these widths, scales included, before compression.
    pub fn factored_bytes(&self, inputs: u32, outputs: u32) -> u64 {
        let side = |width: u32| row_bytes(self.factor_encoding(width, false), width as usize) as u64;
        side(self.input_width(inputs)) + side(self.delta_width(outputs))
    }

    /// Bytes of one visit's folded vector, scale included, before compression.
    pub fn folded_bytes(&self) -> u64 {
        row_bytes(self.folded_encoding, self.folded as usize) as u64
    }
}

/// Vectors up to this length are stored with 8 bits where others have 4.
const SHORT: u32 = 128;

fn finer(encoding: Encoding, wanted: bool) -> Encoding {
    match encoding {
        Encoding::Q4 if wanted => Encoding::Q8,
        other => other,
    }
}
