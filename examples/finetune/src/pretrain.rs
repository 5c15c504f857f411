//! Learns the words of the texts, without labels: which word is hidden here?

use crate::data::{Review, Vocabulary, FILL, LENGTH};
use crate::distilbert::{Config, DistilBertForMaskedLM};
use crate::model::{begin, MASK};
use crate::{support, BATCH};
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use gradlog::nn::{loss, Optimizer, VarBuilder, VarMap};
use gradlog::optim::AdamW;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The share of the words that is hidden.
const HIDDEN: f64 = 0.15;

/// Trains all variables, and returns the last loss per hidden word.
pub fn pretrain(
    variables: &VarMap,
    config: &Config,
    vocabulary: &Vocabulary,
    texts: &[Review],
    steps: usize,
    seed: u64,
) -> Result<f32> {
    let device = Device::Cpu;
    let model = DistilBertForMaskedLM::load(VarBuilder::from_varmap(variables, DType::F32, &device), config)?;
    support::seed_weights(variables, seed)?;
    let mut optimizer = AdamW::new_lr(variables.all_vars(), 2e-3)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut last = f32::NAN;
    let batches = (0..).flat_map(|epoch| support::batches(texts.len(), BATCH, seed, epoch));
    for ids in batches.take(steps) {
        let (x, _) = vocabulary.batch(texts, &ids, &device)?;
        let mut words: Vec<u32> = x.flatten_all()?.to_vec1()?;
        let (mut places, mut answers) = (Vec::new(), Vec::new());
        for (place, word) in words.iter_mut().enumerate() {
            if *word != FILL && rng.random_bool(HIDDEN) {
                // Each text has one more place before its words.
                places.push((place + place / LENGTH + 1) as u32);
                answers.push(std::mem::replace(word, (vocabulary.len() + MASK) as u32));
            }
        }
        if places.is_empty() {
            continue;
        }
        let (x, hidden) = begin(&Tensor::from_vec(words, x.shape(), &device)?, vocabulary.len())?;
        let logits = model.forward(&x, &hidden)?.flatten_to(1)?;
        let count = places.len();
        let logits = logits.index_select(&Tensor::from_vec(places, count, &device)?, 0)?;
        let loss = loss::cross_entropy(&logits, &Tensor::from_vec(answers, count, &device)?)?;
        optimizer.backward_step(&loss)?;
        last = loss.to_scalar()?;
    }
    Ok(last)
}
