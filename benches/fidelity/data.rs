//! The data: images with wrong labels, or windows of a text with scrambled ones.

use anyhow::{bail, ensure, Context, Result};
use candle_core::{Device, Tensor};
use flate2::read::MultiGzDecoder;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::io::Read;
use std::path::Path;

/// Side of an image.
pub const SIDE: usize = 28;
/// Symbols that a window predicts.
pub const LENGTH: usize = 64;
/// Share of the training examples that is spoilt: wrong labels, or windows whose symbols are shuffled.
const SPOILT: f64 = 0.1;

/// Training or test examples.
pub enum Examples {
    Images {
        pixels: Vec<u8>,
        labels: Vec<u8>,
    },
    /// Windows of `LENGTH + 1` bytes.
    Windows(Vec<Vec<u8>>),
}

impl Examples {
    pub fn len(&self) -> usize {
        match self {
            Self::Images { labels, .. } => labels.len(),
            Self::Windows(windows) => windows.len(),
        }
    }

    /// Inputs and targets: `[batch, 1, 28, 28]` and `[batch]`, or `[batch, LENGTH]` both.
    pub fn batch(&self, ids: &[usize]) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, cpu) = (ids.len(), &Device::Cpu);
        match self {
            Self::Images { pixels, labels } => {
                let image = |i: &usize| &pixels[i * SIDE * SIDE..(i + 1) * SIDE * SIDE];
                let x: Vec<f32> = ids.iter().flat_map(image).map(|p| f32::from(*p) / 255.0).collect();
                let y: Vec<u32> = ids.iter().map(|i| u32::from(labels[*i])).collect();
                Ok((Tensor::from_vec(x, (batch, 1, SIDE, SIDE), cpu)?, Tensor::from_vec(y, batch, cpu)?))
            }
            Self::Windows(windows) => {
                let part = |from: usize| -> Vec<u32> {
                    ids.iter().flat_map(|i| &windows[*i][from..from + LENGTH]).map(|b| u32::from(*b)).collect()
                };
                let shape = (batch, LENGTH);
                Ok((Tensor::from_vec(part(0), shape, cpu)?, Tensor::from_vec(part(1), shape, cpu)?))
            }
        }
    }
}

/// The images of a folder of idx files, as (training, test).
pub fn images(folder: &Path, seed: u64) -> Result<(Examples, Examples)> {
    let part = |name: &str| -> Result<(Vec<u8>, Vec<u8>)> {
        let (pixels, labels) = (idx(folder, &format!("{name}-images"), 3)?, idx(folder, &format!("{name}-labels"), 1)?);
        ensure!(pixels.len() == labels.len() * SIDE * SIDE, "{}: not a label for each 28 x 28 image", folder.display());
        ensure!(labels.iter().all(|l| *l < 10), "{}: a label that is not 0 to 9", folder.display());
        Ok((pixels, labels))
    };
    let (pixels, mut labels) = part("train")?;
    let mut rng = StdRng::seed_from_u64(seed ^ 0xF11F);
    for i in chosen(labels.len(), &mut rng) {
        labels[i] = (labels[i] + rng.random_range(1..10)) % 10;
    }
    let (test_pixels, test_labels) = part("t10k")?;
    Ok((Examples::Images { pixels, labels }, Examples::Images { pixels: test_pixels, labels: test_labels }))
}

/// The windows of a text, one after another; the last tenth is for testing.
pub fn text(path: &Path, seed: u64) -> Result<(Examples, Examples)> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let mut windows: Vec<Vec<u8>> =
        (0..bytes.len().saturating_sub(LENGTH)).step_by(LENGTH).map(|at| bytes[at..=at + LENGTH].to_vec()).collect();
    let test = windows.split_off(windows.len() * 9 / 10);
    let mut rng = StdRng::seed_from_u64(seed ^ 0xF11F);
    for i in chosen(windows.len(), &mut rng) {
        windows[i].shuffle(&mut rng);
    }
    Ok((Examples::Windows(windows), Examples::Windows(test)))
}

fn chosen(count: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(rng);
    order.truncate((SPOILT * count as f64).round() as usize);
    order
}

/// The bytes of an idx file, gzipped or not, without its header.
fn idx(folder: &Path, name: &str, rank: usize) -> Result<Vec<u8>> {
    let names = ["-idx", ".idx"].map(|link| format!("{name}{link}{rank}-ubyte"));
    let paths = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    let Some(path) = paths.into_iter().find(|path| path.exists()) else {
        bail!("{} has no {} or {0}/{1}.gz", folder.display(), names[0]);
    };
    let raw = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|end| end == "gz") {
        MultiGzDecoder::new(&raw[..]).read_to_end(&mut bytes)?;
    } else {
        bytes = raw;
    }
    let header = 4 * (rank + 1);
    let word = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let count: usize = (1..=rank).map(|d| word(4 * d)).product();
    ensure!(word(0) == 0x0800 + rank && bytes.len() == header + count, "{} is no idx file of bytes", path.display());
    Ok(bytes.split_off(header))
}
