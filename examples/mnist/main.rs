//! Trains a CNN on handwritten digits, with every layer recorded. Some labels are wrong on purpose. Then it explains
//! the run from its log alone, without the model and without another pass over the data.
//!
//!     cargo run --release --example mnist -- --out /tmp/digits
//!
//! The run is in `OUT/run`, the list of wrong labels in `OUT/flipped.csv`. With `--data DIR` it trains on any folder of
//! idx files, gzipped or not: MNIST, or Fashion-MNIST (Debian's `dataset-fashion-mnist` puts it in
//! /usr/share/datasets/fashion-mnist).
//!
//! With `--verdicts FILE` it trains without and with what was judged in the page of `gradlog report`, and compares.

mod data;
mod explain;
mod model;
#[path = "../support/progress.rs"]
mod progress;
#[path = "../support/mod.rs"]
mod support;
mod verdicts;

use anyhow::{bail, Context, Result};
use candle_core::{Device, Tensor};
use candle_nn::{Optimizer, VarBuilder, VarMap, SGD};
use clap::{Parser, ValueEnum};
use data::{Digits, TO_ANOTHER};
use gradlog::{Config, Recorder, StepReport, Taps};
use model::Cnn;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// candle allocates a new tensor for every result. glibc returns large ones to the system each time and pays for every
/// page again. This allocator keeps them, which shortens a step by about a third, recorded or not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;
/// The rate of the first step. It falls to zero along half a cosine.
const LEARNING_RATE: f64 = 0.1;

#[derive(Parser)]
#[command(about = "Train a CNN on digits with some wrong labels, record it, and explain it from the log")]
struct Arguments {
    /// Folder for the run and for flipped.csv
    #[arg(long, default_value = "runs/mnist")]
    out: PathBuf,
    /// Passes over the training images
    #[arg(long, default_value_t = 6)]
    epochs: u32,
    /// Share of the training labels that is replaced by a wrong one
    #[arg(long, default_value_t = 0.1)]
    flip: f64,
    /// Seed of weights, order, sketches and, without --flip-seed, of the wrong labels
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Seed of the wrong labels alone: several runs with one --flip-seed have the same training set
    #[arg(long)]
    flip_seed: Option<u64>,
    /// Use only the first N training images
    #[arg(long)]
    limit: Option<usize>,
    /// How much is recorded
    #[arg(long, value_enum, default_value = "all")]
    depth: Depth,
    /// Folder of idx files, gzipped or not, instead of the 6,000 digits that come with gradlog
    #[arg(long)]
    data: Option<PathBuf>,
    /// Compare trainings without and with the verdicts of this file, which the page of `gradlog report` saves. The
    /// other options are those of the run that was judged; the runs are OUT/without-verdicts and OUT/with-verdicts
    #[arg(long, value_name = "FILE")]
    verdicts: Option<PathBuf>,
    /// First check on a few examples that the recorded gradients are each example's own
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Depth {
    /// Losses and predictions
    Outputs,
    /// Losses, predictions, and the gradients of the last layer
    Last,
    /// Losses, predictions, and the gradients of all layers
    All,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !(0.0..=1.0).contains(&arguments.flip) {
        bail!("--flip must be a share between 0 and 1, not {}", arguments.flip);
    }
    let folder =
        arguments.data.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/mnist"));
    let mut train = Digits::load(&folder, "train").context("the training images")?;
    let test = Digits::load(&folder, "t10k").context("the test images")?;
    train.truncate(arguments.limit.unwrap_or(usize::MAX));
    if train.is_empty() || test.is_empty() {
        bail!("there are no images to train on: check --data and --limit");
    }
    let truth = train.labels.clone();
    train.flip(arguments.flip, TO_ANOTHER, arguments.flip_seed.unwrap_or(arguments.seed));
    let flipped = truth.iter().zip(&train.labels).filter(|(t, g)| t != g).count();
    println!(
        "{} training images, {flipped} of them with a wrong label on purpose; {} test images",
        train.len(),
        test.len()
    );

    let run = arguments.out.join("run");
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("making {}", arguments.out.display()))?;
    if let Some(file) = &arguments.verdicts {
        return verdicts::compare(&arguments, file, &truth, &train, &test);
    }
    let train = TrainingSet::all(train);
    train_and_record(&arguments, &run, &train, &test)?;
    let train = train.digits;
    data::write_flipped(&arguments.out.join("flipped.csv"), &truth, &train.labels)?;

    // From here on: the log, and the true labels to check the answers.
    explain::explain((&run, &folder), &truth, &train, &test, arguments.depth != Depth::Outputs)
}

/// Images, and which of them to train on.
struct TrainingSet {
    digits: Digits,
    ids: Vec<u64>,
}

impl TrainingSet {
    fn all(digits: Digits) -> Self {
        Self { ids: (0..digits.len() as u64).collect(), digits }
    }

    /// The ids in batches, in the order of `epoch`.
    fn batches(&self, seed: u64, epoch: u32) -> Vec<Vec<u64>> {
        let mut batches = support::batches(self.ids.len(), BATCH, seed, epoch);
        batches.iter_mut().flatten().for_each(|place| *place = self.ids[*place as usize]);
        batches
    }
}

/// Returns for each test image whether the trained model is right on it.
fn train_and_record(arguments: &Arguments, run: &Path, set: &TrainingSet, test: &Digits) -> Result<Vec<bool>> {
    let train = &set.digits;
    let device = Device::Cpu;
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, candle_core::DType::F32, &device);
    let (model, taps) = Taps::collect(|| Cnn::new(vb))?;
    support::seed_weights(&variables, arguments.seed)?;
    let mut optimizer = SGD::new(variables.all_vars(), LEARNING_RATE)?;

    // The recorder gets only the taps to record. At the lower depths the model's own taps stay unarmed and are only
    // faster layers.
    let recorded = match arguments.depth {
        Depth::All => taps,
        Depth::Outputs => Taps::new(),
        Depth::Last => {
            let last = Taps::new();
            last.declare_last_layer("fc2", gradlog::taps::LastLayer::new(model::FEATURES, model::CLASSES));
            last
        }
    };
    recorded.declare_model(&variables);
    let notes = vec![
        ("model".into(), "conv32-conv64-pool-fc128-fc10".into()),
        ("optimizer".into(), format!("SGD, learning rate {LEARNING_RATE} with cosine decay, batch {BATCH}")),
        ("flipped".into(), arguments.flip.to_string()),
    ];
    let config = Config { seed: arguments.seed, notes, ..Config::default() };
    let mut recorder = Recorder::create(run, &recorded, config)?;
    let cost = recorder.cost();
    let total = cost.total_bytes(set.ids.len() as u64, u64::from(arguments.epochs)) as f64 / 1e6;
    println!("recording: {cost}, {total:.1} MB for the training visits of this run\n");

    if arguments.check {
        let ids: Vec<u64> = set.ids.iter().take(8).copied().collect();
        let (x, y) = train.batch(&ids, &device)?;
        let verdict = recorder.check_gradients(&variables, &ids, |pass, rows| {
            let (features, logits) = model.forward(&rows.of(&x)?)?;
            if arguments.depth == Depth::Last {
                pass.features(&features);
            }
            pass.cross_entropy(&logits, &rows.of(&y)?)
        })?;
        println!("{verdict}\n");
        anyhow::ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }

    let start = Instant::now();
    let steps = u64::from(arguments.epochs) * set.ids.len().div_ceil(BATCH) as u64;
    let mut step = 0u64;
    let mut line = progress::ProgressLine::new();
    let test_batches: Vec<Vec<u64>> =
        (0..test.len() as u64).collect::<Vec<_>>().chunks(BATCH).map(<[u64]>::to_vec).collect();
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        // The test images are the probes. They are recorded before each epoch, to measure the influence of its steps.
        let right = probe(&mut recorder, (&model, arguments.depth), test, &test_batches, &device)?;
        let mut loss_sum = 0.0;
        for ids in set.batches(arguments.seed, epoch) {
            let progress = step as f64 / steps as f64;
            optimizer.set_learning_rate(LEARNING_RATE * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()));
            step += 1;
            let (x, y) = train.batch(&ids, &device)?;
            let mut pass = recorder.pass(&ids)?;
            let (features, logits) = model.forward(&x)?;
            if arguments.depth == Depth::Last {
                pass.features(&features);
            }
            let loss = pass.cross_entropy(&logits, &y)?;
            let grads = loss.backward()?;
            pass.commit(optimizer.step_info())?;
            optimizer.step(&grads)?;
            let loss = loss.to_scalar::<f32>()?;
            loss_sum += f64::from(loss) * ids.len() as f64;
            line.show(step, steps, loss);
        }
        line.clear();
        println!(
            "epoch {epoch}: test accuracy before it {:.1} %, mean training loss in it {:.3}, {:.0} s so far",
            100.0 * share(&right),
            loss_sum / set.ids.len() as f64,
            start.elapsed().as_secs_f64()
        );
    }
    let right = probe(&mut recorder, (&model, arguments.depth), test, &test_batches, &device)?;
    let summary = recorder.finish()?;
    println!("\ntest accuracy after the last epoch: {:.1} %", 100.0 * share(&right));
    println!("recorded {summary}\n");
    Ok(right)
}

fn share(right: &[bool]) -> f64 {
    right.iter().filter(|right| **right).count() as f64 / right.len() as f64
}

/// Records the test images as the probe set `test`. Returns whether the model is right on each.
fn probe(
    recorder: &mut Recorder,
    (model, depth): (&Cnn, Depth),
    test: &Digits,
    batches: &[Vec<u64>],
    device: &Device,
) -> Result<Vec<bool>> {
    let mut right = Vec::with_capacity(test.len());
    for ids in batches {
        let (x, y) = test.batch(ids, device)?;
        let mut pass = recorder.probe("test", ids)?;
        let (features, logits) = model.forward(&x)?;
        if depth == Depth::Last {
            pass.features(&features);
        }
        let loss = pass.cross_entropy(&logits, &y)?;
        loss.backward()?;
        pass.commit()?;
        right.extend(correct(&logits, &y)?);
    }
    Ok(right)
}

fn correct(logits: &Tensor, y: &Tensor) -> Result<Vec<bool>> {
    Ok(logits.argmax(1)?.eq(y)?.to_vec1::<u8>()?.into_iter().map(|right| right == 1).collect())
}
