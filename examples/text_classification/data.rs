//! Short texts with a label, as numbers of words.

use anyhow::{ensure, Context, Result};
use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::SeedableRng;
use std::collections::HashMap;
use std::path::Path;

/// Number of words of a text that the model reads. Shorter texts are filled up.
pub const LENGTH: usize = 40;
/// Words seen less often than this share one number.
const RARE: usize = 2;
/// The numbers of what fills up a text, and of rare words.
pub const FILL: u32 = 0;
const UNKNOWN: u32 = 1;

/// A text and what its label says: 1 for praise, 0 for blame.
#[derive(Clone)]
pub struct Review {
    pub text: String,
    pub label: u32,
}

/// Reads lines of label, tab, text.
pub fn load(path: &Path) -> Result<Vec<Review>> {
    let lines = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let parse = |line: &str| {
        let (label, text) = line.split_once('\t').context("a line without a tab")?;
        let label = label.parse().context("a label that is no number")?;
        ensure!(label < 2, "label {label} is neither 0 nor 1");
        Ok(Review { text: text.to_owned(), label })
    };
    lines.lines().map(parse).collect()
}

/// Gives a share of the reviews the other label, and says which.
pub fn flip(reviews: &mut [Review], share: f64, seed: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..reviews.len()).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed ^ 0xF11B));
    let mut flipped = vec![false; reviews.len()];
    for &place in &order[..(share * reviews.len() as f64).round() as usize] {
        reviews[place].label = 1 - reviews[place].label;
        flipped[place] = true;
    }
    flipped
}

/// The words of the training texts and their numbers.
pub struct Vocabulary(HashMap<String, u32>);

impl Vocabulary {
    pub fn of(reviews: &[Review]) -> Self {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for word in reviews.iter().flat_map(|review| words(&review.text)) {
            *counts.entry(word).or_default() += 1;
        }
        let mut known: Vec<String> = counts.into_iter().filter(|(_, n)| *n >= RARE).map(|(word, _)| word).collect();
        known.sort_unstable();
        Self(known.into_iter().zip(UNKNOWN + 1..).collect())
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.0.len() + UNKNOWN as usize + 1
    }

    /// Word numbers `[batch, LENGTH]` and labels `[batch]` of the reviews `ids`.
    pub fn batch(&self, reviews: &[Review], ids: &[u64], device: &Device) -> Result<(Tensor, Tensor)> {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for id in ids {
            let review = &reviews[*id as usize];
            let numbers = words(&review.text).map(|word| self.0.get(&word).copied().unwrap_or(UNKNOWN));
            x.extend(numbers.chain(std::iter::repeat(FILL)).take(LENGTH));
            y.push(review.label);
        }
        Ok((Tensor::from_vec(x, (ids.len(), LENGTH), device)?, Tensor::from_vec(y, ids.len(), device)?))
    }
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let apart = |c: char| !c.is_ascii_alphanumeric() && c != '\'';
    text.split(apart).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase)
}
