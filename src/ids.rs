//! Ids of examples: from what a loop has, and from the content of an example.
//!
//! An id is any 64-bit number that is the same each time an example is visited. It need not be a position. Three ways
//! to have one:
//!
//! **The loop draws positions.** Use them as ids: `recorder.pass(&positions)` takes `&[u32]`, `&[usize]`, a tensor of
//! integers, a range, or what an iterator collects ([`IntoIds`]).
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use gradlog::ids::IntoIds;
//!
//! // Shuffled positions, as `index_select` takes them.
//! let order: Vec<u32> = vec![3, 0, 2, 1];
//! for batch in order.chunks(2) {
//!     let rows = Tensor::new(batch, &Device::Cpu)?;
//!     let ids = (&rows).into_ids()?; // let mut pass = recorder.pass(&rows)?;
//!     assert_eq!(ids, batch.into_ids()?); // let mut pass = recorder.pass(batch)?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **A batcher of examples**, such as `candle_datasets::Batcher`, keeps the order of its iterator. So chunk the ids in
//! the same way, or let the ids travel with the labels as one more column. A text model that draws windows at random
//! offsets uses the offset as id: one offset is one window.
//!
//! ```
//! # use candle_core::{Device, Tensor};
//! # use gradlog::ids::IntoIds;
//! // Examples in training order: each label with its id.
//! let examples = [(1u32, 40u32), (0, 17), (1, 23)].map(|(label, id)| Tensor::new(&[label, id], &Device::Cpu));
//! let stacked = Tensor::stack(&examples.into_iter().collect::<Result<Vec<_>, _>>()?, 0)?; // what a batcher returns
//! let (labels, ids) = (stacked.get_on_dim(1, 0)?, stacked.get_on_dim(1, 1)?);
//! assert_eq!((&ids).into_ids()?, [40, 17, 23]); // let mut pass = recorder.pass(&ids)?;
//! # assert_eq!(labels.to_vec1::<u32>()?, [1, 0, 1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **No positions at all.** [`content_id`] makes an id from the bytes of an example, [`content_ids`] from the rows of a
//! tensor. [`Recorder::save_ids`](crate::Recorder::save_ids) writes beside the run which position has which id.
//!
//! # The same id twice
//! An id may occur several times in a pass: two views of an example, or a sample with replacement. Each row is a visit
//! of its own. Influence adds up the visits of an id, which is exact. Self-influence adds up `η c ‖g‖²` of each visit,
//! so it leaves out how one view helps another.

use candle_core::{DType, Device, Tensor};
use siphasher::sip::SipHasher24;
use std::ops::Range;

/// Why something gives no ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdError {
    reason: String,
}

impl IdError {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl std::fmt::Display for IdError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for IdError {}

/// What gives the ids of a batch: one for each example, in the order of the batch.
///
/// References to slices, arrays and `Vec`s of `u8`, `u16`, `u32`, `u64`, `usize`, `i32` and `i64`; ranges of them; and
/// references to tensors `[batch]` of integers. For an iterator, collect it into a `Vec`.
pub trait IntoIds {
    /// The ids.
    ///
    /// # Errors
    /// [`IdError`] for a negative number, and for a tensor of floats or of another shape than `[batch]`.
    fn into_ids(self) -> Result<Vec<u64>, IdError>;
}

fn convert<T: Copy + TryInto<u64> + std::fmt::Display>(ids: impl Iterator<Item = T>) -> Result<Vec<u64>, IdError> {
    let refuse = |id: T| IdError::new(format!("the id {id} is negative: give numbers from 0"));
    ids.map(|id| id.try_into().map_err(|_| refuse(id))).collect()
}

macro_rules! ids_of {
    ($($number:ty),*) => {$(
        impl IntoIds for &[$number] {
            fn into_ids(self) -> Result<Vec<u64>, IdError> {
                convert(self.iter().copied())
            }
        }

        impl<const N: usize> IntoIds for &[$number; N] {
            fn into_ids(self) -> Result<Vec<u64>, IdError> {
                self.as_slice().into_ids()
            }
        }

        impl IntoIds for &Vec<$number> {
            fn into_ids(self) -> Result<Vec<u64>, IdError> {
                self.as_slice().into_ids()
            }
        }

        impl IntoIds for &&[$number] {
            fn into_ids(self) -> Result<Vec<u64>, IdError> {
                (*self).into_ids()
            }
        }

        impl IntoIds for &&Vec<$number> {
            fn into_ids(self) -> Result<Vec<u64>, IdError> {
                self.as_slice().into_ids()
            }
        }

        impl IntoIds for Range<$number> {
            fn into_ids(self) -> Result<Vec<u64>, IdError> {
                convert(self)
            }
        }
    )*};
}

ids_of!(u8, u16, u32, u64, usize, i32, i64);

impl IntoIds for &Tensor {
    fn into_ids(self) -> Result<Vec<u64>, IdError> {
        if self.rank() != 1 || !self.dtype().is_int() {
            let (shape, dtype) = (self.shape(), self.dtype());
            return Err(IdError::new(format!(
                "ids are integers of shape [batch], not {dtype:?} of shape {shape:?}: give a tensor of u32 or i64, one number for \
                 each example"
            )));
        }
        let read = || self.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.to_vec1::<i64>();
        read().map_err(|error| IdError::new(error.to_string()))?.as_slice().into_ids()
    }
}

/// The key of the content ids, `00 01 .. 0f`: that of the test vectors of SipHash.
const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908];

/// An id from the bytes of an example. It is the same in each run, on each machine and in each version.
///
/// It is SipHash-2-4 with the key `00 01 .. 0f` (Aumasson and Bernstein 2012, "SipHash: a fast short-input PRF", whose
/// appendix has test vectors). Two different examples among `n` share an id with a probability of about `n² / 2^65`:
/// 3 in a million for ten million examples. Equal examples have equal ids, so they count as one.
///
/// ```
/// assert_eq!(gradlog::ids::content_id(&[]), 0x726f_db47_dd0e_0e31);
/// ```
#[must_use]
pub fn content_id(bytes: &[u8]) -> u64 {
    let [first, second] = KEY;
    SipHasher24::new_with_keys(first, second).hash(bytes)
}

/// [`content_id`] of each row of a tensor `[batch, ...]`: of its numbers in order, little-endian, in the tensor's type.
///
/// # Errors
/// candle's error, and an error for a scalar or for a type without numbers of whole bytes.
pub fn content_ids(rows: &Tensor) -> candle_core::Result<Vec<u64>> {
    let Some(&batch) = rows.dims().first() else {
        candle_core::bail!("content ids are those of rows: give `[batch, ...]`")
    };
    let rows = rows.detach().to_device(&Device::Cpu)?.reshape((batch, ()))?;
    macro_rules! hash {
        ($number:ty) => {{
            let rows = rows.to_vec2::<$number>()?;
            let bytes = |row: &Vec<$number>| row.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
            Ok(rows.iter().map(|row| content_id(&bytes(row))).collect())
        }};
    }
    match rows.dtype() {
        DType::U8 => hash!(u8),
        DType::U32 => hash!(u32),
        DType::I64 => hash!(i64),
        DType::F16 => hash!(half::f16),
        DType::BF16 => hash!(half::bf16),
        DType::F32 => hash!(f32),
        DType::F64 => hash!(f64),
        other => candle_core::bail!("no content id is defined for rows of {other:?}: convert them to f32 first"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the reference implementation's `vectors.h`: the hashes of 0, 1, 2, ... bytes 00, 01, 02, ...
    #[test]
    fn content_ids_are_those_of_the_specification() {
        let bytes: Vec<u8> = (0..64).collect();
        let hashes: [(usize, u64); 6] = [
            (0, 0x726f_db47_dd0e_0e31),
            (1, 0x74f8_39c5_93dc_67fd),
            (2, 0x0d6c_8009_d9a9_4f5a),
            (3, 0x8567_6696_d7fb_7e2d),
            (8, 0x93f5_f579_9a93_2462),
            (15, 0xa129_ca61_49be_45e5),
        ];
        for (length, hash) in hashes {
            assert_eq!(content_id(&bytes[..length]), hash, "{length}");
        }
    }

    #[test]
    fn rows_have_the_ids_of_their_bytes() {
        let rows = Tensor::new(&[[1f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        let bytes: Vec<u8> = [0.5f32, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(content_ids(&rows).unwrap()[1], content_id(&bytes));
        // A view is read in its own order.
        assert_eq!(
            content_ids(&rows.t().unwrap().contiguous().unwrap()).unwrap(),
            content_ids(&rows.t().unwrap()).unwrap()
        );
        let text = Tensor::new(&[*b"abcdefgh"], &Device::Cpu).unwrap();
        assert_eq!(content_ids(&text).unwrap(), [content_id(b"abcdefgh")]);
    }

    #[test]
    fn ids_come_from_what_a_loop_has() {
        let tensor = |data: &[i64]| Tensor::new(data, &Device::Cpu).unwrap();
        let given = [
            [7u64, 8].into_ids(),
            (&[7, 8]).into_ids(),
            (&[7u32, 8][..]).into_ids(),
            (&vec![7usize, 8]).into_ids(),
            (7..9).into_ids(),
            (&tensor(&[7, 8])).into_ids(),
            (&tensor(&[7, 8]).to_dtype(DType::U8).unwrap()).into_ids(),
            (&(7..9u16).map(u64::from).collect::<Vec<_>>()).into_ids(),
        ];
        for ids in given {
            assert_eq!(ids.unwrap(), [7, 8]);
        }
        let words = |ids: Result<Vec<u64>, IdError>| ids.unwrap_err().to_string();
        assert!(words((&[7, -1]).into_ids()).contains("the id -1 is negative"));
        assert!(words((&tensor(&[-2])).into_ids()).contains("the id -2 is negative"));
        assert!(words((&tensor(&[1]).to_dtype(DType::F32).unwrap()).into_ids()).contains("F32"));
        assert!(words((&tensor(&[1]).unsqueeze(0).unwrap()).into_ids()).contains("[1, 1]"));
    }
}
