//! Fine-tunes DistilBERT, by a model file of candle-transformers with swapped imports, on movie reviews. Some labels
//! are wrong on purpose. Then the log tells which labels are suspicious, and which sentences taught the model an
//! answer.
//!
//!     cargo run --release -p finetune -- --out /tmp/finetune
//!
//! A pretrained model would have to be downloaded. So this program first pretrains a small one, on the words of the
//! same sentences without their labels (masked language modeling, Devlin et al. 2019). The run is in `OUT/run`. An
//! example's id is its line in `examples/data/reviews`.

#[allow(dead_code)]
#[path = "../../text_classification/data.rs"]
mod data;
#[allow(dead_code)] // The file is as it was: not all of it is used here.
#[rustfmt::skip]
mod distilbert;
#[path = "../../text_classification/explain.rs"]
mod explain;
#[path = "../../support/extremes.rs"]
mod extremes;
mod model;
mod pretrain;
#[path = "../../support/mod.rs"]
mod support;
#[cfg(test)]
mod tests;

use anyhow::{bail, ensure, Result};
use candle_core::{DType, Device, Var};
use clap::Parser;
use data::{Review, Vocabulary};
use explain::Explained;
use gradlog::nn::{Optimizer, VarBuilder, VarMap};
use gradlog::optim::AdamW;
use gradlog::{Config, Recorder, Taps};
use model::Classifier;
use std::path::{Path, PathBuf};

const BATCH: usize = 16;
/// The rate of the first step of fine-tuning. It falls to zero linearly.
const LEARNING_RATE: f64 = 1e-3;
/// Number of texts that are held out.
const TEST: usize = 500;
/// Number of held-out texts that can be asked about.
const PROBES: usize = 100;
const PROBE_SET: &str = "test";
/// What is fine-tuned: all but what only pretraining uses.
const TRAINED: [&str; 2] = ["distilbert.", "classifier."];

#[derive(Parser)]
#[command(about = "Fine-tune DistilBERT with some wrong labels, record it, and explain it from the log")]
struct Arguments {
    /// Folder for the run
    #[arg(long, default_value = "runs/finetune")]
    out: PathBuf,
    /// Steps of pretraining, which is not recorded
    #[arg(long, default_value_t = 300)]
    pretrain: usize,
    /// Passes over the labeled texts
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Share of the training labels that is replaced by the other one
    #[arg(long, default_value_t = 0.1)]
    flip: f64,
    /// Seed of weights, order, masks, wrong labels and sketches
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Use only the first N training texts
    #[arg(long)]
    limit: Option<usize>,
    /// Held-out texts, by number, to explain at the end
    #[arg(long, num_args = 1.., default_values_t = [0, 1])]
    ask: Vec<u64>,
    /// First check on a few examples that the recorded gradients are each example's own
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!((0.0..=1.0).contains(&arguments.flip), "--flip must be a share between 0 and 1, not {}", arguments.flip);
    if let Some(number) = arguments.ask.iter().find(|number| **number >= PROBES as u64) {
        bail!("--ask {number}: the held-out texts are numbered 0 to {}", PROBES - 1);
    }
    let run = arguments.out.join("run");
    ensure!(!run.exists(), "{} exists: give another folder, or move it away", run.display());
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/reviews/reviews.tsv");
    let mut train = data::load(&data)?;
    let test = train.split_off(train.len() - TEST);
    train.truncate(arguments.limit.unwrap_or(usize::MAX));
    ensure!(!train.is_empty(), "--limit must be at least 1");
    let vocabulary = Vocabulary::of(&train);
    let config = model::config(vocabulary.len())?;
    let variables = VarMap::new();
    let loss = pretrain::pretrain(&variables, &config, &vocabulary, &train, arguments.pretrain, arguments.seed)?;
    println!("pretrained for {} steps: loss {loss:.2} per masked word", arguments.pretrain);

    let flipped = data::flip(&mut train, arguments.flip, arguments.seed);
    println!(
        "{} sentences to fine-tune on, {} of them with a wrong label on purpose; {} held out",
        train.len(),
        flipped.iter().filter(|flipped| **flipped).count(),
        test.len()
    );
    fine_tune(&arguments, &run, &variables, &config, &vocabulary, &train, &test)?;
    Explained { train: &train, flipped: &flipped, test: &test }.print(&run, &arguments.ask)
}

fn fine_tune(
    arguments: &Arguments,
    run: &Path,
    variables: &VarMap,
    config: &distilbert::Config,
    vocabulary: &Vocabulary,
    train: &[Review],
    test: &[Review],
) -> Result<()> {
    let device = Device::Cpu;
    let vb = VarBuilder::from_varmap(variables, DType::F32, &device);
    let (model, taps) = Taps::collect(|| Classifier::load(vb, config))?;
    let trained = trained_variables(variables);
    taps.trained(&trained);
    let mut optimizer = AdamW::new_lr(trained, LEARNING_RATE)?;
    let notes = vec![
        ("model".into(), format!("DistilBERT, {} words", vocabulary.len())),
        ("flipped".into(), arguments.flip.to_string()),
    ];
    let mut recorder = Recorder::create(run, &taps, Config { seed: arguments.seed, notes, ..Config::default() })?;
    if arguments.check {
        let ids: Vec<u64> = (0..train.len().min(8) as u64).collect();
        let (x, y) = vocabulary.batch(train, &ids, &device)?;
        let verdict = recorder.check_gradients(variables, &ids, |pass, rows| {
            pass.cross_entropy(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })?;
        println!("{verdict}\n");
        ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }
    let (mut step, steps) = (0, arguments.epochs as usize * train.len().div_ceil(BATCH));
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        probe(&mut recorder, &model, vocabulary, test)?;
        for ids in support::batches(train.len(), BATCH, arguments.seed, epoch) {
            optimizer.set_learning_rate(LEARNING_RATE * (1.0 - step as f64 / steps as f64));
            let (x, y) = vocabulary.batch(train, &ids, &device)?;
            let mut pass = recorder.pass(&ids)?;
            let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
            pass.backward_step(&mut optimizer, &loss)?;
            step += 1;
        }
    }
    probe(&mut recorder, &model, vocabulary, test)?;
    let ids: Vec<u64> = (0..test.len() as u64).collect();
    let (x, y) = vocabulary.batch(test, &ids, &device)?;
    let right = model.forward(&x)?.argmax(1)?.eq(&y)?.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    println!("accuracy on held-out sentences: {:.1} %", 100.0 * right);
    println!("recorded {}\n", recorder.finish()?);
    Ok(())
}

fn trained_variables(variables: &VarMap) -> Vec<Var> {
    let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut named: Vec<_> = data.iter().filter(|(name, _)| TRAINED.iter().any(|part| name.starts_with(part))).collect();
    named.sort_by_key(|(name, _)| name.as_str());
    named.into_iter().map(|(_, variable)| variable.clone()).collect()
}

/// Records the first held-out sentences as probes, to measure the influence of the steps after it.
fn probe(recorder: &mut Recorder, model: &Classifier, vocabulary: &Vocabulary, test: &[Review]) -> Result<()> {
    let ids: Vec<u64> = (0..PROBES as u64).collect();
    for ids in ids.chunks(BATCH) {
        let (x, y) = vocabulary.batch(test, ids, &Device::Cpu)?;
        let mut pass = recorder.probe(PROBE_SET, ids)?;
        pass.cross_entropy(&model.forward(&x)?, &y)?.backward()?;
        pass.commit()?;
    }
    Ok(())
}
