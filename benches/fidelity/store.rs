//! How the numbers of a sketch are written down: the crate's encodings, and those that were tried beside them.

use gradlog::Encoding;
use half::bf16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Rows of a block, as the recorder closes them by default.
const BLOCK_ROWS: usize = 4096;

/// A way to store vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Store {
    /// As the crate does.
    Crate(Encoding),
    /// Whole numbers in `-levels..=levels` times a scale.
    Grid(Grid),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// 0 stands for signs alone, one bit.
    pub levels: u32,
    /// The step: the largest number's, or the one of least squared error, which clips the largest.
    pub clip: bool,
    /// The scale that is stored: the step, or the one that makes `⟨x̂, x⟩ = ‖x‖²`, so that dot products with an exact
    /// vector do not shrink.
    pub unbiased: bool,
    pub stochastic: bool,
    /// Numbers that share a scale; 0 for the whole vector.
    pub group: usize,
}

impl Grid {
    /// Up to `levels`, scaled by the largest number.
    pub const fn plain(levels: u32) -> Self {
        Self { levels, clip: false, unbiased: false, stochastic: false, group: 0 }
    }

    /// Up to `levels`, with the step of least squared error and a scale without bias.
    pub const fn fitted(levels: u32) -> Self {
        Self { clip: true, unbiased: true, ..Self::plain(levels) }
    }
}

/// Vectors as they come back, and what a visit's takes on disk.
pub struct Stored {
    pub rows: Vec<f32>,
    pub bytes: f64,
}

impl Store {
    /// Stores rows of `width` numbers; the bytes are those of the first `visits` rows, scales included.
    pub fn store(self, rows: &[f32], width: usize, visits: usize) -> Stored {
        match self {
            Self::Crate(encoding) => of_crate(encoding, rows, width, visits),
            Self::Grid(grid) => grid.store(rows, width, visits),
        }
    }
}

fn of_crate(encoding: Encoding, rows: &[f32], width: usize, visits: usize) -> Stored {
    let (mut codes, mut scales, mut back) = (Vec::new(), Vec::new(), vec![0f32; rows.len()]);
    for (row, back) in rows.chunks(width).zip(back.chunks_mut(width)) {
        let from = codes.len();
        let quantized = encoding.encode(row, &mut codes);
        encoding.decode(&codes[from..], quantized.scale, back);
        scales.extend(quantized.scale.to_le_bytes());
    }
    let bytes =
        column_bytes(&codes[..visits * encoding.bytes(width)], visits) + column_bytes(&scales[..2 * visits], visits);
    Stored { rows: back, bytes }
}

/// Bytes a visit of a column, compressed block by block as the log does it.
pub fn column_bytes(column: &[u8], visits: usize) -> f64 {
    let Ok(mut zstd) = zstd::bulk::Compressor::new(1) else {
        return f64::NAN;
    };
    let block = column.len() / visits * BLOCK_ROWS;
    let stored = |bytes: &[u8]| zstd.compress(bytes).map_or(bytes.len(), |c| c.len().min(bytes.len()));
    column.chunks(block.max(1)).map(stored).sum::<usize>() as f64 / visits as f64
}

impl Grid {
    fn store(self, rows: &[f32], width: usize, visits: usize) -> Stored {
        let group = if self.group == 0 { width } else { self.group };
        let mut rng = StdRng::seed_from_u64(1);
        let (mut back, mut scales) = (Vec::with_capacity(rows.len()), Vec::new());
        let mut codes: Vec<i8> = Vec::with_capacity(rows.len());
        for part in rows.chunks(width).flat_map(|row| row.chunks(group)) {
            let from = codes.len();
            let scale = self.encode(part, &mut codes, &mut rng);
            back.extend(codes[from..].iter().map(|c| f32::from(*c) * scale.to_f32()));
            scales.extend(scale.to_le_bytes());
        }
        // As many numbers to a byte as fit; zstd takes care of levels that are rare or not there.
        let signed = codes.iter().any(|c| *c < 0);
        let bits = match self.levels {
            0 => 1,
            1 => 2,
            2..=3 if !signed => 2,
            2..=7 => 4,
            8..=15 if !signed => 4,
            _ => 8,
        };
        let mut packed = Vec::new();
        for row in codes[..visits * width].chunks(width) {
            packed.extend(row.chunks(8 / bits).map(|chunk| {
                let place = |(k, c): (usize, &i8)| {
                    let code = if bits == 1 { u8::from(*c > 0) } else { *c as u8 };
                    (code & (0xFFu8 >> (8 - bits))) << (k * bits)
                };
                chunk.iter().enumerate().map(place).fold(0, |byte, code| byte | code)
            }));
        }
        let scale_bytes = &scales[..2 * visits * width.div_ceil(group)];
        Stored { rows: back, bytes: column_bytes(&packed, visits) + column_bytes(scale_bytes, visits) }
    }

    fn encode(self, values: &[f32], codes: &mut Vec<i8>, rng: &mut StdRng) -> bf16 {
        let largest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
        let levels = self.levels as f32;
        let from = codes.len();
        if self.levels == 0 {
            codes.extend(values.iter().map(|v| if *v < 0.0 { -1i8 } else { 1 }));
        } else {
            let step = if self.clip { best_step(values, largest, levels) } else { largest / levels };
            let step = if step > 0.0 { step } else { 1.0 };
            codes.extend(values.iter().map(|v| {
                let scaled = v / step;
                let nearest =
                    if self.stochastic { (scaled + rng.random::<f32>()).floor() } else { scaled.round_ties_even() };
                nearest.clamp(-levels, levels) as i8
            }));
            if !self.unbiased {
                return bf16::from_f32(step);
            }
        }
        let pairs = || codes[from..].iter().zip(values).map(|(c, v)| (f64::from(*c), f64::from(*v)));
        let (along, own): (f64, f64) = pairs().fold((0.0, 0.0), |(a, o), (c, v)| (a + c * v, o + v * v));
        bf16::from_f32(if along > 0.0 { (own / along) as f32 } else { 0.0 })
    }
}

/// The step whose rounding has the least squared error, among fractions of the largest number's.
fn best_step(values: &[f32], largest: f32, levels: f32) -> f32 {
    let error = |step: f32| -> f32 {
        values.iter().map(|v| v - (v / step).round_ties_even().clamp(-levels, levels) * step).map(|e| e * e).sum()
    };
    let mut best = (f32::INFINITY, 0.0);
    if largest > 0.0 {
        for part in 2..=20 {
            let step = largest / levels * part as f32 / 20.0;
            let error = error(step);
            if error < best.0 {
                best = (error, step);
            }
        }
    }
    best.1
}
