//! Matrices for other tools, in the safetensors format: the header by the crate `safetensors`, the numbers streamed.

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;

/// The numbers of a tensor, row by row.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// Whole numbers of 64 bits.
    U64(&'a [u64]),
    /// The same with a sign.
    I64(&'a [i64]),
    /// Single precision.
    F32(&'a [f32]),
}

impl Numbers<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Numbers::U64(_) => Dtype::U64,
            Numbers::I64(_) => Dtype::I64,
            Numbers::F32(_) => Dtype::F32,
        }
    }

    /// As NumPy says it.
    pub(super) fn type_string(&self) -> &'static str {
        match self {
            Numbers::U64(_) => "<u8",
            Numbers::I64(_) => "<i8",
            Numbers::F32(_) => "<f4",
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Numbers::U64(numbers) => numbers.len(),
            Numbers::I64(numbers) => numbers.len(),
            Numbers::F32(numbers) => numbers.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Numbers::U64(_) | Numbers::I64(_) => 8 * self.len(),
            Numbers::F32(_) => 4 * self.len(),
        }
    }

    /// Writes some of them, little-endian.
    pub(super) fn write(&self, out: &mut (impl Write + ?Sized), range: Range<usize>) -> io::Result<()> {
        match self {
            Numbers::U64(all) => all[range].iter().try_for_each(|number| out.write_all(&number.to_le_bytes())),
            Numbers::I64(all) => all[range].iter().try_for_each(|number| out.write_all(&number.to_le_bytes())),
            Numbers::F32(all) => all[range].iter().try_for_each(|number| out.write_all(&number.to_le_bytes())),
        }
    }
}

/// A tensor with its name.
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, as many as the shape says.
    pub numbers: Numbers<'a>,
}

/// Writes tensors as one safetensors file, with `words` as its metadata.
///
/// The numbers go out as they are; nothing is copied. Those of 64 bits should come first, so that all are aligned.
///
/// # Errors
/// What `out` says, and [`io::ErrorKind::InvalidInput`] if a shape does not fit its numbers.
pub fn write_tensors(
    out: &mut (impl Write + ?Sized),
    words: &[(&str, String)],
    tensors: &[Tensor<'_>],
) -> io::Result<()> {
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let end = offset + tensor.numbers.bytes();
        let info =
            TensorInfo { dtype: tensor.numbers.dtype(), shape: tensor.shape.clone(), data_offsets: (offset, end) };
        infos.push((tensor.name.to_owned(), info));
        offset = end;
    }
    let words: HashMap<String, String> = words.iter().map(|(name, word)| ((*name).to_owned(), word.clone())).collect();
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let metadata = Metadata::new(Some(words), infos).map_err(invalid)?;
    // By way of a value, whose keys are sorted: the same numbers are then the same file.
    let mut header = serde_json::to_vec(&serde_json::to_value(&metadata)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.iter().try_for_each(|tensor| tensor.numbers.write(out, 0..tensor.numbers.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn reads_back_by_the_crate_itself() {
        let (ids, labels, values) = ([7u64, u64::MAX], [-1i64, 3], [0.5f32, -1.0, f32::MIN_POSITIVE, 3e38, 0.0, 7.25]);
        let tensors = [
            Tensor { name: "example", shape: vec![2], numbers: Numbers::U64(&ids) },
            Tensor { name: "label", shape: vec![2], numbers: Numbers::I64(&labels) },
            Tensor { name: "vectors", shape: vec![2, 3], numbers: Numbers::F32(&values) },
        ];
        let mut bytes = Vec::new();
        write_tensors(&mut bytes, &[("what", "a test".into())], &tensors).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["what"], "a test");
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let vectors = read.tensor("vectors").unwrap();
        assert_eq!((vectors.dtype(), vectors.shape()), (Dtype::F32, &[2usize, 3][..]));
        let back: Vec<f32> =
            vectors.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(back, values);
        assert_eq!(read.tensor("example").unwrap().data()[8..], [255; 8]);
        let labels = read.tensor("label").unwrap();
        assert_eq!(labels.data()[..8], [255; 8]);
        assert_eq!(labels.data()[8..], [3, 0, 0, 0, 0, 0, 0, 0]);

        let wrong = [Tensor { name: "vectors", shape: vec![2, 4], numbers: Numbers::F32(&values) }];
        let error = write_tensors(&mut Vec::new(), &[], &wrong).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
