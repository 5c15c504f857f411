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

mod models;

use anyhow::{ensure, Context, Result};
use candle_core::backend::BackendDevice;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, VarMap, SGD};
use clap::{Parser, ValueEnum};
use gradlog::{Config, Folding, Recorder, Sketching, Taps};
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
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    F32,
    Bf16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    Device,
    Memory,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let device = Device::cuda_if_available(0)?;
    println!("{}", if device.is_cpu() { "no CUDA: on the CPU" } else { "CUDA device 0" });
    ensure!(!device.is_cpu() || arguments.tiny, "there is no device here: give --tiny to run small models on the CPU");
    println!(
        "{:<12} {:>5} {:>10} {:>10} {:>10} {:>12} {:>9} {:>9}",
        "workload", "type", "plain ms", "rec/plain", "rec/layers", "host bytes", "training", "blocked"
    );
    let mut rows = Vec::new();
    for workload in Workload::ALL {
        if arguments.only.as_deref().is_some_and(|only| only != workload.name()) {
            continue;
        }
        for kind in &arguments.dtype {
            let dtype = if *kind == Kind::F32 { DType::F32 } else { DType::BF16 };
            let name = if *kind == Kind::F32 { "f32" } else { "bf16" };
            // candle has no convolutions of halves on the CPU.
            if device.is_cpu() && workload == Workload::Cnn && dtype == DType::BF16 {
                continue;
            }
            // A model that does not fit, or an op that a type lacks, must not lose the other rows.
            match measure(workload, &device, dtype, &arguments) {
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

fn measure(workload: Workload, device: &Device, dtype: DType, arguments: &Arguments) -> Result<Value> {
    let sizes = workload.sizes(arguments.tiny);
    let (x, y) = draw(workload, sizes, device, dtype)?;
    let ids: Vec<u64> = (0..sizes.batch as u64).collect();
    let mut plain = Trained::new(workload, sizes, false, (device, dtype))?;
    let mut layers = Trained::new(workload, sizes, true, (device, dtype))?;
    let mut recorded = Trained::new(workload, sizes, true, (device, dtype))?;
    let folder = tempfile::tempdir()?;
    let config = Config {
        sketching: if arguments.sketching == Place::Device { Sketching::OnDevice } else { Sketching::InMainMemory },
        folding: match arguments.side {
            None => Folding::Auto,
            Some(0) => Folding::Whole,
            Some(side) => Folding::TwoSided { side },
        },
        ..Config::default()
    };
    let mut recorder = Recorder::create(folder.path().join("run"), &recorded.taps, config)?;
    let before = memory();
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
    let after = memory();
    let summary = recorder.finish()?;
    let bytes = summary.device_bytes as f64 / recorded_steps as f64;
    let (plain_ms, ratio, ratio_layers) = (1e3 * median(&mut times), median(&mut to_plain), median(&mut to_layers));
    let thread = recorder_seconds / recorded_seconds.max(1e-9);
    let blocked = summary.blocked.as_secs_f64() / recorded_seconds.max(1e-9);
    let name = if dtype == DType::F32 { "f32" } else { "bf16" };
    println!(
        "{:<12} {name:>5} {plain_ms:>10.2} {ratio:>10.3} {ratio_layers:>10.3} {bytes:>12.0} {thread:>9.3} {blocked:>9.4}",
        workload.name()
    );
    Ok(json!({
        "workload": workload.name(), "dtype": name, "plain_ms": plain_ms, "ratio_to_plain": ratio,
        "ratio_to_disabled": ratio_layers, "host_bytes_per_step": bytes, "recorder_share": thread,
        "blocked_share": blocked, "pairs": arguments.pairs, "tiny": arguments.tiny, "side": arguments.side,
        "background_ms_per_step": 1e3 * summary.background.as_secs_f64() / recorded_steps as f64,
        "device_bytes_used_before": before, "device_bytes_used_after": after,
    }))
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
    let logits = trained.model.forward(x)?;
    let logits = logits.flatten_to(logits.rank() - 2)?.to_dtype(DType::F32)?;
    let loss = candle_nn::loss::cross_entropy(&logits, &y.flatten_all()?)?;
    trained.optimizer.backward_step(&loss)?;
    Ok(())
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

/// Bytes of the device that are in use, if it is CUDA's.
fn memory() -> Option<u64> {
    #[cfg(feature = "cuda")]
    {
        let (free, all) = candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()?;
        Some((all - free) as u64)
    }
    #[cfg(not(feature = "cuda"))]
    None
}
