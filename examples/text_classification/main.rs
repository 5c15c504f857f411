//! Learns whether a sentence of a movie review praises or blames, with every layer recorded. Some labels are wrong on
//! purpose. Then the log tells which labels are suspicious, and which sentences taught the model an answer.
//!
//!     cargo run --release --example text_classification -- --out /tmp/reviews
//!
//! The run is in `OUT/run`. An example's id is its line in the data. The run holds the sentences as well.

mod data;
mod explain;
#[path = "../support/extremes.rs"]
mod extremes;
mod model;
#[path = "../support/mod.rs"]
mod support;

use anyhow::{bail, ensure, Result};
use candle_core::{DType, Device, Module};
use clap::Parser;
use data::{Review, Vocabulary};
use explain::Explained;
use gradlog::nn::{Optimizer, VarBuilder, VarMap, SGD};
use gradlog::{Card, Config, Recorder, Taps};
use model::TextCnn;
use std::path::{Path, PathBuf};

const BATCH: usize = 16;
/// The rate of the first step. It falls to zero linearly.
const LEARNING_RATE: f64 = 0.3;
/// Number of texts that are held out.
const TEST: usize = 500;
/// Number of held-out texts that can be asked about.
const PROBES: usize = 100;
const PROBE_SET: &str = "test";

#[derive(Parser)]
#[command(about = "Train a text classifier with some wrong labels, record it, and explain it from the log")]
struct Arguments {
    /// Folder for the run
    #[arg(long, default_value = "runs/text_classification")]
    out: PathBuf,
    /// Passes over the training texts
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Share of the training labels that is replaced by the other one
    #[arg(long, default_value_t = 0.1)]
    flip: f64,
    /// Seed of weights, order, wrong labels and sketches
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
    let mut train = data::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/reviews/reviews.tsv"))?;
    let test = train.split_off(train.len() - TEST);
    train.truncate(arguments.limit.unwrap_or(usize::MAX));
    ensure!(!train.is_empty(), "--limit must be at least 1");
    let flipped = data::flip(&mut train, arguments.flip, arguments.seed);
    println!(
        "{} sentences to train on, {} of them with a wrong label on purpose; {} held out",
        train.len(),
        flipped.iter().filter(|flipped| **flipped).count(),
        test.len()
    );
    let run = arguments.out.join("run");
    train_and_record(&arguments, &run, &train, &test)?;
    Explained { train: &train, flipped: &flipped, test: &test }.print(&run, &arguments.ask)?;

    println!("\nLook at it in a browser:");
    println!("    gradlog report {} --out {}", run.display(), arguments.out.join("report.html").display());
    Ok(())
}

fn train_and_record(arguments: &Arguments, run: &Path, train: &[Review], test: &[Review]) -> Result<()> {
    let (device, vocabulary, variables) = (Device::Cpu, Vocabulary::of(train), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let (model, taps) = Taps::collect(|| TextCnn::new(vocabulary.len(), vb))?;
    taps.declare_model(&variables);
    support::seed_weights(&variables, arguments.seed)?;
    let mut optimizer = SGD::new(variables.all_vars(), LEARNING_RATE)?;
    let notes = vec![
        ("model".into(), format!("CNN over {} words, {} filters", vocabulary.len(), model::FILTERS)),
        ("flipped".into(), arguments.flip.to_string()),
    ];
    let mut recorder = Recorder::create(run, &taps, Config { seed: arguments.seed, notes, ..Config::default() })?;
    if arguments.check {
        let ids: Vec<u64> = (0..train.len().min(8) as u64).collect();
        let (x, y) = vocabulary.batch(train, &ids, &device)?;
        let verdict = recorder.check_gradients(&variables, &ids, |pass, rows| {
            pass.cross_entropy(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })?;
        println!("{verdict}\n");
        ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }
    // The run holds the sentences, so that its page needs no other file.
    for (id, review) in train.iter().enumerate() {
        recorder.describe(id as u64, Card::Text(review.text.clone()))?;
    }
    for (id, review) in test.iter().enumerate().take(PROBES) {
        recorder.describe_probe(PROBE_SET, id as u64, Card::Text(review.text.clone()))?;
    }
    let (mut step, steps) = (0, arguments.epochs as usize * train.len().div_ceil(BATCH));
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        probe(&mut recorder, &model, &vocabulary, test, &device)?;
        for ids in support::batches(train.len(), BATCH, arguments.seed, epoch) {
            optimizer.set_learning_rate(LEARNING_RATE * (1.0 - step as f64 / steps as f64));
            let (x, y) = vocabulary.batch(train, &ids, &device)?;
            let mut pass = recorder.pass(&ids)?;
            let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
            pass.backward_step(&mut optimizer, &loss)?;
            step += 1;
        }
    }
    probe(&mut recorder, &model, &vocabulary, test, &device)?;
    let ids: Vec<u64> = (0..test.len() as u64).collect();
    let (x, y) = vocabulary.batch(test, &ids, &device)?;
    let right = model.forward(&x)?.argmax(1)?.eq(&y)?.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    println!("accuracy on held-out sentences: {:.1} %", 100.0 * right);
    println!("recorded {}\n", recorder.finish()?);
    Ok(())
}

/// Records the first held-out sentences as probes, to measure the influence of the steps after it.
fn probe(
    recorder: &mut Recorder,
    model: &TextCnn,
    vocabulary: &Vocabulary,
    test: &[Review],
    device: &Device,
) -> Result<()> {
    let ids: Vec<u64> = (0..PROBES as u64).collect();
    for ids in ids.chunks(BATCH) {
        let (x, y) = vocabulary.batch(test, ids, device)?;
        let mut pass = recorder.probe(PROBE_SET, ids)?;
        pass.cross_entropy(&model.forward(&x)?, &y)?.backward()?;
        pass.commit()?;
    }
    Ok(())
}
