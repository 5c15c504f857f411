//! The text, cut into passages of equal length. Some are scrambled on purpose.

use anyhow::{ensure, Context, Result};
use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::SeedableRng;
use std::path::Path;

/// Number of characters that a passage predicts, each from those before it.
pub const LENGTH: usize = 64;

/// A text and its alphabet.
pub struct Text {
    /// One byte a character: the text is plain ASCII.
    bytes: Vec<u8>,
    /// Where each book begins.
    books: Vec<(usize, String)>,
    alphabet: Vec<u8>,
}

/// A stretch of the text: `LENGTH + 1` characters. The first one only helps to predict the second.
#[derive(Clone)]
pub struct Passage {
    pub bytes: Vec<u8>,
    /// Its offset in the text.
    pub start: usize,
}

impl Text {
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(bytes.is_ascii(), "{} is not plain ASCII", path.display());
        let mut alphabet = bytes.clone();
        alphabet.sort_unstable();
        alphabet.dedup();
        let (mut books, mut start) = (Vec::new(), 0);
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            if line.starts_with(b"Book ") {
                books.push((start, String::from_utf8_lossy(line).trim().to_owned()));
            }
            start += line.len();
        }
        ensure!(books.len() > 1, "{} has no books to hold one out", path.display());
        Ok(Self { bytes, books, alphabet })
    }

    pub fn alphabet(&self) -> usize {
        self.alphabet.len()
    }

    /// The passages of all books but the last, and those of the last.
    pub fn split(&self) -> (Vec<Passage>, Vec<Passage>) {
        let last = self.books.last().map_or(0, |(start, _)| *start);
        (self.passages(0, last), self.passages(last, self.bytes.len()))
    }

    fn passages(&self, start: usize, end: usize) -> Vec<Passage> {
        let starts = (start..end).step_by(LENGTH).take_while(|start| start + LENGTH < end);
        starts.map(|start| Passage { bytes: self.bytes[start..=start + LENGTH].to_vec(), start }).collect()
    }

    /// The book that a passage begins in, and its line in that book.
    pub fn locate(&self, passage: &Passage) -> String {
        let Some((start, book)) = self.books.iter().rev().find(|(start, _)| *start <= passage.start) else {
            return "before the first book".into();
        };
        let line = self.bytes[*start..passage.start].iter().filter(|b| **b == b'\n').count();
        format!("{book}, {line}")
    }

    /// Character numbers of the passages and of what follows each character, both `[batch, LENGTH]`.
    pub fn batch<'p>(&self, passages: impl Iterator<Item = &'p Passage>, device: &Device) -> Result<(Tensor, Tensor)> {
        let number = |byte: &u8| self.alphabet.binary_search(byte).map_or(0, |n| n as u32);
        let (mut x, mut y, mut batch) = (Vec::new(), Vec::new(), 0);
        for passage in passages {
            x.extend(passage.bytes[..LENGTH].iter().map(number));
            y.extend(passage.bytes[1..].iter().map(number));
            batch += 1;
        }
        Ok((Tensor::from_vec(x, (batch, LENGTH), device)?, Tensor::from_vec(y, (batch, LENGTH), device)?))
    }
}

impl Passage {
    /// The passage in one line, as it can be printed.
    pub fn to_line(&self) -> String {
        String::from_utf8_lossy(&self.bytes).replace('\n', "/")
    }

    /// Shuffles the letters of each word. Spaces, punctuation and the lengths of words stay.
    fn scramble(&mut self, rng: &mut StdRng) {
        for word in self.bytes.chunk_by_mut(|a, b| a.is_ascii_alphabetic() && b.is_ascii_alphabetic()) {
            word.shuffle(rng);
        }
    }
}

/// Scrambles a share of the passages, chosen at random. Returns a flag for each passage.
pub fn scramble(passages: &mut [Passage], share: f64, seed: u64) -> Vec<bool> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5C4A);
    let mut order: Vec<usize> = (0..passages.len()).collect();
    order.shuffle(&mut rng);
    let mut scrambled = vec![false; passages.len()];
    for &place in &order[..(share * passages.len() as f64).round() as usize] {
        passages[place].scramble(&mut rng);
        scrambled[place] = true;
    }
    scrambled
}
