//! Images as a model takes them.

use crate::data::{Digits, SIDE};
use candle_core::{Device, Tensor};

/// How pixels of 0 to 255 enter a model.
#[derive(Clone, Copy)]
pub enum Pixels {
    /// Shifted and scaled by MNIST's mean and deviation.
    Standardized,
    /// Scaled to 0 to 1: the squared norm is a tenth, and training is smoother by that much.
    Unit,
}

/// Pixels and labels.
#[derive(Clone)]
pub struct Images {
    pixels: Vec<f32>,
    pub labels: Vec<u32>,
}

impl Images {
    pub fn from_digits(digits: &Digits, pixels: Pixels) -> Self {
        let scaled = |p: &u8| match pixels {
            Pixels::Standardized => (f32::from(*p) / 255.0 - 0.1307) / 0.3081,
            Pixels::Unit => f32::from(*p) / 255.0,
        };
        let pixels = digits.pixels.iter().map(scaled).collect();
        Self { pixels, labels: digits.labels.iter().map(|label| u32::from(*label)).collect() }
    }

    /// The images of two classes alone, with the labels 0 and 1.
    pub fn two_classes(digits: &Digits, pixels: Pixels, classes: [u8; 2]) -> Self {
        let chosen = digits.labels.iter().zip(digits.pixels.chunks(SIDE * SIDE)).filter(|(l, _)| classes.contains(l));
        let (labels, pixel_rows): (Vec<u8>, Vec<&[u8]>) = chosen.unzip();
        let mut images = Self::from_digits(&Digits { pixels: pixel_rows.concat(), labels }, pixels);
        images.labels.iter_mut().for_each(|label| *label = u32::from(*label == u32::from(classes[1])));
        images
    }

    pub fn truncate(mut self, count: usize) -> Self {
        self.labels.truncate(count);
        self.pixels.truncate(self.labels.len() * SIDE * SIDE);
        self
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn pixels(&self, id: u64) -> &[f32] {
        &self.pixels[id as usize * SIDE * SIDE..(id as usize + 1) * SIDE * SIDE]
    }

    /// The same with the pixels of one image moved.
    pub fn move_pixels(&self, id: u64, step: &[f64]) -> Self {
        let mut moved = self.clone();
        let pixels = &mut moved.pixels[id as usize * SIDE * SIDE..(id as usize + 1) * SIDE * SIDE];
        pixels.iter_mut().zip(step).for_each(|(pixel, step)| *pixel += *step as f32);
        moved
    }

    /// A checksum of all of them.
    pub fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        self.pixels.iter().for_each(|pixel| hasher.update(&pixel.to_le_bytes()));
        self.labels.iter().for_each(|label| hasher.update(&label.to_le_bytes()));
        hasher.finalize()
    }

    /// Images `[batch, 784]` and labels `[batch]`.
    pub fn batch(&self, ids: &[u64]) -> candle_core::Result<(Tensor, Tensor)> {
        let x: Vec<f32> = ids.iter().flat_map(|id| self.pixels(*id)).copied().collect();
        let y: Vec<u32> = ids.iter().map(|id| self.labels[*id as usize]).collect();
        let x = Tensor::from_vec(x, (ids.len(), SIDE * SIDE), &Device::Cpu)?;
        Ok((x, Tensor::from_vec(y, ids.len(), &Device::Cpu)?))
    }
}
