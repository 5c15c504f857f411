//! Compresses columns. No other file calls zstd or the coder of vectors to compress.

use super::column::Cells;
use super::planes;
use crate::sketch::Encoding;
use gradlog_kernels::rans::Encoder;
use std::io;
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ParamSwitch, ResetDirective};
use zstd::{bulk, zstd_safe};

/// How a column is stored in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Uncompressed.
    None,
    /// A zstd frame of the column.
    Zstd,
    /// A zstd frame of the column's planes ([`planes`]).
    Planes,
    /// A frame of interleaved rANS ([`gradlog_kernels::rans`]).
    Rans,
}

impl Codec {
    pub(super) fn code(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Zstd => 1,
            Codec::Planes => 2,
            Codec::Rans => 3,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Codec::None, Codec::Zstd, Codec::Planes, Codec::Rans].into_iter().find(|codec| codec.code() == code)
    }
}

/// A level at which zstd hardly searches for matches. Its entropy coder does the work.
const HARDLY_SEARCHING: i32 = -1000;

/// From this many numbers on, each plane has a block of the frame to itself. A block costs three bytes and a table. One
/// table for constant bytes and random bytes together costs more.
const APART_MIN: usize = 1024;

/// From this many bytes on, codes of vectors get a frame of rANS. Shorter ones would pay for its table and its states.
const RANS_MIN: usize = 1 << 15;

/// Compresses columns, each by its type.
///
/// The numbers of a gradient are nearly random. Some are more frequent than others, above all zero, and an entropy
/// coder uses that. A search for matches finds only accidental ones. On activations and gradients behind a ReLU the
/// entropy coder alone is ten times as fast as level 1. Its result is 4 % smaller (`benches/results`).
///
/// Long columns of codes are coded by vector instructions: zstd's coder reads a byte after the other.
pub struct Compressor {
    level: bulk::Compressor<'static>,
    /// For vectors, if the level is at most 1.
    entropy: Option<bulk::Compressor<'static>>,
    rans: Encoder,
    /// Kept for the planes of the next column.
    planes: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("searches", &self.entropy.is_none()).finish_non_exhaustive()
    }
}

impl Compressor {
    /// A compressor of this zstd level. A level above 1 searches for matches in vectors too.
    pub fn new(level: i32) -> io::Result<Self> {
        let entropy = if level > 1 {
            None
        } else {
            let mut entropy = bulk::Compressor::new(HARDLY_SEARCHING)?;
            entropy.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
            Some(entropy)
        };
        Ok(Self { level: bulk::Compressor::new(level)?, entropy, rans: Encoder::default(), planes: Vec::new() })
    }

    /// Appends the frame of a column to `out` if it is shorter than the column. Else `out` does not change.
    pub fn compress(&mut self, cells: Cells, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<Codec> {
        let start = out.len();
        let (codec, written) = match (cells, &mut self.entropy) {
            // Signs are random bits.
            (Cells::Vector(Encoding::Signs), _) => return Ok(Codec::None),
            (Cells::Vector(Encoding::Q8 | Encoding::Q4), Some(_)) if bytes.len() >= RANS_MIN && !is_constant(bytes) => {
                return Ok(if self.rans.encode(bytes, out) { Codec::Rans } else { Codec::None });
            }
            (Cells::Vector(_), Some(entropy)) => (Codec::Zstd, compress_whole(entropy, bytes, out)?),
            (Cells::Vector(_) | Cells::U8, _) => (Codec::Zstd, compress_whole(&mut self.level, bytes, out)?),
            (Cells::U32 | Cells::U64 | Cells::F32 | Cells::Bf16, _) => {
                (Codec::Planes, self.compress_planes(cells, bytes, out)?)
            }
        };
        if written < bytes.len() {
            return Ok(codec);
        }
        out.truncate(start);
        Ok(Codec::None)
    }

    /// Appends a frame of the planes of `bytes` to `out` and returns its length.
    fn compress_planes(&mut self, cells: Cells, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let size = cells.number_bytes();
        let numbers = bytes.len() / size;
        self.planes.resize(bytes.len(), 0);
        planes::split(size, bytes, &mut self.planes);
        if numbers < APART_MIN {
            return compress_whole(&mut self.level, &self.planes, out);
        }
        let written = compress_planes_separately(self.level.context_mut(), &self.planes, numbers, out);
        written.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))
    }
}

/// Appends one frame with a block for each plane of `numbers` bytes to `out`. Returns its length, or zstd's error.
fn compress_planes_separately(
    zstd: &mut CCtx<'static>,
    planes: &[u8],
    numbers: usize,
    out: &mut Vec<u8>,
) -> Result<usize, zstd_safe::ErrorCode> {
    let start = out.len();
    out.reserve(zstd_safe::compress_bound(planes.len()) + 64 * (planes.len() / numbers));
    zstd.reset(ResetDirective::SessionOnly)?;
    // With the length known, zstd takes no more memory than it needs.
    zstd.set_pledged_src_size(Some(planes.len() as u64))?;
    let mut place = OutBuffer::around_pos(out, start);
    let mut rest = planes.len();
    for plane in planes.chunks_exact(numbers) {
        rest -= plane.len();
        let end = if rest == 0 { ZSTD_EndDirective::ZSTD_e_end } else { ZSTD_EndDirective::ZSTD_e_flush };
        if zstd.compress_stream2(&mut place, &mut InBuffer::around(plane), end)? > 0 {
            // Never happens for lack of room. If it happens, the column is stored uncompressed.
            return Ok(planes.len());
        }
    }
    Ok(place.pos() - start)
}

/// Whether all bytes are equal, as those of a layer that has died. zstd writes the byte once.
fn is_constant(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == bytes[0])
}

/// Appends a frame of `bytes` to `out` and returns its length.
fn compress_whole(zstd: &mut bulk::Compressor<'static>, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
    let start = out.len();
    out.reserve(zstd_safe::compress_bound(bytes.len()));
    let mut place = io::Cursor::new(&mut *out);
    place.set_position(start as u64);
    zstd.compress_to_buffer(bytes, &mut place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflated(codec: Codec, cells: Cells, frame: &[u8], length: usize) -> Vec<u8> {
        let inflated = bulk::decompress(frame, length).unwrap();
        match codec {
            Codec::Planes => {
                let mut numbers = vec![0; length];
                planes::join(cells.number_bytes(), &inflated, &mut numbers);
                numbers
            }
            _ => inflated,
        }
    }

    #[test]
    fn what_compresses_comes_back_and_what_does_not_is_left_as_it_is() {
        let sparse: Vec<u8> = (0..10_000u32)
            .map(|i| if i % 3 == 0 { (i.wrapping_mul(2_654_435_761) >> 13) as u8 & 7 } else { 0 })
            .collect();
        for (level, cells) in [(1, Cells::U8), (1, Cells::Vector(Encoding::Q4)), (9, Cells::Vector(Encoding::Q4))] {
            assert!(sparse.len() < RANS_MIN);
            let mut compressor = Compressor::new(level).unwrap();
            let mut out = vec![7; 3];
            assert_eq!(compressor.compress(cells, &sparse, &mut out).unwrap(), Codec::Zstd);
            assert_eq!(out[..3], [7; 3]);
            assert!(out.len() < sparse.len() / 3, "{} bytes", out.len());
            assert_eq!(bulk::decompress(&out[3..], sparse.len()).unwrap(), sparse);
            let before = out.clone();
            assert_eq!(
                compressor.compress(cells, &[7], &mut out).unwrap(),
                Codec::None,
                "no frame is shorter than a byte"
            );
            assert_eq!(out, before);
        }
        let mut compressor = Compressor::new(1).unwrap();
        assert_eq!(compressor.compress(Cells::Vector(Encoding::Signs), &sparse, &mut Vec::new()).unwrap(), Codec::None);
    }

    #[test]
    fn long_columns_of_codes_get_a_frame_of_rans_unless_they_do_not_gain_or_are_searched_for_matches() {
        let codes = |count: usize| -> Vec<u8> {
            (0..count as u64).map(|i| (crate::sketch::draw(1, i) & crate::sketch::draw(2, i) & 0x77) as u8).collect()
        };
        let noise: Vec<u8> = (0..RANS_MIN as u64).map(|i| crate::sketch::draw(1, i) as u8).collect();
        for (level, bytes, codec) in [
            (1, codes(RANS_MIN), Codec::Rans),
            (1, codes(RANS_MIN - 1), Codec::Zstd),
            (2, codes(RANS_MIN), Codec::Zstd),
            (1, vec![0x11; RANS_MIN], Codec::Zstd),
            (1, noise, Codec::None),
        ] {
            for encoding in [Encoding::Q4, Encoding::Q8] {
                let mut out = vec![7; 3];
                let chosen =
                    Compressor::new(level).unwrap().compress(Cells::Vector(encoding), &bytes, &mut out).unwrap();
                assert_eq!(chosen, codec, "level {level}");
                assert_eq!(out[..3], [7; 3]);
                if codec == Codec::Rans {
                    let mut back = vec![0; bytes.len()];
                    gradlog_kernels::rans::Decoder::default().decode(&out[3..], &mut back).unwrap();
                    assert!(back == bytes && out.len() < bytes.len() * 4 / 5);
                }
            }
        }
        let mut out = Vec::new();
        let floats = Compressor::new(1).unwrap().compress(Cells::Vector(Encoding::F16), &codes(RANS_MIN), &mut out);
        assert_eq!(floats.unwrap(), Codec::Zstd);
    }

    #[test]
    fn numbers_come_back_plane_by_plane_whether_these_are_apart_or_not() {
        let mut compressor = Compressor::new(1).unwrap();
        for count in [40, APART_MIN - 1, APART_MIN, 5000] {
            let shuffled = |i: usize| i as u64 * 7919 % count as u64;
            let ids: Vec<u8> = (0..count).flat_map(|i| shuffled(i).to_le_bytes()).collect();
            let losses: Vec<u8> = (0..count).flat_map(|i| (shuffled(i) as f32 / 7.0).exp2().to_le_bytes()).collect();
            let scales: Vec<u8> = (0..count).flat_map(|i| (0x3c00 + shuffled(i) as u16 % 600).to_le_bytes()).collect();
            for (cells, bytes) in [(Cells::U64, ids), (Cells::F32, losses), (Cells::Bf16, scales)] {
                let mut out = vec![7; 3];
                let codec = compressor.compress(cells, &bytes, &mut out).unwrap();
                assert_eq!((codec, &out[..3]), (Codec::Planes, &[7; 3][..]), "{count} numbers of {cells:?}");
                assert!(inflated(codec, cells, &out[3..], bytes.len()) == bytes, "{count} numbers of {cells:?}");
                if cells == Cells::U64 && count >= APART_MIN {
                    assert!(out.len() < 5 * count / 2, "{} bytes for {count} ids", out.len());
                }
            }
        }
    }

    #[test]
    fn numbers_that_do_not_compress_are_left_as_they_are_and_the_next_ones_are_not_harmed() {
        let mut compressor = Compressor::new(1).unwrap();
        let noise: Vec<u8> = (0..8 * APART_MIN as u64).flat_map(|i| crate::sketch::draw(1, i).to_le_bytes()).collect();
        let mut out = vec![7; 3];
        assert_eq!(compressor.compress(Cells::U64, &noise, &mut out).unwrap(), Codec::None);
        assert_eq!(out, [7; 3]);
        let zeros = vec![0; 1 << 16];
        assert_eq!(compressor.compress(Cells::U8, &zeros, &mut out).unwrap(), Codec::Zstd);
        assert_eq!(bulk::decompress(&out[3..], zeros.len()).unwrap(), zeros);
    }
}
