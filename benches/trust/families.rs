//! Inputs and output gradients of a layer, as models make them.

use anyhow::{Context, Result};
use half::bf16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::path::Path;

pub const VISITS: usize = 240;
pub const PROBES: usize = 24;
/// Groups whose examples are alike.
const GROUPS: usize = 12;

/// What the interesting side of a layer looks like; the other side has 8 or 16 normal numbers.
#[derive(Debug, Clone, Copy)]
pub enum Family {
    /// Inputs, 768 numbers.
    Uniform,
    HalfNormal,
    Relu,
    Exponential,
    Lognormal,
    Counts,
    /// One hidden unit with so many times the root mean square, the same for all examples.
    MassiveUnit(f32),
    /// The same with another unit for each example.
    Outlier(f32),
    /// Activations in bf16, of which four channels are massive.
    MassiveBf16,
    OneHot,
    /// Words of the lines of a poem, of so many.
    BagOfWords(usize),
    /// Output gradients `p − onehot(y)` of so many classes.
    Classes(usize),
}

/// `[VISITS + PROBES]` rows of inputs and of output gradients.
pub struct Sides {
    pub inputs: Vec<Vec<f32>>,
    pub deltas: Vec<Vec<f32>>,
}

impl Family {
    pub fn all() -> Vec<Self> {
        use Family::*;
        let mut all = vec![Uniform, HalfNormal, Relu, Exponential, Lognormal, Counts];
        all.extend([5.0, 26.0, 100.0].map(MassiveUnit));
        all.extend([5.0, 26.0, 100.0].map(Outlier));
        all.extend([MassiveBf16, OneHot, BagOfWords(1_000), BagOfWords(4_000)]);
        all.extend([10, 200, 1_000, 30_000].map(Classes));
        all
    }

    pub fn name(self) -> String {
        match self {
            Family::Uniform => "uniform".into(),
            Family::HalfNormal => "half-normal".into(),
            Family::Relu => "ReLU of normal".into(),
            Family::Exponential => "exponential".into(),
            Family::Lognormal => "lognormal".into(),
            Family::Counts => "counts".into(),
            Family::MassiveUnit(times) => format!("one unit of {times} rms"),
            Family::Outlier(times) => format!("an outlier of {times} rms"),
            Family::MassiveBf16 => "bf16, massive channels".into(),
            Family::OneHot => "one-hot".into(),
            Family::BagOfWords(words) => format!("bag of {words} words"),
            Family::Classes(classes) => format!("softmax of {classes} classes"),
        }
    }

    pub fn classes(self) -> Option<usize> {
        match self {
            Family::Classes(classes) => Some(classes),
            _ => None,
        }
    }

    pub fn draw(self) -> Result<Sides> {
        let mut rng = StdRng::seed_from_u64(17);
        let count = VISITS + PROBES;
        if let Family::Classes(classes) = self {
            let inputs = alike(&mut rng, count, 16, |z| z);
            let logits = alike(&mut rng, count, classes, |z| 1.5 * z);
            let deltas = logits.into_iter().map(|logits| residual(logits, &mut rng)).collect();
            return Ok(Sides { inputs, deltas });
        }
        let deltas = alike(&mut rng, count, 8, |z| z);
        let width = 768;
        let inputs = match self {
            Family::BagOfWords(words) => bags(words, count)?,
            Family::OneHot => (0..count).map(|_| one_hot(rng.random_range(0..64usize) * 12, width)).collect(),
            Family::Uniform => alike(&mut rng, count, width, |z| 1.0 / (1.0 + (-1.7 * z).exp())),
            Family::HalfNormal => alike(&mut rng, count, width, f32::abs),
            Family::Exponential => alike(&mut rng, count, width, |z| (1.0 + (1.7 * z).exp()).ln()),
            Family::Lognormal => alike(&mut rng, count, width, |z| (1.5 * z).exp()),
            Family::Counts => alike(&mut rng, count, width, |z| (0.8 * z).exp().floor()),
            _ => alike(&mut rng, count, width, |z| z.max(0.0)),
        };
        let mut massive = |inputs: Vec<Vec<f32>>, times: f32, place: &dyn Fn(&mut StdRng) -> usize| {
            let enlarge = |mut row: Vec<f32>| {
                let rms = (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32).sqrt();
                let place = place(&mut rng);
                row[place] = times * rms * (1.0 + 0.1 * normal(&mut rng));
                row
            };
            inputs.into_iter().map(enlarge).collect::<Vec<_>>()
        };
        let inputs = match self {
            Family::MassiveUnit(times) => massive(inputs, times, &|_| 17),
            Family::Outlier(times) => massive(inputs, times, &|rng| rng.random_range(0..width)),
            Family::MassiveBf16 => {
                let mut rows = inputs;
                for channel in [5, 200, 431, 700] {
                    rows = massive(rows, 30.0, &|_| channel);
                }
                let round = |row: Vec<f32>| row.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
                rows.into_iter().map(round).collect()
            }
            _ => inputs,
        };
        Ok(Sides { inputs, deltas })
    }
}

fn normal(rng: &mut StdRng) -> f32 {
    let (u, v): (f32, f32) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// Rows of normal numbers, alike within a group, after `f`.
fn alike(rng: &mut StdRng, count: usize, width: usize, f: impl Fn(f32) -> f32) -> Vec<Vec<f32>> {
    let groups: Vec<Vec<f32>> = (0..GROUPS).map(|_| (0..width).map(|_| normal(rng)).collect()).collect();
    let row = |number: usize| groups[number % GROUPS].iter().map(|z| f(0.6 * z + 0.8 * normal(rng))).collect();
    (0..count).map(row).collect()
}

/// `p − onehot(y)`: the label is likely, and most examples are learned to some degree.
fn residual(mut logits: Vec<f32>, rng: &mut StdRng) -> Vec<f32> {
    let classes = logits.len();
    let label = rng.random_range(0..classes.min(40));
    logits[label] += (classes as f32).ln() * rng.random::<f32>();
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let mut p: Vec<f32> = logits.iter().map(|z| (z - largest).exp()).collect();
    let sum: f32 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    p[label] -= 1.0;
    p
}

fn one_hot(place: usize, width: usize) -> Vec<f32> {
    let mut row = vec![0.0; width];
    row[place] = 1.0;
    row
}

/// Counts of the most frequent words in stretches of four lines.
fn bags(words: usize, count: usize) -> Result<Vec<Vec<f32>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/text/paradise-lost.txt");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?.to_lowercase();
    let split = |part: &str| -> Vec<String> {
        part.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let mut counts: HashMap<String, usize> = HashMap::new();
    split(&text).into_iter().for_each(|word| *counts.entry(word).or_default() += 1);
    let mut ranked: Vec<(String, usize)> = counts.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let place: HashMap<String, usize> = ranked.into_iter().take(words).map(|(word, _)| word).zip(0..).collect();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let bag = |lines: &[&str]| {
        let mut row = vec![0f32; words];
        lines.iter().flat_map(|line| split(line)).filter_map(|word| place.get(&word)).for_each(|at| row[*at] += 1.0);
        row
    };
    Ok(lines.chunks(4).take(count).map(bag).collect())
}
