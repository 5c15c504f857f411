//! When does training settle into one basin, and for which examples? Two children start from the same weights after
//! some epochs. They train to the end in different batch orders. The error barrier between them tells whether they
//! ended in one basin. It is measured on all digits, on the easiest and on the hardest. EL2N picks these from the
//! parent's log (Paul et al. 2021, section 5.2).
//!
//!     cargo run --release --example connectivity -- --out /tmp/connectivity
//!
//! It takes a minute or two. The parent's run stays in OUT/run.

#[allow(dead_code)]
#[path = "mnist/data.rs"]
mod data;
#[path = "support/mod.rs"]
mod support;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, Linear, Optimizer, VarBuilder, VarMap, SGD};
use clap::Parser;
use data::{Digits, SIDE};
use gradlog::connectivity::{error_barrier, set_weights, weights, Weights};
use gradlog::{Config, Recorder, Taps};
use gradlog_analysis::{Order, Score, ScoreQuestion};
use gradlog_format::run::Run;
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;
const LEARNING_RATE: f64 = 0.1;
const ALPHAS: [f64; 5] = [0.3, 0.4, 0.5, 0.6, 0.7];

#[derive(Parser)]
#[command(about = "Measure the error barrier between two children of one network on easy and hard digits")]
struct Arguments {
    /// Folder for the parent's run
    #[arg(long, default_value = "runs/connectivity")]
    out: PathBuf,
    /// Epochs from the first weights to the end
    #[arg(long, default_value_t = 8)]
    epochs: u32,
    /// Epochs of the parent after which two children start
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,4")]
    spawn: Vec<u32>,
    /// Number of the easiest and of the hardest digits to measure on
    #[arg(long, default_value_t = 500)]
    subset: usize,
    /// Use only the first N digits
    #[arg(long)]
    limit: Option<usize>,
    /// Seed of weights and orders
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// First check on a few examples that the recorded gradients are each example's own
    #[arg(long)]
    check: bool,
}

struct Mlp {
    variables: VarMap,
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new() -> Result<Self> {
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let (fc1, fc2) = (linear(SIDE * SIDE, 128, vb.pp("fc1"))?, linear(128, 10, vb.pp("fc2"))?);
        Ok(Self { variables, fc1, fc2 })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(&x.flatten_from(1)?)?.relu()?)
    }

    /// Share of wrong answers on some digits.
    fn wrong_share(&self, (x, y): &(Tensor, Tensor)) -> candle_core::Result<f64> {
        let right = self.forward(x)?.argmax(1)?.eq(y)?.to_dtype(DType::F32)?.mean_all()?;
        Ok(1.0 - f64::from(right.to_scalar::<f32>()?))
    }

    /// Trains one epoch of plain SGD. `order` and the epoch decide the order of the digits.
    fn train_epoch(&self, digits: &Digits, order: u64, epoch: u32, recorder: Option<&mut Recorder>) -> Result<()> {
        let mut optimizer = SGD::new(self.variables.all_vars(), LEARNING_RATE)?;
        let mut recorder = recorder;
        if let Some(recorder) = recorder.as_mut() {
            recorder.set_epoch(epoch);
        }
        for ids in support::batches(digits.len(), BATCH, order, epoch) {
            let (x, y) = digits.batch(&ids, &Device::Cpu)?;
            let logits = self.forward(&x)?;
            match recorder.as_mut() {
                Some(recorder) => {
                    let mut pass = recorder.pass(&ids)?;
                    let loss = pass.cross_entropy(&logits, &y)?;
                    let grads = loss.backward()?;
                    pass.commit(LEARNING_RATE)?;
                    optimizer.step(&grads)?;
                }
                None => optimizer.backward_step(&candle_nn::loss::cross_entropy(&logits, &y)?)?,
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut digits = Digits::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/mnist"), "train")?;
    digits.truncate(arguments.limit.unwrap_or(usize::MAX));
    let run = arguments.out.join("run");
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;

    // The parent: recorded without taps, for losses and EL2N, and copied where children start.
    let model = Mlp::new()?;
    support::seed_weights(&model.variables, arguments.seed)?;
    let mut recorder = Recorder::create(&run, &Taps::new(), Config::default())?;
    if arguments.check {
        let ids: Vec<u64> = (0..digits.len().min(8) as u64).collect();
        let (x, y) = digits.batch(&ids, &Device::Cpu)?;
        let verdict = recorder.check_gradients(&model.variables, &ids, |pass, rows| {
            pass.cross_entropy(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })?;
        println!("{verdict}\n");
        anyhow::ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }
    let mut spawned: Vec<(u32, Weights)> = Vec::new();
    for epoch in 0..arguments.epochs {
        if arguments.spawn.contains(&epoch) {
            spawned.push((epoch, weights(&model.variables)?));
        }
        model.train_epoch(&digits, arguments.seed, epoch, Some(&mut recorder))?;
    }
    recorder.finish()?;

    // Easy and hard, from EL2N over all epochs of the parent.
    let opened = Run::open(&run)?;
    let table = ScoreQuestion::new(Score::El2n).compute_over(&[&opened])?;
    assert_eq!(Score::El2n.hard(), Order::HighestFirst);
    let by_difficulty: Vec<u64> = table.hardest_first().map(|row| row.example).collect();
    let count = arguments.subset.min(by_difficulty.len());
    let sets = [&by_difficulty[..], &by_difficulty[by_difficulty.len() - count..], &by_difficulty[..count]];
    let sets = sets.map(|ids| digits.batch(ids, &Device::Cpu));
    let [all, easy, hard] = sets;
    let (all, easy, hard) = (all?, easy?, hard?);

    println!("error barrier between two children, in percent of the training digits");
    println!(
        "started after   all {}   easiest {count}   hardest {count}   error of a child on the hardest",
        digits.len()
    );
    for (start, parent) in &spawned {
        let mut children = Vec::new();
        for child in 1..=2 {
            set_weights(&model.variables, parent)?;
            for epoch in *start..arguments.epochs {
                model.train_epoch(&digits, arguments.seed.wrapping_add(1000 * child), epoch, None)?;
            }
            children.push(weights(&model.variables)?);
        }
        let barrier = |set: &(Tensor, Tensor)| {
            error_barrier(&children[0], &children[1], &ALPHAS, |weights| {
                set_weights(&model.variables, weights).map_err(candle_core::Error::wrap)?;
                model.wrong_share(set)
            })
        };
        let (on_all, on_easy, on_hard) = (barrier(&all)?, barrier(&easy)?, barrier(&hard)?);
        println!(
            "{start:>7} epochs   {:>8.2}   {:>11.2}   {:>11.2}   {:>10.1} %",
            100.0 * on_all.height,
            100.0 * on_easy.height,
            100.0 * on_hard.height,
            100.0 * on_hard.path[0].error
        );
    }
    println!(
        "\nA barrier of about 0 means one basin. Compare after how many epochs the easy and the hard digits reach it."
    );
    Ok(())
}
