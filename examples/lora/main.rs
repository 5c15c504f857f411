//! Pretrains a character model on *Paradise Lost*, then fine-tunes it on film reviews by low-rank adaptation (LoRA),
//! and asks the log of the fine-tuning which reviews taught the model to read one that it has never seen.
//!
//!     cargo run --release --example lora -- --out /tmp/lora
//!
//! Only the corrections of two linear layers are trained in the second part, so only they are recorded. The run is in
//! `OUT/run`. A training example is a review; its id is its line in `examples/data/reviews`.

#[path = "../support/extremes.rs"]
mod extremes;
mod model;
#[path = "../support/mod.rs"]
mod support;

use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use clap::Parser;
use extremes::print_extremes;
use gradlog::nn::{loss, Optimizer, VarBuilder, VarMap};
use gradlog::optim::{AdamW, Sgd, SgdConfig};
use gradlog::{Config, Recorder, Taps};
use gradlog_analysis::{InfluenceQuestion, Run};
use model::Reader;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Number of characters that a text predicts, each from those before it.
const LENGTH: usize = 64;
/// Printable ASCII, and one number for all else.
const ALPHABET: usize = 96;
const BATCH: usize = 16;
/// The rate of the first step of the fine-tuning. It falls to zero linearly.
const LEARNING_RATE: f64 = 0.5;
const PROBES: u64 = 32;
const PROBE_SET: &str = "held-out";
/// Number of reviews to show for each answer.
const SHOWN: usize = 4;

#[derive(Parser)]
#[command(about = "Fine-tune a character model on film reviews by LoRA, record that, and explain it from the log")]
struct Arguments {
    /// Folder for the run
    #[arg(long, default_value = "runs/lora")]
    out: PathBuf,
    /// Steps of the training on Paradise Lost, which is not recorded
    #[arg(long, default_value_t = 800)]
    pretrain: usize,
    /// Passes over the training reviews
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Seed of order and sketches
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Use only the first N reviews
    #[arg(long)]
    limit: Option<usize>,
    /// Held-out reviews, by number, to explain at the end
    #[arg(long, num_args = 1.., default_values_t = [0, 1], value_parser = clap::value_parser!(u64).range(..PROBES))]
    ask: Vec<u64>,
    /// First check on a few examples that the recorded gradients are each example's own
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let run = arguments.out.join("run");
    ensure!(!run.exists(), "{} exists: give another folder, or move it away", run.display());
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let (milton, reviews) = (data.join("text/paradise-lost.txt"), data.join("reviews/reviews.tsv"));
    let milton = std::fs::read(&milton).with_context(|| format!("reading {}", milton.display()))?;
    let reviews = std::fs::read_to_string(&reviews).with_context(|| format!("reading {}", reviews.display()))?;
    let mut train: Vec<&str> = reviews.lines().filter_map(|line| Some(line.split_once('\t')?.1)).collect();
    train.truncate(arguments.limit.unwrap_or(usize::MAX).saturating_add(PROBES as usize));
    ensure!(train.len() > PROBES as usize, "--limit must be at least 1");
    let test = train.split_off(train.len() - PROBES as usize);

    let frozen = pretrain(&milton, arguments.pretrain, arguments.seed)?;
    fine_tune(&arguments, &run, frozen, &train, &test)?;

    let run = Run::open(run)?;
    let answer = InfluenceQuestion::new(PROBE_SET).ids(arguments.ask.iter().copied()).compute(&run)?;
    for (probe, about) in answer.probes.iter().enumerate() {
        println!(
            "\nWhich reviews taught the model to read held-out review {}?\n    {}",
            about.id, test[about.id as usize]
        );
        print_extremes(&answer, probe, SHOWN, |example, score| println!("  {score:>8.4}  {}", train[example as usize]));
    }
    println!("\n({}, over {} visits)", answer.variant(), answer.visits);
    Ok(())
}

/// Trains all weights on the text, and returns them as tensors that nothing trains any more.
fn pretrain(text: &[u8], steps: usize, seed: u64) -> Result<HashMap<String, Tensor>> {
    let variables = VarMap::new();
    let model = Reader::new(ALPHABET, &VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    support::seed_weights(&variables, seed)?;
    let mut optimizer = AdamW::new_lr(variables.all_vars(), 2e-3)?;
    let passages: Vec<&[u8]> = text.chunks_exact(LENGTH + 1).collect();
    let mut batches = (0..).flat_map(|epoch| support::batches(passages.len(), BATCH, seed, epoch));
    let mut last = f32::NAN;
    for ids in batches.by_ref().take(steps) {
        let (x, y) = batch(ids.iter().map(|id| passages[*id as usize]))?;
        let loss = loss::cross_entropy(&model.forward(&x)?.flatten_to(1)?, &y.flatten_all()?)?;
        optimizer.backward_step(&loss)?;
        last = loss.to_scalar()?;
    }
    println!("pretrained on Paradise Lost for {steps} steps: loss {last:.3} per character");
    let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(data.iter().map(|(name, variable)| (name.clone(), variable.as_detached_tensor())).collect())
}

fn fine_tune(
    arguments: &Arguments,
    run: &Path,
    frozen: HashMap<String, Tensor>,
    train: &[&str],
    test: &[&str],
) -> Result<()> {
    let frozen = VarBuilder::from_tensors(frozen, DType::F32, &Device::Cpu);
    let variables = VarMap::new(); // of the corrections alone
    let adapter = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let (model, taps) = Taps::collect(|| Reader::adapt(ALPHABET, &frozen, &adapter))?;
    taps.declare_model(&variables);
    let mut optimizer = Sgd::new(variables.all_vars(), SgdConfig::new(LEARNING_RATE))?;
    let mut recorder = Recorder::create(run, &taps, Config { seed: arguments.seed, ..Config::default() })?;
    let numbers: usize = variables.all_vars().iter().map(|variable| variable.elem_count()).sum();
    println!("{} reviews to fine-tune {numbers} numbers on; {} held out", train.len(), test.len());
    if arguments.check {
        let ids: Vec<u64> = (0..train.len().min(4) as u64).collect();
        let (x, y) = batch(train.iter().take(4).map(|text| text.as_bytes()))?;
        let verdict = recorder.check_gradients(&variables, &ids, |pass, rows| {
            pass.cross_entropy(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })?;
        println!("{verdict}\n");
        ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }
    let (mut step, steps) = (0, arguments.epochs as usize * train.len().div_ceil(BATCH));
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        println!("epoch {epoch}: held-out loss before it {:.3}", probe(&mut recorder, &model, test)?);
        for ids in support::batches(train.len(), BATCH, arguments.seed, epoch) {
            optimizer.set_learning_rate(LEARNING_RATE * (1.0 - step as f64 / steps as f64));
            let (x, y) = batch(ids.iter().map(|id| train[*id as usize].as_bytes()))?;
            let mut pass = recorder.pass(&ids)?;
            let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
            pass.backward_step(&mut optimizer, &loss)?;
            step += 1;
        }
    }
    println!("held-out loss after the last epoch: {:.3} per character", probe(&mut recorder, &model, test)?);
    println!("recorded {}", recorder.finish()?);
    Ok(())
}

/// Records the held-out reviews as probes. Returns the mean loss per character.
fn probe(recorder: &mut Recorder, model: &Reader, test: &[&str]) -> Result<f32> {
    let (x, y) = batch(test.iter().map(|text| text.as_bytes()))?;
    let mut pass = recorder.probe(PROBE_SET, 0..test.len() as u64)?;
    let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
    loss.backward()?;
    pass.commit()?;
    Ok(loss.to_scalar()?)
}

/// Character numbers of the texts and of what follows each character, both `[batch, LENGTH]`. Short texts are filled up
/// with spaces.
fn batch<'t>(texts: impl Iterator<Item = &'t [u8]>) -> Result<(Tensor, Tensor)> {
    let (mut x, mut y, mut batch) = (Vec::new(), Vec::new(), 0);
    for text in texts {
        let number =
            |byte: u8| if (b' '..=b'~').contains(&byte) { u32::from(byte - b' ') } else { ALPHABET as u32 - 1 };
        let numbers: Vec<u32> =
            text.iter().copied().chain(std::iter::repeat(b' ')).take(LENGTH + 1).map(number).collect();
        x.extend_from_slice(&numbers[..LENGTH]);
        y.extend_from_slice(&numbers[1..]);
        batch += 1;
    }
    Ok((Tensor::from_vec(x, (batch, LENGTH), &Device::Cpu)?, Tensor::from_vec(y, (batch, LENGTH), &Device::Cpu)?))
}
