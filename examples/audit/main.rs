//! Does the model change as the scores predict when it is trained again? Compares every method of gradlog with
//! retraining, from one recorded run for each seed: leave-one-out, moving a training image, the linear datamodeling
//! score, brittleness, wrong labels, cleaning, pruning.
//!
//!     cargo run --release --example audit -- --json audit.json
//!
//! This runs all five experiments (`--only` selects some) with one seed. It takes about half an hour on two cores with
//! the digits that come with gradlog. Most of the time is retraining: `--left-out`, `--moved`, `--subsets` and
//! `--brittle` set how often. The JSON is a list of `{setting, method, metric, value, low, high, seeds}`, with 95 %
//! bootstrap intervals. `gradlog_analysis::audit` has the measures, for any model that a closure can train.

mod attribution;
mod cache;
#[allow(dead_code)]
#[path = "../mnist/data.rs"]
mod data;
mod exact;
mod experiments;
mod images;
mod lds;
mod loo;
mod methods;
#[allow(dead_code)]
#[path = "../mnist/model.rs"]
mod mnist_model;
mod moved;
mod one_step;
mod selection;
mod small_cnn;
#[path = "../support/mod.rs"]
mod support;
mod task;
#[allow(dead_code)]
#[path = "../char_lm/text.rs"]
mod text;
#[allow(dead_code)]
#[path = "../char_lm/model.rs"]
mod transformer;

use anyhow::{bail, Context, Result};
use clap::{Parser, ValueEnum};
use data::Digits;
use experiments::Bench;
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Audit every score against retraining")]
pub(crate) struct Arguments {
    /// Folder for the recorded runs; existing runs are not overwritten
    #[arg(long, default_value = "runs/audit")]
    out: PathBuf,
    /// Write the table here as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Folder of idx files, gzipped or not, instead of the digits that come with gradlog
    #[arg(long)]
    data: Option<PathBuf>,
    /// Experiments to run
    #[arg(long, value_enum, value_delimiter = ',', default_value = "logistic,loo,mlp,labels,pruning")]
    only: Vec<Experiment>,
    /// Recorded runs of each experiment, with seeds from 0
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Training images of the MLPs and of the experiments with labels and pruning
    #[arg(long, default_value_t = 5000)]
    train: usize,
    /// Epochs of these trainings
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Training images of the logistic regression
    #[arg(long, default_value_t = 1000)]
    logistic_train: usize,
    /// Steps of the trainings with AdamW
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(20..))]
    steps: u64,
    /// Record them without rounding and hashing
    #[arg(long)]
    exact: bool,
    /// How many of these steps are done again, spread over the training
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    measured: u64,
    /// Epochs of the logistic regression
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    logistic_epochs: u32,
    /// Test images whose losses are predicted
    #[arg(long, default_value_t = 50)]
    probes: usize,
    /// Examples to leave out, one at a time, drawn at random
    #[arg(long, default_value_t = 50)]
    left_out: usize,
    /// Images of the logistic regression to move, one at a time, drawn at random; 0 skips this
    #[arg(long, default_value_t = 20)]
    moved: usize,
    /// Learning rate of the MLP whose examples are left out: at larger ones training is not smooth, and nothing can
    /// predict the result
    #[arg(long, default_value_t = 0.001)]
    loo_rate: f64,
    /// Hidden layers of that MLP
    #[arg(long, value_delimiter = ',', default_value = "128,64")]
    loo_hidden: Vec<usize>,
    /// Half subsets of the linear datamodeling score
    #[arg(long, default_value_t = 50)]
    subsets: usize,
    /// Models to train on each subset, with seeds of their own; two or more show how much of the score is noise
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    subset_seeds: u64,
    /// Test images whose prediction is flipped by removing proponents, for each seed; 0 skips this
    #[arg(long, default_value_t = 5)]
    brittle: usize,
    /// Use the CNN of examples/mnist for labels and pruning, instead of the MLP
    #[arg(long)]
    cnn: bool,
    /// In the experiment with labels, draw the new label from all ten classes, so that a tenth of them stays right
    #[arg(long)]
    any_class: bool,
    /// Runs for each seed of the experiment with labels, on the same labels with other weights and orders: scores over
    /// several runs find more
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// In the experiment with labels, only detect the wrong ones: no training without them
    #[arg(long)]
    detection_only: bool,
    /// Which settings of the experiment `optimizers` to run
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = OneRun::ALL)]
    settings: Vec<OneRun>,
    /// Train with AdamW at a learning rate of 0.001 in the experiment with labels
    #[arg(long)]
    adamw: bool,
    /// Numbers of a gradient in TRAK's estimator; if it is not 2,048, as another row of the linear datamodeling scores
    #[arg(long, default_value_t = 4096)]
    length: usize,
    /// Ask for the linear datamodeling score of other dampings, lengths and windows as well
    #[arg(long)]
    explore: bool,
    /// Keep in this folder what came of trainings, and use what is there; recorded runs in `--out` are used again, too
    #[arg(long)]
    cache: Option<PathBuf>,
    /// First check on a few images that the recorded gradients of all models are each image's own
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Experiment {
    /// Logistic regression: leave-one-out with exact influence functions, and moving an image
    Logistic,
    /// MLP with pixels in 0 to 1 and a small learning rate: leave-one-out
    Loo,
    /// MLP 784-128-64-10: linear datamodeling score, brittleness
    Mlp,
    /// A tenth of the labels flipped: detection, and training again without the suspects
    Labels,
    /// Half of the training set: accuracy compared with random choice and with all
    Pruning,
    /// Seven settings, most of them under AdamW: one step done again, leave-one-out, linear datamodeling score
    Optimizers,
}

/// A setting of the experiment `optimizers`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OneRun {
    /// One step of AdamW done again without each example of its batch: MLP
    AdamwStepMlp,
    /// The same with the CNN
    AdamwStepCnn,
    /// The same with the transformer
    AdamwStepTransformer,
    /// Leave-one-out in the same run under AdamW, and groups of 32
    AdamwLooMlp,
    /// Linear datamodeling score under AdamW: MLP
    AdamwLdsMlp,
    /// Linear datamodeling score under SGD: MLP
    LdsMlp,
    /// The same with a CNN for two classes
    LdsCnn2,
}

impl OneRun {
    const ALL: [Self; 7] = [
        Self::AdamwStepMlp,
        Self::AdamwStepCnn,
        Self::AdamwStepTransformer,
        Self::AdamwLooMlp,
        Self::AdamwLdsMlp,
        Self::LdsMlp,
        Self::LdsCnn2,
    ];

    /// As in a row of the table.
    fn name(self) -> &'static str {
        match self {
            Self::AdamwStepMlp => "adamw-step-mlp",
            Self::AdamwStepCnn => "adamw-step-cnn",
            Self::AdamwStepTransformer => "adamw-step-transformer",
            Self::AdamwLooMlp => "adamw-loo-mlp",
            Self::AdamwLdsMlp => "adamw-lds-mlp",
            Self::LdsMlp => "lds-mlp",
            Self::LdsCnn2 => "lds-cnn2",
        }
    }
}

impl std::fmt::Display for OneRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes the table after each experiment, so that a later failure does not lose it.
fn write_table(bench: &Bench<'_>) -> Result<()> {
    let Some(path) = &bench.arguments.json else { return Ok(()) };
    let write = || gradlog_analysis::audit::write_json(&bench.findings, &mut std::fs::File::create(path)?);
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let shipped = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/mnist");
    let folder = arguments.data.clone().unwrap_or_else(shipped);
    let train = Digits::load(&folder, "train").context("the training images")?;
    let test = Digits::load(&folder, "t10k").context("the test images")?;
    if train.len().min(arguments.train).min(arguments.logistic_train) < 100 || test.is_empty() || arguments.probes == 0
    {
        bail!(
            "at least 100 training images and a probe are needed: check --data, --train, --logistic-train and --probes"
        );
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;
    if arguments.check {
        task::check_gradients(&arguments.out, &images::Images::from_digits(&train, images::Pixels::Standardized))?;
    }
    let mut bench = Bench { arguments: &arguments, train, test, findings: Vec::new() };
    for experiment in &arguments.only {
        match experiment {
            Experiment::Logistic => bench.logistic(),
            Experiment::Loo => bench.loo(),
            Experiment::Mlp => bench.mlp(),
            Experiment::Labels => bench.labels(),
            Experiment::Pruning => bench.pruning(),
            Experiment::Optimizers => {
                for setting in &arguments.settings {
                    match setting {
                        OneRun::AdamwStepMlp | OneRun::AdamwStepCnn | OneRun::AdamwStepTransformer => {
                            bench.adamw_step(*setting)
                        }
                        OneRun::AdamwLooMlp => bench.adamw_loo(),
                        OneRun::AdamwLdsMlp => bench.adamw_lds_mlp(),
                        OneRun::LdsMlp => bench.lds_mlp(),
                        OneRun::LdsCnn2 => bench.lds_cnn2(),
                    }?;
                    write_table(&bench)?;
                }
                Ok(())
            }
        }?;
        write_table(&bench)?;
    }
    Ok(())
}
