//! How a column is squeezed: the only file that asks zstd to compress.

use super::column::Cells;
use crate::sketch::Encoding;
use std::io;
use zstd::bulk;
use zstd::zstd_safe::{CParameter, ParamSwitch};

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

    /// The frame of a column of `cells`, if it is shorter than the column.
    pub(crate) fn compress(&mut self, cells: Cells, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let zstd = match (cells, &mut self.entropy) {
            // Each sign is a coin's throw.
            (Cells::Vector(Encoding::Signs), _) => return Ok(None),
            (Cells::Vector(_), Some(entropy)) => entropy,
            _ => &mut self.level,
        };
        Ok(Some(zstd.compress(bytes)?).filter(|frame| frame.len() < bytes.len()))
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
            let frame = compressor.compress(cells, &sparse).unwrap().unwrap();
            assert!(frame.len() < sparse.len() / 3, "{} bytes", frame.len());
            assert_eq!(bulk::decompress(&frame, sparse.len()).unwrap(), sparse);
            assert!(compressor.compress(cells, &[7]).unwrap().is_none(), "no frame is shorter than a byte");
        }
        let mut compressor = Compressor::new(1).unwrap();
        assert!(compressor.compress(Cells::Vector(Encoding::Signs), &sparse).unwrap().is_none());
    }
}
