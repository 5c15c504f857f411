//! The types of the numbers in a column.

use crate::sketch::Encoding;
use serde::{Deserialize, Serialize};

/// The type of the numbers in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Cells {
    /// Bytes.
    U8,
    /// 32-bit unsigned integers, little-endian.
    U32,
    /// 64-bit unsigned integers, little-endian.
    U64,
    /// 32-bit IEEE floats, little-endian.
    F32,
    /// The upper halves of 32-bit IEEE floats, little-endian.
    Bf16,
    /// A vector in this encoding in each row. Its scale is in a column of its own.
    Vector(Encoding),
}

impl Cells {
    /// The number of the type in the file.
    pub fn code(self) -> u8 {
        match self {
            Cells::U8 => 1,
            Cells::U32 => 2,
            Cells::U64 => 3,
            Cells::F32 => 4,
            Cells::Bf16 => 5,
            Cells::Vector(Encoding::F32) => 16,
            Cells::Vector(Encoding::F16) => 17,
            Cells::Vector(Encoding::Q8) => 18,
            Cells::Vector(Encoding::Q4) => 19,
            Cells::Vector(Encoding::Signs) => 20,
        }
    }

    /// The type of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Cells::U8,
            2 => Cells::U32,
            3 => Cells::U64,
            4 => Cells::F32,
            5 => Cells::Bf16,
            16 => Cells::Vector(Encoding::F32),
            17 => Cells::Vector(Encoding::F16),
            18 => Cells::Vector(Encoding::Q8),
            19 => Cells::Vector(Encoding::Q4),
            20 => Cells::Vector(Encoding::Signs),
            _ => return None,
        })
    }

    /// Bytes of one number if it can be split into planes (`log/planes.rs`), else 1.
    pub(in crate::log) fn number_bytes(self) -> usize {
        match self {
            Cells::U8 | Cells::Vector(_) => 1,
            Cells::Bf16 => 2,
            Cells::U32 | Cells::F32 => 4,
            Cells::U64 => 8,
        }
    }

    /// Bytes of one row of `width` numbers.
    pub fn row_bytes(self, width: u32) -> u64 {
        let width = u64::from(width);
        match self {
            Cells::U8 => width,
            Cells::Bf16 => 2 * width,
            Cells::U32 | Cells::F32 => 4 * width,
            Cells::U64 => 8 * width,
            Cells::Vector(encoding) => encoding.bytes(width as usize) as u64,
        }
    }
}
