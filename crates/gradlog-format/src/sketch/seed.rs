//! The only source of randomness: a counter-based generator (SplitMix64, Steele, Lea and Flood 2014).
//!
//! It has no state. Sign `i` of a projection can be computed without the signs before it, in any order and any
//! language.

use serde::{Deserialize, Serialize};

/// The vector that a projection is applied to. Each side of each layer has a seed of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Side {
    /// The layer's input, the left factor of a factored gradient.
    Input = 0,
    /// The gradient of the loss by the layer's output, the right factor of a factored gradient.
    Delta = 1,
    /// The layer's whole gradient, hashed into the vector that all folded layers share.
    Folded = 2,
}

/// Weyl increment of SplitMix64: 2^64 divided by the golden ratio, made odd.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64: a bijection of 64 bits in which each input bit moves half of the output bits.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Number `counter` (from 0) of the stream that `seed` names.
#[inline]
pub fn draw(seed: u64, counter: u64) -> u64 {
    mix(seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// The seed of one side of one layer of a run.
///
/// `seed(run, layer, side) = draw(draw(run, layer), side)`, where `draw(s, c) = mix(s + (c + 1)·0x9E3779B97F4A7C15)`
/// is element `c` of the SplitMix64 sequence from `s`. Layers are counted from 0 in the order of the manifest.
/// The manifest also holds the resulting seeds, so a renamed layer still reads.
///
/// ```
/// use gradlog_format::sketch::{derive_seed, Side};
/// assert_ne!(derive_seed(7, 0, Side::Input), derive_seed(7, 0, Side::Delta));
/// assert_ne!(derive_seed(7, 0, Side::Input), derive_seed(7, 1, Side::Input));
/// ```
pub fn derive_seed(run: u64, layer: u32, side: Side) -> u64 {
    draw(draw(run, u64::from(layer)), side as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draw_is_splitmix64() {
        // The first outputs of the reference SplitMix64 (Vigna, prng.di.unimi.it/splitmix64.c) from seed 1234567.
        let reference = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        for (counter, expected) in reference.into_iter().enumerate() {
            assert_eq!(draw(1234567, counter as u64), expected);
        }
    }
}
