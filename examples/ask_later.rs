//! Asks a finished run about examples that it did not record while it trained.
//!
//!     cargo run --release --example ask_later -- --out /tmp/later
//!
//! A small network learns handwritten digits, a tenth of them with a wrong label on purpose. It saves a checkpoint
//! after each epoch. Then a new model of the same shape loads every checkpoint, as another program would. It runs the
//! test images and all training images through each. The run then answers questions about both. Nothing is trained
//! again.

#[path = "mnist/data.rs"]
#[allow(dead_code)]
mod data;
#[path = "support/mod.rs"]
#[allow(dead_code)]
mod support;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, Dropout, Linear, ModuleT, Optimizer, VarBuilder, VarMap, SGD};
use clap::Parser;
use data::{Digits, SIDE, TO_ANOTHER};
use gradlog::{Config, PredictionScore, Recorder, Replay, StepReport, Tapped, Taps};
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion, Window};
use gradlog_format::run::Run;
use std::path::{Path, PathBuf};

const BATCH: usize = 64;
const LEARNING_RATE: f64 = 0.1;
/// Number of test images to ask about.
const ASKED: usize = 200;

#[derive(Parser)]
#[command(about = "Train with checkpoints, and ask the run questions afterwards")]
struct Arguments {
    /// Folder for the run
    #[arg(long, default_value = "runs/ask_later")]
    out: PathBuf,
    /// Passes over the training images
    #[arg(long, default_value_t = 5)]
    epochs: u32,
    /// Use only the first N training images
    #[arg(long)]
    limit: Option<usize>,
    /// First check on a few examples that the recorded gradients are each example's own
    #[arg(long)]
    check: bool,
}

struct Model {
    fc1: Tapped<Linear>,
    dropout: Dropout,
    fc2: Tapped<Linear>,
    variables: VarMap,
    taps: Taps,
}

impl Model {
    fn new(seed: u64) -> Result<Self> {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let fc1 = taps.tap("fc1", linear(SIDE * SIDE, 64, vb.pp("fc1"))?);
        let fc2 = taps.tap("fc2", linear(64, 10, vb.pp("fc2"))?);
        taps.declare_model(&variables);
        support::seed_weights(&variables, seed)?;
        Ok(Self { fc1, dropout: Dropout::new(0.2), fc2, variables, taps })
    }

    fn logits(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let h = self.fc1.forward(&x.flatten_from(1)?)?.relu()?;
        self.fc2.forward(&self.dropout.forward_t(&h, train)?)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/mnist");
    let mut train = Digits::load(&folder, "train").context("the training images")?;
    let mut test = Digits::load(&folder, "t10k").context("the test images")?;
    train.truncate(arguments.limit.unwrap_or(usize::MAX));
    test.truncate(ASKED);
    let truth = train.labels.clone();
    train.flip(0.1, TO_ANOTHER, 0);

    train_with_checkpoints(&arguments, &train)?;
    ask_later(&arguments.out, &train, &test)?;
    print_answers(&arguments.out, &train, &test, &truth)
}

/// The usual loop, recorded, with one line for each checkpoint. It asks nothing.
fn train_with_checkpoints(arguments: &Arguments, train: &Digits) -> Result<()> {
    let model = Model::new(0)?;
    let mut optimizer = SGD::new(model.variables.all_vars(), LEARNING_RATE)?;
    let mut recorder = Recorder::create(&arguments.out, &model.taps, Config::default())?;
    if arguments.check {
        let ids: Vec<u64> = (0..train.len().min(8) as u64).collect();
        let (x, y) = train.batch(&ids, &Device::Cpu)?;
        // Without dropout: with it two runs differ, and couplings cannot be looked for.
        let verdict = recorder.check_gradients(&model.variables, &ids, |pass, rows| {
            pass.cross_entropy(&model.logits(&rows.of(&x)?, false)?, &rows.of(&y)?)
        })?;
        println!("{verdict}\n");
        anyhow::ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        for ids in support::batches(train.len(), BATCH, 0, epoch) {
            let (x, y) = train.batch(&ids, &Device::Cpu)?;
            let mut pass = recorder.pass(&ids)?;
            let loss = pass.cross_entropy(&model.logits(&x, true)?, &y)?;
            let grads = loss.backward()?;
            pass.commit(optimizer.step_info())?;
            optimizer.step(&grads)?;
        }
        recorder.checkpoint(&model.variables)?;
    }
    println!("recorded {}", recorder.finish()?);
    Ok(())
}

/// Later: records the test images as probes, with their label and without, and sweeps the training images.
fn ask_later(run: &Path, train: &Digits, test: &Digits) -> Result<()> {
    let model = Model::new(1)?; // its weights come from the checkpoints
    let mut replay = Replay::open(run, &model.taps, Config::default())?;
    let chunks =
        |count: usize| (0..count as u64).collect::<Vec<_>>().chunks(256).map(<[u64]>::to_vec).collect::<Vec<_>>();
    // Without a label, the question is about the class that the finished model predicts.
    let last = replay.checkpoints().pop().context("the run has no checkpoints")?;
    replay.load(&last, &model.variables)?;
    let (all, _) = test.batch(&(0..test.len() as u64).collect::<Vec<_>>(), &Device::Cpu)?;
    let predicted = model.logits(&all, false)?.argmax(1)?;
    for checkpoint in replay.checkpoints() {
        replay.load(&checkpoint, &model.variables)?;
        for ids in chunks(test.len()) {
            let (x, y) = test.batch(&ids, &Device::Cpu)?;
            let mut pass = replay.probe("asked later", &ids)?;
            pass.cross_entropy(&model.logits(&x, false)?, &y)?.backward()?;
            pass.commit()?;
            let classes = predicted.narrow(0, ids[0] as usize, ids.len())?;
            let mut pass = replay.probe("prediction", &ids)?;
            let loss = pass.prediction_score(&model.logits(&x, false)?, PredictionScore::LogOdds, Some(&classes))?;
            loss.backward()?;
            pass.commit()?;
        }
        for ids in chunks(train.len()) {
            let (x, y) = train.batch(&ids, &Device::Cpu)?;
            let mut pass = replay.sweep(&ids)?;
            pass.cross_entropy(&model.logits(&x, false)?, &y)?.backward()?;
            pass.commit()?;
        }
    }
    println!("replayed {}\n", replay.finish()?);
    Ok(())
}

fn print_answers(dir: &Path, train: &Digits, test: &Digits, truth: &[u8]) -> Result<()> {
    let run = Run::open(dir)?;
    let wrong = |example: u64| truth[example as usize] != train.labels[example as usize];
    let flipped = (0..train.len() as u64).filter(|e| wrong(*e)).count();
    println!("wrong labels among the {flipped} most suspicious examples:");
    let last = run.checkpoints()?.last().map_or(0, |checkpoint| checkpoint.step);
    for window in [Window::everything(), Window::sweeps(), Window::sweep_at(last)] {
        for score in [Score::El2n, Score::Grand, Score::SelfInfluence] {
            let table = ScoreQuestion::new(score).window(window.clone()).compute(&run)?;
            let found = table.rows.iter().take(flipped).filter(|row| wrong(row.example)).count();
            println!("{found:>5}   {:<15} {}", score.name(), table.basis);
        }
    }
    // Wrong labels should be among the most harmful examples far more often than by chance.
    println!("\nshare of wrong labels among the ten training images that hurt a test image most (by chance {:.2}):", {
        flipped as f64 / train.len() as f64
    });
    for question in [InfluenceQuestion::new("asked later"), InfluenceQuestion::new("asked later").sweeps(), {
        InfluenceQuestion::new("prediction").sweeps()
    }] {
        let result = question.compute(&run)?;
        let share = |probe: usize| {
            let hurt = result.opponents(probe, 10);
            let wrong = hurt.iter().filter(|row| wrong(result.rows[**row].example)).count();
            wrong as f64 / hurt.len().max(1) as f64
        };
        let mean = (0..test.len()).map(share).sum::<f64>() / test.len() as f64;
        println!("{mean:>8.2}   {}: {}", result.set, result.variant());
    }
    println!("\nAsk it more:");
    println!("    gradlog info {}", dir.display());
    println!("    gradlog influence {} --probe \"asked later\" --id 0 --checkpoints", dir.display());
    println!("    gradlog scores {} --score grand --at sweep:{last}", dir.display());
    Ok(())
}
