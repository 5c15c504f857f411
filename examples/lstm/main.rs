//! Trains an LSTM on the characters of *Paradise Lost*, and asks the log which passages taught it to read a passage it
//! has never seen.
//!
//!     cargo run --release --example lstm -- --out /tmp/milton-lstm
//!
//! The text is cut into streams that are read side by side. Each pass goes on where the last one ended, so the state is
//! carried over, detached: the gradient stays within the pass (truncated backpropagation through time). A training
//! example is a passage of 64 characters; its id is its number. The twelfth book is held out. The run is in `OUT/run`.

#[path = "../char_lm/explain.rs"]
mod explain;
#[path = "../support/extremes.rs"]
mod extremes;
mod model;
#[path = "../char_lm/text.rs"]
mod text;

use anyhow::{bail, ensure, Result};
use candle_core::{DType, Device};
use clap::Parser;
use explain::Explained;
use gradlog::nn::rnn::{LSTMState, RNN};
use gradlog::nn::{Optimizer, VarBuilder, VarMap};
use gradlog::optim::{Sgd, SgdConfig};
use gradlog::{Config, Recorder, Taps};
use model::CharLstm;
use std::path::{Path, PathBuf};
use std::time::Instant;
use text::{Passage, Text, LENGTH};

/// Streams that are read side by side.
const STREAMS: usize = 16;
/// The rate of the first step. It falls to zero linearly.
const LEARNING_RATE: f64 = 2.0;
/// Number of held-out passages to ask about.
const PROBES: usize = 64;
const PROBE_SET: &str = "held-out";

#[derive(Parser)]
#[command(about = "Train an LSTM on Paradise Lost with state carried over, record it, and explain it from the log")]
struct Arguments {
    /// Folder for the run
    #[arg(long, default_value = "runs/lstm")]
    out: PathBuf,
    /// Passes over the training passages
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Share of the training passages whose words are scrambled
    #[arg(long, default_value_t = 0.03)]
    scramble: f64,
    /// Seed of the scrambled passages and the sketches
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
    let share = arguments.scramble;
    ensure!((0.0..=1.0).contains(&share), "--scramble must be a share between 0 and 1, not {share}");
    let text = Text::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/text/paradise-lost.txt"))?;
    let (mut train, mut test) = text.split();
    train.truncate(arguments.limit.unwrap_or(usize::MAX));
    ensure!(train.len() >= STREAMS, "--limit must be at least {STREAMS}, the number of streams");
    test.truncate(PROBES);
    if let Some(number) = arguments.ask.iter().find(|number| **number >= test.len() as u64) {
        bail!("--ask {number}: the held-out passages are numbered 0 to {}", test.len() - 1);
    }
    let scrambled = text::scramble(&mut train, share, arguments.seed);
    println!("{} passages of {LENGTH} characters in {STREAMS} streams; {} held out", train.len(), test.len());
    let run = arguments.out.join("run");
    train_and_record(&arguments, &run, &text, &train, &test)?;
    Explained { text: &text, train: &train, scrambled: &scrambled, test: &test }.print(&run, &arguments.ask)
}

fn train_and_record(arguments: &Arguments, run: &Path, text: &Text, train: &[Passage], test: &[Passage]) -> Result<()> {
    let (device, variables) = (Device::Cpu, VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let (model, taps) = Taps::collect(|| CharLstm::new(text.alphabet(), vb))?;
    taps.declare_model(&variables);
    let mut optimizer = Sgd::new(variables.all_vars(), SgdConfig::new(LEARNING_RATE))?;
    let mut recorder = Recorder::create(run, &taps, Config { seed: arguments.seed, ..Config::default() })?;
    if arguments.check {
        let ids: Vec<u64> = (0..4).collect();
        let (x, y) = text.batch(train[..4].iter(), &device)?;
        let verdict = recorder.check_gradients(&variables, &ids, |pass, rows| {
            let (x, y) = (rows.of(&x)?, rows.of(&y)?);
            pass.cross_entropy(&model.forward(&x, &model.lstm.zero_state(x.dim(0)?)?)?.0, &y)
        })?;
        println!("{verdict}\n");
        ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }
    let (start, length) = (Instant::now(), train.len() / STREAMS);
    let steps = arguments.epochs as usize * length;
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        let held_out = probe(&mut recorder, &model, text, test, &device)?;
        println!("epoch {epoch}: held-out loss before it {held_out:.3}, {:.0} s", start.elapsed().as_secs_f64());
        let mut state = model.lstm.zero_state(STREAMS)?;
        for place in 0..length {
            let step = epoch as usize * length + place;
            optimizer.set_learning_rate(LEARNING_RATE * (1.0 - step as f64 / steps as f64));
            let ids: Vec<usize> = (0..STREAMS).map(|stream| stream * length + place).collect();
            let (x, y) = text.batch(ids.iter().map(|id| &train[*id]), &device)?;
            let mut pass = recorder.pass(&ids)?;
            let (logits, last) = model.forward(&x, &state)?;
            let loss = pass.cross_entropy(&logits, &y)?;
            pass.backward_step(&mut optimizer, &loss)?;
            // Without this, the gradient of the next pass would go on into this one, and `commit` would refuse it.
            state = LSTMState::new(last.h().detach(), last.c().detach());
        }
    }
    let held_out = probe(&mut recorder, &model, text, test, &device)?;
    println!("held-out loss after the last epoch: {held_out:.3} per character, {:.0} s", start.elapsed().as_secs_f64());
    println!("recorded {}\n", recorder.finish()?);
    Ok(())
}

/// Records the held-out passages as probes, each from an empty state. Returns the mean loss per character.
fn probe(recorder: &mut Recorder, model: &CharLstm, text: &Text, test: &[Passage], device: &Device) -> Result<f64> {
    let mut sum = 0.0;
    for (number, passages) in test.chunks(STREAMS).enumerate() {
        let first = (number * STREAMS) as u64;
        let (x, y) = text.batch(passages.iter(), device)?;
        let mut pass = recorder.probe(PROBE_SET, first..first + passages.len() as u64)?;
        let loss = pass.cross_entropy(&model.forward(&x, &model.lstm.zero_state(passages.len())?)?.0, &y)?;
        loss.backward()?;
        pass.commit()?;
        sum += f64::from(loss.to_scalar::<f32>()?) * passages.len() as f64;
    }
    Ok(sum / test.len() as f64)
}
