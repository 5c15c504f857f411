//! Images and labels in the idx format of MNIST, and wrong labels on purpose.

use anyhow::{bail, Context, Result};
use candle_core::{Device, Tensor};
use flate2::read::GzDecoder;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::ops::Range;
use std::path::Path;

/// Side of an image.
pub const SIDE: usize = 28;

/// Shifts by 1 to 9 of the ten classes: a label always becomes another one.
pub const TO_ANOTHER: Range<u8> = 1..10;

#[derive(Clone)]
pub struct Digits {
    /// One byte per pixel, row by row, image by image.
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

impl Digits {
    /// Reads `PART-images-idx3-ubyte` and `PART-labels-idx1-ubyte`, gzipped or not. The second `-` may be a `.`.
    pub fn load(folder: &Path, part: &str) -> Result<Self> {
        let (shape, pixels) = idx(folder, &format!("{part}-images"), 3)?;
        let (count, labels) = idx(folder, &format!("{part}-labels"), 1)?;
        if shape[1..] != [SIDE, SIDE] {
            bail!("{}: the images have {:?} pixels, but this model takes 28 x 28", folder.display(), &shape[1..]);
        }
        if shape[0] != count[0] {
            bail!("{}: there are {} images but {} labels", folder.display(), shape[0], count[0]);
        }
        if let Some(label) = labels.iter().find(|label| **label > 9) {
            bail!("{}: there is a label {label}, but this model takes 0 to 9", folder.display());
        }
        Ok(Self { pixels, labels })
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub fn truncate(&mut self, count: usize) {
        let count = count.min(self.len());
        self.labels.truncate(count);
        self.pixels.truncate(count * SIDE * SIDE);
    }

    /// Shifts a share of the labels, chosen at random. Each shift is drawn from `by`.
    pub fn flip(&mut self, share: f64, by: Range<u8>, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed ^ 0xF11F);
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut rng);
        for &i in &order[..(share * self.len() as f64).round() as usize] {
            self.labels[i] = (self.labels[i] + rng.random_range(by.clone())) % 10;
        }
    }

    /// Images `[batch, 1, 28, 28]`, standardized by MNIST's mean and deviation, and labels `[batch]`.
    pub fn batch(&self, ids: &[u64], device: &Device) -> Result<(Tensor, Tensor)> {
        let image = |i: &u64| &self.pixels[*i as usize * SIDE * SIDE..(*i as usize + 1) * SIDE * SIDE];
        let x: Vec<f32> = ids.iter().flat_map(image).map(|p| (f32::from(*p) / 255.0 - 0.1307) / 0.3081).collect();
        let y: Vec<u32> = ids.iter().map(|i| u32::from(self.labels[*i as usize])).collect();
        Ok((Tensor::from_vec(x, (ids.len(), 1, SIDE, SIDE), device)?, Tensor::from_vec(y, ids.len(), device)?))
    }
}

/// Reads an idx file of bytes. It has a magic number with type 8 and the number of dimensions, each dimension as a
/// big-endian u32, and the bytes.
fn idx(folder: &Path, name: &str, rank: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let names = ["-idx", ".idx"].map(|link| format!("{name}{link}{rank}-ubyte"));
    let paths = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    let Some(path) = paths.into_iter().find(|path| path.exists()) else {
        bail!("{} has neither {} nor {1}.gz", folder.display(), names[0]);
    };
    let open = || -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = BufReader::new(File::open(&path)?);
        if path.extension().is_some_and(|end| end == "gz") {
            GzDecoder::new(file).read_to_end(&mut bytes)?;
        } else {
            file.take(1 << 32).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let bytes = open().with_context(|| format!("cannot read {}", path.display()))?;
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
    if word(0) != Some(0x0800 + rank) {
        bail!("{} is not an idx file of bytes with {rank} dimensions", path.display());
    }
    let shape: Vec<usize> = (1..=rank).filter_map(|d| word(4 * d)).collect();
    let body = bytes.get(4 * (rank + 1)..).unwrap_or_default();
    if shape.len() != rank || shape.iter().product::<usize>() != body.len() {
        bail!("{} has the shape {shape:?} but {} bytes: it may be cut short", path.display(), body.len());
    }
    Ok((shape, body.to_vec()))
}

/// Writes the list of changed labels.
pub fn write_flipped(path: &Path, truth: &[u8], given: &[u8]) -> Result<()> {
    let mut text = String::from("example,label_given,label_true\n");
    for (example, (truth, given)) in truth.iter().zip(given).enumerate().filter(|(_, (t, g))| t != g) {
        text.push_str(&format!("{example},{given},{truth}\n"));
    }
    File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
