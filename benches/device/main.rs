//! What recording costs on a device: plain candle, gradlog's layers without a recorder, and recorded, in turn.
//!
//!     cargo bench --bench device -- --tiny                       on the CPU, to see that it works
//!     cargo bench --bench device --features cuda -- --json FILE  on a GPU (benches/device/run.sh)
//!
//! Each workload trains three copies of one model, a block of steps each, over and over. The ratios are of neighboring
//! blocks, and their median counts. All three synchronize the device at the end of each block, and only there. Losses,
//! optimizer (SGD) and data are the same.
//!
//! `host bytes` are those that leave the device for recording, a step. `training thread` is the share of a recorded
//! step that the training thread spends in calls of the recorder, without backward. `blocked` is the share in which it
//! waits for the background thread.
//!
//! `main MB` is the most main memory of a process that does nothing but train, plainly and recorded, each started anew.
//! `top-10` and `Spearman` are of small models: the share of the ten strongest examples by exact gradients that the run
//! finds, and the correlation of all scores with the exact ones (`fidelity.rs`). The JSON has both for sketches that
//! are made in main memory as well.

mod fidelity;
#[path = "../fidelity/measure.rs"]
mod measure;
mod memory;
mod models;
#[path = "../fidelity/read.rs"]
#[allow(dead_code)] // Some of it only `benches/fidelity` prints.
mod read;

use anyhow::{ensure, Context, Result};
use candle_core::backend::BackendDevice;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, VarMap, SGD};
use clap::{Parser, ValueEnum};
use fidelity::{Found, Subject};
use gradlog::{Config, Folding, Recorder, Sketching, Taps};
use measure::Fidelity;
use memory::Training;
use models::{draw, Model, Sizes, Workload};
use serde_json::{json, Value};
use std::path::PathBuf;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RATE: f64 = 1e-3;

#[derive(Parser)]
#[command(about = "The cost of recording on a device")]
struct Arguments {
    /// Only this workload: mlp, cnn or transformer
    #[arg(long)]
    only: Option<String>,
    /// Models so small that a CPU trains them in a moment; no numbers to quote
    #[arg(long)]
    tiny: bool,
    /// Pairs of blocks of each workload
    #[arg(long, default_value_t = 12)]
    pairs: usize,
    /// Types of numbers
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["f32", "bf16"])]
    dtype: Vec<Kind>,
    /// Where gradients are sketched
    #[arg(long, value_enum, default_value = "device")]
    sketching: Place,
    /// Numbers of a side of layers that are projected from both sides, 0 for whole gradients; the default decides by
    /// layer
    #[arg(long)]
    side: Option<u32>,
    /// Write the table as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only train, and print the most main memory that the process had; the bench starts itself so
    #[arg(long, value_enum, hide = true)]
    peak_of: Option<Training>,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    F32,
    Bf16,
}

impl Kind {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    Device,
    Memory,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let device = Device::cuda_if_available(0)?;
    if let (Some(training), Some(kind)) = (arguments.peak_of, arguments.dtype.first()) {
        let only = |workload: &Workload| arguments.only.as_deref() == Some(workload.name());
        let workload = Workload::ALL.into_iter().find(only).context("--peak-of needs --only")?;
        return memory::train(training, workload, *kind, &arguments, &device);
    }
    println!("{}", if device.is_cpu() { "no CUDA: on the CPU" } else { "CUDA device 0" });
    ensure!(!device.is_cpu() || arguments.tiny, "there is no device here: give --tiny to run small models on the CPU");
    println!(
        "{:<12} {:>5} {:>10} {:>10} {:>10} {:>12} {:>9} {:>9} {:>14} {:>7} {:>8}",
        "workload",
        "type",
        "plain ms",
        "rec/plain",
        "rec/layers",
        "host bytes",
        "training",
        "blocked",
        "main MB",
        "top-10",
        "Spearman"
    );
    let mut rows = Vec::new();
    for workload in Workload::ALL {
        if arguments.only.as_deref().is_some_and(|only| only != workload.name()) {
            continue;
        }
        for kind in &arguments.dtype {
            let name = kind.name();
            // candle has no convolutions of halves on the CPU.
            if device.is_cpu() && workload == Workload::Cnn && *kind == Kind::Bf16 {
                continue;
            }
            // A model that does not fit, or an op that a type lacks, must not lose the other rows.
            match measure(workload, &device, *kind, &arguments) {
                Ok(row) => rows.push(row),
                Err(error) => {
                    println!("{:<12} {name:>5} {error:#}", workload.name());
                    rows.push(json!({"workload": workload.name(), "dtype": name, "error": format!("{error:#}")}));
                }
            }
        }
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    ensure!(rows.iter().all(|row| row.get("error").is_none()), "a workload failed");
    Ok(())
}

/// A model with its optimizer.
struct Trained {
    model: Model,
    optimizer: SGD,
    taps: Taps,
}

impl Trained {
    fn new(workload: Workload, sizes: Sizes, tapped: bool, place: (&Device, DType)) -> Result<Self> {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let model = Model::new(workload, sizes, &variables, tapped.then_some(&taps), place)?;
        Ok(Self { model, optimizer: SGD::new(variables.all_vars(), RATE)?, taps })
    }
}

/// How the recorded loop records.
fn config(arguments: &Arguments) -> Config {
    Config {
        sketching: if arguments.sketching == Place::Device { Sketching::OnDevice } else { Sketching::InMainMemory },
        folding: match arguments.side {
            None => Folding::Auto,
            Some(0) => Folding::Whole,
            Some(side) => Folding::TwoSided { side },
        },
        ..Config::default()
    }
}

fn measure(workload: Workload, device: &Device, kind: Kind, arguments: &Arguments) -> Result<Value> {
    let (sizes, dtype) = (workload.sizes(arguments.tiny), kind.dtype());
    let (x, y) = draw(workload, sizes, device, dtype)?;
    let ids: Vec<u64> = (0..sizes.batch as u64).collect();
    let mut plain = Trained::new(workload, sizes, false, (device, dtype))?;
    let mut layers = Trained::new(workload, sizes, true, (device, dtype))?;
    let mut recorded = Trained::new(workload, sizes, true, (device, dtype))?;
    let folder = tempfile::tempdir()?;
    let mut recorder = Recorder::create(folder.path().join("run"), &recorded.taps, config(arguments))?;
    let before = memory::on_device();
    let steps = if arguments.tiny { 2 } else { 5 };
    let mut recorder_seconds = 0.0;
    let mut recorded_seconds = 0.0;
    let mut recorded_steps = 0;
    let (mut times, mut to_layers, mut to_plain) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up caches, memory pools and the recorder's tables.
    for round in 0..=arguments.pairs {
        let of_plain = block(device, steps, || plain_step(&mut plain, &x, &y))?;
        let of_layers = block(device, steps, || plain_step(&mut layers, &x, &y))?;
        let mut own = 0.0;
        let of_recorded = block(device, steps, || {
            own += recorded_step(&mut recorder, &mut recorded, &ids, &x, &y)?;
            Ok(())
        })?;
        recorded_steps += steps;
        if round > 0 {
            recorder_seconds += own;
            recorded_seconds += of_recorded * steps as f64;
            times.push(of_plain);
            to_plain.push(of_recorded / of_plain);
            to_layers.push(of_recorded / of_layers);
        }
    }
    let after = memory::on_device();
    let summary = recorder.finish()?;
    let bytes = summary.device_bytes as f64 / recorded_steps as f64;
    let (plain_ms, ratio, ratio_layers) = (1e3 * median(&mut times), median(&mut to_plain), median(&mut to_layers));
    let thread = recorder_seconds / recorded_seconds.max(1e-9);
    let blocked = summary.blocked.as_secs_f64() / recorded_seconds.max(1e-9);
    // What follows needs the room of the three models.
    drop((plain, layers, recorded));
    let subject = Subject::new(workload, arguments.tiny, (device, dtype))?;
    let own = subject.measure(&config(arguments), config(arguments).sketching)?;
    let in_memory = subject.measure(&config(arguments), Sketching::InMainMemory)?;
    drop(subject);
    let peak = |training| memory::peak_of(training, workload, kind, arguments);
    let (peak_plain, peak_recorded) = (peak(Training::Plain)?, peak(Training::Recorded)?);
    let name = kind.name();
    let main_memory = format!("{} to {}", megabytes(peak_plain), megabytes(peak_recorded));
    println!(
        "{:<12} {name:>5} {plain_ms:>10.2} {ratio:>10.3} {ratio_layers:>10.3} {bytes:>12.0} {thread:>9.3} {blocked:>9.4} \
         {main_memory:>14} {:>7.3} {:>8.4}",
        workload.name(),
        own.fidelity.proponents,
        own.fidelity.spearman
    );
    Ok(json!({
        "workload": workload.name(), "dtype": name, "plain_ms": plain_ms, "ratio_to_plain": ratio,
        "ratio_to_disabled": ratio_layers, "host_bytes_per_step": bytes, "recorder_share": thread,
        "blocked_share": blocked, "pairs": arguments.pairs, "tiny": arguments.tiny, "side": arguments.side,
        "background_ms_per_step": 1e3 * summary.background.as_secs_f64() / recorded_steps as f64,
        "device_bytes_used_before": before, "device_bytes_used_after": after,
        "main_memory_peak_plain": peak_plain, "main_memory_peak_recorded": peak_recorded,
        "fidelity": describe(&own), "fidelity_in_main_memory": describe(&in_memory),
    }))
}

fn describe(found: &Found) -> Value {
    let Found { fidelity: Fidelity { proponents, opponents, spearman }, norms, bytes } = found;
    json!({
        "top10_proponents": proponents, "top10_opponents": opponents, "spearman": spearman, "self_spearman": norms,
        "bytes_per_visit": bytes,
    })
}

fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |bytes| (bytes / 1_000_000).to_string())
}

/// Seconds of a step, over some steps.
fn block(device: &Device, steps: usize, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    synchronize(device)?;
    let start = Instant::now();
    for _ in 0..steps {
        step()?;
    }
    synchronize(device)?;
    Ok(start.elapsed().as_secs_f64() / steps as f64)
}

fn synchronize(device: &Device) -> Result<()> {
    match device {
        Device::Cuda(cuda) => cuda.synchronize()?,
        Device::Metal(metal) => metal.synchronize()?,
        Device::Cpu => {}
    }
    Ok(())
}

fn plain_step(trained: &mut Trained, x: &Tensor, y: &Tensor) -> Result<()> {
    let loss = mean_loss(&trained.model.forward(x)?, y)?;
    trained.optimizer.backward_step(&loss)?;
    Ok(())
}

/// By candle, over all examples and positions.
fn mean_loss(logits: &Tensor, y: &Tensor) -> Result<Tensor> {
    let logits = logits.flatten_to(logits.rank() - 2)?.to_dtype(DType::F32)?;
    Ok(candle_nn::loss::cross_entropy(&logits, &y.flatten_all()?)?)
}

/// Returns the seconds that the training thread spent in calls of the recorder, without backward.
fn recorded_step(recorder: &mut Recorder, trained: &mut Trained, ids: &[u64], x: &Tensor, y: &Tensor) -> Result<f64> {
    let start = Instant::now();
    let mut pass = recorder.pass(ids)?;
    let begun = start.elapsed();
    let logits = trained.model.forward(x)?;
    let start = Instant::now();
    let loss = pass.cross_entropy(&logits, y)?;
    let lost = start.elapsed();
    let grads = loss.backward()?;
    let start = Instant::now();
    pass.commit(RATE)?;
    let committed = start.elapsed();
    trained.optimizer.step(&grads)?;
    Ok((begun + lost + committed).as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
