//! Trains a small transformer on the characters of *Paradise Lost*, with every layer recorded. Some passages are
//! scrambled. Then the log tells which passages are odd, and which ones taught the model to read a passage it has never
//! seen.
//!
//!     cargo run --release --example char_lm -- --out /tmp/milton
//!
//! A training example is a passage of 64 characters; its id is its number. The twelfth book is held out. The optimizer
//! is plain SGD, because TracIn is defined for it. The run is in `OUT/run`.

mod explain;
#[path = "../support/extremes.rs"]
mod extremes;
mod model;
#[path = "../support/mod.rs"]
mod support;
mod text;

use anyhow::{bail, ensure, Result};
use candle_core::{DType, Device};
use candle_nn::{Optimizer, VarBuilder, VarMap, SGD};
use clap::Parser;
use explain::Explained;
use gradlog::{Config, Recorder, StepReport, Taps};
use model::Transformer;
use std::path::{Path, PathBuf};
use std::time::Instant;
use text::{Passage, Text, LENGTH};

/// Small, because many small steps of plain SGD get further than few large ones.
const BATCH: usize = 8;
/// The rate of the first step. It falls to zero linearly.
const LEARNING_RATE: f64 = 0.7;
/// Number of held-out passages to ask about.
const PROBES: usize = 64;
const PROBE_SET: &str = "held-out";

#[derive(Parser)]
#[command(
    about = "Train a transformer on Paradise Lost with some passages scrambled, record it, and explain it from the log"
)]
struct Arguments {
    /// Folder for the run
    #[arg(long, default_value = "runs/char_lm")]
    out: PathBuf,
    /// Passes over the training passages
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Share of the training passages whose words are scrambled
    #[arg(long, default_value_t = 0.03)]
    scramble: f64,
    /// Seed of weights, order, scrambled passages and sketches
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Use only the first N training passages
    #[arg(long)]
    limit: Option<usize>,
    /// Held-out passages, by number, to explain at the end
    #[arg(long, num_args = 1.., default_values_t = [0, 8])]
    ask: Vec<u64>,
    /// First check on a few examples that the recorded gradients are each example's own
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        (0.0..=1.0).contains(&arguments.scramble),
        "--scramble must be a share between 0 and 1, not {}",
        arguments.scramble
    );
    let text = Text::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/text/paradise-lost.txt"))?;
    let (mut train, mut test) = text.split();
    train.truncate(arguments.limit.unwrap_or(usize::MAX));
    ensure!(!train.is_empty(), "--limit must be at least 1");
    test.truncate(PROBES);
    if let Some(number) = arguments.ask.iter().find(|number| **number >= test.len() as u64) {
        bail!("--ask {number}: the held-out passages are numbered 0 to {}", test.len() - 1);
    }
    let scrambled = text::scramble(&mut train, arguments.scramble, arguments.seed);
    println!(
        "{} passages of {LENGTH} characters to train on, {} of them scrambled on purpose; {} held out",
        train.len(),
        scrambled.iter().filter(|s| **s).count(),
        test.len()
    );
    let run = arguments.out.join("run");
    train_and_record(&arguments, &run, &text, &train, &test)?;
    Explained { text: &text, train: &train, scrambled: &scrambled, test: &test }.print(&run, &arguments.ask)
}

fn train_and_record(arguments: &Arguments, run: &Path, text: &Text, train: &[Passage], test: &[Passage]) -> Result<()> {
    let device = Device::Cpu;
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let (model, taps) = Taps::collect(|| Transformer::new(text.alphabet(), LENGTH, vb))?;
    support::seed_weights(&variables, arguments.seed)?;
    let mut optimizer = SGD::new(variables.all_vars(), LEARNING_RATE)?;
    taps.declare_model(&variables);

    let notes = vec![
        ("model".into(), format!("transformer, {} blocks of width {}", model::BLOCKS, model::WIDTH)),
        ("optimizer".into(), format!("SGD, learning rate {LEARNING_RATE} falling to 0, batch {BATCH}")),
        ("scrambled".into(), arguments.scramble.to_string()),
    ];
    let mut recorder = Recorder::create(run, &taps, Config { seed: arguments.seed, notes, ..Config::default() })?;

    if arguments.check {
        let ids: Vec<u64> = (0..train.len().min(4) as u64).collect();
        let (x, y) = text.batch(ids.iter().map(|id| &train[*id as usize]), &device)?;
        let verdict = recorder.check_gradients(&variables, &ids, |pass, rows| {
            pass.cross_entropy(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })?;
        println!("{verdict}\n");
        ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }

    let start = Instant::now();
    let (mut step, steps) = (0, arguments.epochs as usize * train.len().div_ceil(BATCH));
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        // The held-out passages are the probes. They are recorded before each epoch, to measure the influence of its
        // steps.
        let held_out = probe(&mut recorder, &model, text, test, &device)?;
        println!("epoch {epoch}: held-out loss before it {held_out:.3}, {:.0} s", start.elapsed().as_secs_f64());
        for ids in support::batches(train.len(), BATCH, arguments.seed, epoch) {
            optimizer.set_learning_rate(LEARNING_RATE * (1.0 - step as f64 / steps as f64));
            let (x, y) = text.batch(ids.iter().map(|id| &train[*id as usize]), &device)?;
            let mut pass = recorder.pass(&ids)?;
            let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
            let grads = loss.backward()?;
            pass.commit(optimizer.step_info())?;
            optimizer.step(&grads)?;
            step += 1;
        }
    }
    let held_out = probe(&mut recorder, &model, text, test, &device)?;
    println!("held-out loss after the last epoch: {held_out:.3} per character, {:.0} s", start.elapsed().as_secs_f64());
    println!("recorded {}\n", recorder.finish()?);
    Ok(())
}

/// Records the held-out passages as probes. Returns the mean loss per character.
fn probe(recorder: &mut Recorder, model: &Transformer, text: &Text, test: &[Passage], device: &Device) -> Result<f64> {
    let ids: Vec<u64> = (0..test.len() as u64).collect();
    let mut sum = 0.0;
    for ids in ids.chunks(BATCH) {
        let (x, y) = text.batch(ids.iter().map(|id| &test[*id as usize]), device)?;
        let mut pass = recorder.probe(PROBE_SET, ids)?;
        let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
        loss.backward()?;
        pass.commit()?;
        sum += f64::from(loss.to_scalar::<f32>()?) * ids.len() as f64;
    }
    Ok(sum / test.len() as f64)
}
