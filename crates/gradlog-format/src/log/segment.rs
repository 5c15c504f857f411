//! Segments: preallocated files that blocks are appended to (FORMAT.md, "Segment").

use super::codec::DecodeError;
use super::prefix::{check_prefix, file_prefix, FORMAT_VERSION};

/// Bytes of a segment's header. The first block follows it.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// File kind of a segment.
const KIND_SEGMENT: u16 = 2;

/// The header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The run that the segment belongs to.
    pub run_id: [u8; 16],
    /// Its number in the run, from 0.
    pub index: u32,
    /// The step at which the training resumed, in the first segment after that.
    pub resumed_step: Option<u64>,
}

impl SegmentHeader {
    /// The bytes in the file, as FORMAT.md, "Segment", lays them out.
    pub fn to_bytes(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
        bytes[..12].copy_from_slice(&file_prefix(KIND_SEGMENT));
        bytes[12..16].copy_from_slice(&self.index.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.run_id);
        bytes[36..40].copy_from_slice(&u32::from(self.resumed_step.is_some()).to_le_bytes());
        bytes[40..48].copy_from_slice(&self.resumed_step.unwrap_or(0).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header and checks its CRC.
    pub fn parse(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, DecodeError> {
        const { assert!(FORMAT_VERSION == 1, "read the header by the version of its prefix") };
        check_prefix(bytes, KIND_SEGMENT)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if word(60) != crc32fast::hash(&bytes[..60]) {
            return Err(DecodeError("the segment header's checksum does not match".into()));
        }
        let mut run_id = [0u8; 16];
        run_id.copy_from_slice(&bytes[16..32]);
        let resumed_step = u64::from(word(40)) | u64::from(word(44)) << 32;
        Ok(Self { run_id, index: word(12), resumed_step: (word(36) == 1).then_some(resumed_step) })
    }
}
