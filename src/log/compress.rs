//! How a column is squeezed: the only file that asks zstd to compress.

use super::column::Cells;
use crate::sketch::Encoding;
use std::io;
use zstd::zstd_safe::{CParameter, ParamSwitch};
use zstd::{bulk, zstd_safe};

/// A level at which zstd's search for matches skips almost everything, and leaves the entropy coder.
const HARDLY_SEARCHING: i32 = -1000;

/// Compresses columns, each by its kind.
///
/// The numbers of a gradient are as good as random: what can be had is that some are rarer than others, above all that
/// most are zero, and a search for matches finds the few by chance. On activations and gradients behind a ReLU the entropy
/// coder alone is ten times as fast as level 1 and leaves 4 % fewer bytes (`benches/results`).
pub(crate) struct Compressor {
    level: bulk::Compressor<'static>,
    /// For vectors, unless a level was asked for that searches well.
    entropy: Option<bulk::Compressor<'static>>,
}

impl Compressor {
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        let entropy = if level > 1 {
            None
        } else {
            let mut entropy = bulk::Compressor::new(HARDLY_SEARCHING)?;
            entropy.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
            Some(entropy)
        };
        Ok(Self { level: bulk::Compressor::new(level)?, entropy })
    }

    /// Appends the frame of a column of `cells` to `out` and returns true, if it is shorter than the column; else `out` is as it was.
    pub(crate) fn compress(&mut self, cells: Cells, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<bool> {
        let zstd = match (cells, &mut self.entropy) {
            // Each sign is a coin's throw.
            (Cells::Vector(Encoding::Signs), _) => return Ok(false),
            (Cells::Vector(_), Some(entropy)) => entropy,
            _ => &mut self.level,
        };
        let start = out.len();
        out.reserve(zstd_safe::compress_bound(bytes.len()));
        let mut place = io::Cursor::new(&mut *out);
        place.set_position(start as u64);
        let is_shorter = zstd.compress_to_buffer(bytes, &mut place)? < bytes.len();
        if !is_shorter {
            out.truncate(start);
        }
        Ok(is_shorter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_comes_back_and_what_does_not_is_left_as_it_is() {
        let sparse: Vec<u8> = (0..10_000u32)
            .map(|i| if i % 3 == 0 { (i.wrapping_mul(2_654_435_761) >> 13) as u8 & 7 } else { 0 })
            .collect();
        for (level, cells) in [(1, Cells::U8), (1, Cells::Vector(Encoding::Q4)), (9, Cells::Vector(Encoding::Q4))] {
            let mut compressor = Compressor::new(level).unwrap();
            let mut out = vec![7; 3];
            assert!(compressor.compress(cells, &sparse, &mut out).unwrap());
            assert_eq!(out[..3], [7; 3]);
            assert!(out.len() < sparse.len() / 3, "{} bytes", out.len());
            assert_eq!(bulk::decompress(&out[3..], sparse.len()).unwrap(), sparse);
            let before = out.clone();
            assert!(!compressor.compress(cells, &[7], &mut out).unwrap(), "no frame is shorter than a byte");
            assert_eq!(out, before);
        }
        let mut compressor = Compressor::new(1).unwrap();
        assert!(!compressor.compress(Cells::Vector(Encoding::Signs), &sparse, &mut Vec::new()).unwrap());
    }
}
