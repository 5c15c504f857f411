//! Tables with matrices in them for NumPy: one structured array, with a field for each tensor. The header is made by the crate
//! `npyz`, the numbers are streamed.

use super::tensors::Tensor;
use npyz::{DType, Field, WriteOptions, WriterBuilder};
use std::io::{self, Write};

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

/// Writes tensors with a common number of rows as one `.npy` file: a structured array of one dimension, whose fields have the
/// tensors' names and the rest of their shapes. `numpy.load(FILE)["vectors"]` is then the matrix `[rows, numbers]`.
///
/// # Errors
/// What `out` says, and [`io::ErrorKind::InvalidInput`] if a shape does not fit its numbers or the rows of another tensor.
pub fn write_npy(out: &mut impl Write, tensors: &[Tensor<'_>]) -> io::Result<()> {
    let rows = tensors.first().and_then(|tensor| tensor.shape.first()).copied().unwrap_or(0);
    let mut fields = Vec::with_capacity(tensors.len());
    for Tensor { name, shape, numbers } in tensors {
        let product = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
        if shape.first() != Some(&rows) || product != Some(numbers.len()) {
            return Err(invalid(format!("tensor `{name}` of shape {shape:?} has {} numbers", numbers.len())));
        }
        let mut dtype = DType::Plain(numbers.type_string().parse().map_err(|error| invalid(format!("{error}")))?);
        for length in shape[1..].iter().rev() {
            dtype = DType::Array(*length as u64, Box::new(dtype));
        }
        fields.push(Field { name: (*name).to_owned(), dtype });
    }
    WriteOptions::new_header_only()
        .dtype(DType::Record(fields))
        .shape(&[rows as u64])
        .writer(&mut *out)
        .write_header_only()?;
    for row in 0..rows {
        for Tensor { numbers, .. } in tensors {
            let length = numbers.len() / rows;
            numbers.write(out, row * length..(row + 1) * length)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Numbers;
    use super::*;
    use npyz::NpyFile;

    #[test]
    fn reads_back_by_the_crate_itself() {
        let (ids, labels, values) = ([7u64, u64::MAX], [-1i64, 3], [0.5f32, -1.0, f32::MIN_POSITIVE, 3e38, 0.0, 7.25]);
        let tensor =
            |shape: &[usize]| Tensor { name: "vectors", shape: shape.to_vec(), numbers: Numbers::F32(&values) };
        let tensors = [
            Tensor { name: "example", shape: vec![2], numbers: Numbers::U64(&ids) },
            Tensor { name: "label", shape: vec![2], numbers: Numbers::I64(&labels) },
            tensor(&[2, 3]),
        ];
        let mut bytes = Vec::new();
        write_npy(&mut bytes, &tensors).unwrap();
        let file = NpyFile::new(bytes.as_slice()).unwrap();
        assert_eq!(file.shape(), [2]);
        let DType::Record(fields) = file.dtype() else { panic!("{:?}", file.dtype()) };
        let found: Vec<(String, String)> =
            fields.iter().map(|field| (field.name.clone(), field.dtype.descr())).collect();
        let plain = |name: &str, kind: &str| (name.to_owned(), format!("'{kind}'"));
        assert_eq!(found[..2], [plain("example", "<u8"), plain("label", "<i8")]);
        let DType::Array(3, number) = &fields[2].dtype else { panic!("{:?}", fields[2]) };
        assert_eq!((fields[2].name.as_str(), number.descr().as_str()), ("vectors", "'<f4'"));
        // NumPy wants the numbers to begin at a multiple of 64.
        let data = &bytes[bytes.len() - 2 * 28..];
        assert_eq!((bytes.len() - data.len()) % 64, 0);
        for (row, record) in data.chunks_exact(28).enumerate() {
            assert_eq!(record[..8], ids[row].to_le_bytes());
            assert_eq!(record[8..16], labels[row].to_le_bytes());
            let back: Vec<f32> =
                record[16..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            assert_eq!(back, values[3 * row..3 * row + 3]);
        }

        let mut empty = Vec::new();
        let none = Tensor { name: "vectors", shape: vec![0, 3], numbers: Numbers::F32(&[]) };
        write_npy(&mut empty, &[none]).unwrap();
        assert_eq!(NpyFile::new(empty.as_slice()).unwrap().shape(), [0]);
        for wrong in [&[2, 4][..], &[3, 2], &[], &[2, usize::MAX, 2]] {
            let tensors = [tensors[0].clone(), tensor(wrong)];
            assert_eq!(write_npy(&mut Vec::new(), &tensors).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
