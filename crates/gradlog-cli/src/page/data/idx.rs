//! Pictures and labels in idx files, the format of MNIST, gzipped or not. An id is the position in the file.

use super::{Card, Entry, Source};
use crate::error::CliError;
use crate::page::limits::{DATA_BYTES_MAX, PICTURE_SIDE};
use crate::page::sheet::Picture;
use flate2::read::MultiGzDecoder;
use image::imageops::{resize, FilterType};
use image::GrayImage;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// The probe set whose pictures are training pictures.
const TRAIN: &str = "train";

/// The pictures of a folder.
pub(super) struct Idx {
    images: PathBuf,
    rows: usize,
    columns: usize,
    pixels: Vec<u8>,
    labels: Option<Vec<u8>>,
}

impl Idx {
    /// The training pictures, those of a probe set called `train` among them; or the test pictures (`t10k`).
    pub(super) fn open(folder: &Path, set: Option<&str>) -> Result<Self, CliError> {
        let stem = if set.is_none_or(|set| set == TRAIN) { "train" } else { "t10k" };
        let name = |kind: &str| find(folder, &format!("{stem}-{kind}"));
        let Some(images) = name("images-idx3-ubyte") else {
            let what = format!("there is no {stem}-images-idx3-ubyte, nor one that ends in .gz");
            return Err(CliError::Data {
                path: folder.to_owned(),
                what,
                next: "name the folder that holds the idx files",
            });
        };
        let (shape, pixels) = read_idx(&images, 3)?;
        let labels = name("labels-idx1-ubyte").map(|path| read_idx(&path, 1)).transpose()?.map(|(_, labels)| labels);
        Ok(Self { images, rows: shape[1], columns: shape[2], pixels, labels })
    }
}

/// The file of this name, as it is or gzipped.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let dotted = name.replace("-idx", ".idx");
    let names = [name.to_owned(), format!("{name}.gz"), format!("{dotted}.gz"), dotted];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// The sizes and the bytes of a file of 8-bit numbers with so many dimensions.
fn read_idx(path: &Path, dimensions: usize) -> Result<(Vec<usize>, Vec<u8>), CliError> {
    let io = |source| CliError::In { path: path.to_owned(), source };
    let wrong = |what: String| CliError::Data {
        path: path.to_owned(),
        what,
        next: "give idx files of unsigned bytes, as MNIST has them",
    };
    let file = BufReader::new(File::open(path).map_err(io)?);
    let mut bytes = Vec::new();
    let is_packed = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    reader.take(DATA_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > DATA_BYTES_MAX {
        return Err(wrong(format!("it has more than {DATA_BYTES_MAX} bytes")));
    }
    let head = 4 + 4 * dimensions;
    if bytes.len() < head || bytes[..3] != [0, 0, 8] || usize::from(bytes[3]) != dimensions {
        return Err(wrong(format!("it is not an idx file of bytes in {dimensions} dimensions")));
    }
    let size = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    let shape: Vec<usize> = (0..dimensions).map(|at| size(4 + 4 * at)).collect();
    let numbers = shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size));
    if numbers != Some(bytes.len() - head) {
        return Err(wrong(format!("its head says {shape:?}, and {} bytes follow", bytes.len() - head)));
    }
    bytes.drain(..head);
    Ok((shape, bytes))
}

impl Source for Idx {
    fn entry(&self, id: u64) -> Result<Option<Entry>, CliError> {
        let size = self.rows * self.columns;
        let Ok(place) = usize::try_from(id) else { return Ok(None) };
        let end = place.checked_add(1).and_then(|end| end.checked_mul(size));
        let Some(pixels) = end.and_then(|end| self.pixels.get(end - size..end)).filter(|pixels| !pixels.is_empty())
        else {
            return Ok(None);
        };
        let (width, height) = (self.columns as u32, self.rows as u32);
        let mut picture = Picture { width, height, is_color: false, pixels: pixels.to_vec() };
        if width.max(height) > PICTURE_SIDE {
            picture = shrink(picture);
        }
        let label = self.labels.as_ref().and_then(|labels| labels.get(place)).map(|label| u32::from(*label));
        Ok(Some(Entry { card: Card::Picture(picture), label }))
    }

    fn ids(&self) -> String {
        format!("positions in {}", self.images.display())
    }
}

fn shrink(picture: Picture) -> Picture {
    let scale = f64::from(PICTURE_SIDE) / f64::from(picture.width.max(picture.height));
    let side = |side: u32| ((f64::from(side) * scale) as u32).max(1);
    let (width, height) = (side(picture.width), side(picture.height));
    match GrayImage::from_raw(picture.width, picture.height, picture.pixels) {
        Some(whole) => {
            let pixels = resize(&whole, width, height, FilterType::Triangle).into_raw();
            Picture { width, height, is_color: false, pixels }
        }
        None => Picture { width: 1, height: 1, is_color: false, pixels: vec![0] },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn folder(images: &[u8], labels: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut packed = flate2::write::GzEncoder::new(
            File::create(folder.path().join("train-images-idx3-ubyte.gz")).unwrap(),
            flate2::Compression::fast(),
        );
        packed.write_all(images).unwrap();
        packed.finish().unwrap();
        std::fs::write(folder.path().join("train-labels-idx1-ubyte"), labels).unwrap();
        folder
    }

    #[test]
    fn a_picture_is_found_by_its_position() {
        let head = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3];
        let folder = folder(&[&head[..], &[1, 2, 3, 4, 5, 6]].concat(), &[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]);
        let idx = Idx::open(folder.path(), None).unwrap();
        let entry = idx.entry(1).unwrap().unwrap();
        let picture = Picture { width: 3, height: 1, is_color: false, pixels: vec![4, 5, 6] };
        assert_eq!(entry, Entry { card: Card::Picture(picture), label: Some(9) });
        assert_eq!((idx.entry(2).unwrap(), idx.entry(u64::MAX).unwrap()), (None, None));
        // A probe set called train has the same pictures; another needs the test files.
        assert!(Idx::open(folder.path(), Some("train")).is_ok());
        let error = Idx::open(folder.path(), Some("test")).err().unwrap().to_string();
        assert!(error.contains("t10k-images-idx3-ubyte"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_idx_is_refused() {
        let cut = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2];
        let huge = [0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
        for images in [&cut[..], &huge, b"nothing", &[0, 0, 13, 3, 0, 0, 0, 0]] {
            let folder = folder(images, &[0, 0, 8, 1, 0, 0, 0, 0]);
            assert!(matches!(Idx::open(folder.path(), None), Err(CliError::Data { .. })));
        }
    }
}
