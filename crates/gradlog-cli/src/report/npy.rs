//! Tables with matrices in them for NumPy: one structured array, with a field for each tensor.
//!
//! The format is version 1.0 of NumPy Enhancement Proposal 1, as `numpy.lib.format` documents it: a magic string, the
//! version, the length of the header in two bytes, and the header. That is a Python literal of a dictionary, padded
//! with spaces so that the numbers begin at a multiple of 64 bytes, and ended by a line feed.

use super::tensors::Tensor;
use std::io::{self, Write};

/// Magic string and version 1.0.
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// The numbers begin at a multiple of this.
const ALIGNMENT: usize = 64;

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

/// Writes tensors with a common number of rows as one `.npy` file: a structured array of one dimension, whose fields
/// have the tensors' names and the rest of their shapes. `numpy.load(FILE)["vectors"]` is then the matrix `[rows,
/// numbers]`.
///
/// # Errors
/// What `out` says, and [`io::ErrorKind::InvalidInput`] if a shape does not fit its numbers or the rows of another
/// tensor.
pub fn write_npy(out: &mut (impl Write + ?Sized), tensors: &[Tensor<'_>]) -> io::Result<()> {
    let rows = tensors.first().and_then(|tensor| tensor.shape.first()).copied().unwrap_or(0);
    for Tensor { name, shape, numbers } in tensors {
        let product = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
        if shape.first() != Some(&rows) || product != Some(numbers.len()) {
            return Err(invalid(format!("tensor `{name}` of shape {shape:?} has {} numbers", numbers.len())));
        }
    }
    out.write_all(&header(rows, tensors)?)?;
    for row in 0..rows {
        for Tensor { numbers, .. } in tensors {
            let length = numbers.len() / rows;
            numbers.write(out, row * length..(row + 1) * length)?;
        }
    }
    Ok(())
}

/// Everything before the numbers.
fn header(rows: usize, tensors: &[Tensor<'_>]) -> io::Result<Vec<u8>> {
    let mut fields = String::new();
    for Tensor { name, shape, numbers } in tensors {
        let name = name.replace('\\', "\\\\").replace('\'', "\\'");
        let lengths: String = shape[1..].iter().map(|length| format!("{length},")).collect();
        let lengths = if lengths.is_empty() { lengths } else { format!(", ({lengths})") };
        fields.push_str(&format!("('{name}', '{}'{lengths}), ", numbers.type_string()));
    }
    let mut header = format!("{{'descr': [{fields}], 'fortran_order': False, 'shape': ({rows}, ), }}");
    let start = MAGIC.len() + 2;
    let end = (start + header.len() + 1).next_multiple_of(ALIGNMENT);
    header.push_str(&" ".repeat(end - start - header.len() - 1));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| invalid("the names of the tensors are too long"))?;
    Ok([MAGIC, &length.to_le_bytes(), header.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::super::Numbers;
    use super::*;
    use std::process::Command;

    const IDS: [u64; 2] = [7, u64::MAX];
    const LABELS: [i64; 2] = [-1, 3];
    const VALUES: [f32; 6] = [0.5, -1.0, f32::MIN_POSITIVE, 3e38, 0.0, 7.25];

    fn vectors(shape: &[usize]) -> Tensor<'static> {
        Tensor { name: "vectors", shape: shape.to_vec(), numbers: Numbers::F32(&VALUES) }
    }

    fn written(tensors: &[Tensor<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_npy(&mut bytes, tensors).unwrap();
        bytes
    }

    fn three() -> [Tensor<'static>; 3] {
        [
            Tensor { name: "example", shape: vec![2], numbers: Numbers::U64(&IDS) },
            Tensor { name: "label", shape: vec![2], numbers: Numbers::I64(&LABELS) },
            vectors(&[2, 3]),
        ]
    }

    /// Reads the parts of a file as the specification has them: the dictionary and the numbers.
    fn parse(bytes: &[u8]) -> (String, &[u8]) {
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(bytes[8]) + 256 * usize::from(bytes[9]);
        assert_eq!((10 + length) % 64, 0);
        let text = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert!(text.ends_with('\n') && text.is_ascii());
        (text.trim_end().to_owned(), &bytes[10 + length..])
    }

    #[test]
    fn reads_back_by_the_specification() {
        let bytes = written(&three());
        let (dictionary, data) = parse(&bytes);
        let expected = "{'descr': [('example', '<u8'), ('label', '<i8'), ('vectors', '<f4', (3,)), ], \
                        'fortran_order': False, 'shape': (2, ), }";
        assert_eq!(dictionary, expected);
        assert_eq!(data.len(), 2 * 28);
        for (row, record) in data.chunks_exact(28).enumerate() {
            assert_eq!(record[..8], IDS[row].to_le_bytes());
            assert_eq!(record[8..16], LABELS[row].to_le_bytes());
            let back: Vec<f32> =
                record[16..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            assert_eq!(back, VALUES[3 * row..3 * row + 3]);
        }
        let none = Tensor { name: "vectors", shape: vec![0, 3], numbers: Numbers::F32(&[]) };
        let empty = written(&[none]);
        assert!(parse(&empty).0.contains("'shape': (0, )") && parse(&empty).1.is_empty());
    }

    #[test]
    fn headers_of_every_length_are_aligned() {
        for length in 0..130 {
            let name = "x".repeat(length);
            let tensor = Tensor { name: &name, shape: vec![6], numbers: Numbers::F32(&VALUES) };
            assert_eq!(parse(&written(&[tensor])).1.len(), 24);
        }
        let tensor = Tensor { name: "it's \\", shape: vec![6], numbers: Numbers::F32(&VALUES) };
        assert!(parse(&written(&[tensor])).0.contains(r"('it\'s \\', '<f4')"));
        let name = "x".repeat(70_000);
        let tensor = Tensor { name: &name, shape: vec![6], numbers: Numbers::F32(&VALUES) };
        let error = write_npy(&mut Vec::new(), &[tensor]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        for wrong in [&[2, 4][..], &[3, 2], &[], &[2, usize::MAX, 2]] {
            let tensors = [three()[0].clone(), vectors(wrong)];
            assert_eq!(write_npy(&mut Vec::new(), &tensors).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn numpy_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        std::fs::write(&path, written(&three())).unwrap();
        let script = "import sys, numpy; a = numpy.load(sys.argv[1]); \
                      print(a['example'].tolist(), a['label'].tolist(), a['vectors'].shape, float(a['vectors'][1, 2]))";
        let has_numpy = Command::new("python3").args(["-c", "import numpy"]).output();
        if !has_numpy.is_ok_and(|output| output.status.success()) {
            println!("skipped: there is no python3 with numpy");
            return;
        }
        let output = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.trim(), "[7, 18446744073709551615] [-1, 3] (2, 3) 7.25", "{output:?}");
    }
}
