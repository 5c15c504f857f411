//! How the cost of recording and of questions grows: with the width, the depth, the batch, the positions, the visits.
//!
//!     cargo bench --bench growth -- [--json FILE] [--pairs N] [--visits N] [--only WORDS]
//!
//! Recording: a network of equal linear layers with ReLU between them, whose steps with a disabled recorder and with a
//! recording one take turns. With several positions an example, layers are folded. Questions: forgetting over logs of
//! outputs, and TracIn of one probe over logs of gradients, which are those of `benches/scoring`; `--visits` is the
//! size of the largest log of outputs (default 10,000,000, which takes 250 MB; 100,000,000 take 2.5 GB).
//!
//! `--only` keeps the rows whose name holds these words, and asks no questions.
//!
//! A cost grows linearly if the last columns stay as they are from row to row. What came out: `benches/results`.

#[path = "../overhead/memory.rs"]
mod memory;
mod questions;

use anyhow::{bail, Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Optimizer, VarBuilder, VarMap, SGD};
use gradlog::nn::Linear;
use gradlog::{Config, Folding, Recorder, StepInfo, Taps};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: memory::Counting<std::alloc::System> = memory::Counting(std::alloc::System);

const CLASSES: usize = 10;
/// A block of steps lasts about so long.
const BLOCK_SECONDS: f64 = 0.1;

/// A network and its batches.
#[derive(Debug, Clone, Copy)]
struct Shape {
    width: usize,
    depth: usize,
    batch: usize,
    /// Above 1 the layers are folded.
    positions: usize,
    /// Whether folded layers are projected from both sides.
    two_sided: bool,
}

const BASE: Shape = Shape { width: 256, depth: 2, batch: 64, positions: 1, two_sided: false };

fn shapes() -> Vec<(&'static str, Shape)> {
    let widths = [128, 256, 512, 1024, 2048, 4096].map(|width| ("width", Shape { width, ..BASE }));
    let depths = [2, 6, 12, 24, 48].map(|depth| ("depth", Shape { depth, ..BASE }));
    let batches = [1, 4, 16, 64, 256, 1024].map(|batch| ("batch", Shape { batch, ..BASE }));
    let folded = Shape { batch: 16, positions: 4, ..BASE };
    let wide = [128, 256, 512, 1024, 2048].map(|width| ("width, 4 positions", Shape { width, ..folded }));
    let long = [2, 8, 32, 128].map(|positions| ("positions", Shape { positions, ..folded }));
    let both = |name, shapes: &[(&'static str, Shape)]| -> Vec<(&'static str, Shape)> {
        shapes.iter().map(|(_, shape)| (name, Shape { two_sided: true, ..*shape })).collect()
    };
    let (wide_both, long_both) = (both("width, 4 positions, two-sided", &wide), both("positions, two-sided", &long));
    [&widths[..], &depths, &batches, &wide, &long, &wide_both, &long_both].concat()
}

struct Lane {
    layers: Vec<Linear>,
    recorder: Recorder,
    optimizer: SGD,
    seconds: Vec<f64>,
    steps: u64,
    peak: u64,
}

impl Lane {
    fn new(shape: Shape, dir: Option<&Path>) -> Result<Self> {
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let (layers, taps) = Taps::collect(|| {
            let hidden = (0..shape.depth)
                .map(|n| gradlog::nn::linear(shape.width, shape.width, vb.pp(format!("fc{n}"))))
                .collect::<candle_core::Result<Vec<_>>>()?;
            let last = gradlog::nn::linear(shape.width, CLASSES, vb.pp("head"))?;
            candle_core::Result::Ok(hidden.into_iter().chain([last]).collect::<Vec<_>>())
        })?;
        let recorder = match dir {
            Some(dir) => {
                let folding = if shape.two_sided { Folding::TwoSided { side: 64 } } else { Folding::Whole };
                Recorder::create(dir, &taps, Config { folding, ..Config::default() })?
            }
            None => Recorder::disabled(),
        };
        let optimizer = SGD::new(variables.all_vars(), 1e-3)?;
        Ok(Self { layers, recorder, optimizer, seconds: Vec::new(), steps: 0, peak: 0 })
    }

    fn step(&mut self, x: &Tensor, y: &Tensor, ids: &[u64]) -> Result<()> {
        let mut pass = self.recorder.pass(ids)?;
        let mut h = x.clone();
        for (number, layer) in self.layers.iter().enumerate() {
            h = layer.forward(&h)?;
            if number + 1 < self.layers.len() {
                h = gradlog::ops::relu(&h)?;
            }
        }
        let loss = pass.cross_entropy(&h, y)?;
        let grads = loss.backward()?;
        pass.commit(StepInfo::new(1e-3))?;
        self.optimizer.step(&grads)?;
        self.steps += 1;
        Ok(())
    }

    fn block(&mut self, x: &Tensor, y: &Tensor, ids: &[u64], steps: usize) -> Result<()> {
        let before = memory::reset_peak();
        let start = Instant::now();
        for _ in 0..steps {
            self.step(x, y, ids)?;
        }
        self.seconds.push(start.elapsed().as_secs_f64() / steps as f64);
        self.peak = self.peak.max(memory::peak().saturating_sub(before));
        Ok(())
    }
}

fn measure(shape: Shape, pairs: usize, dir: &Path) -> Result<Value> {
    let Shape { width, depth, batch, positions, .. } = shape;
    let dims = if positions > 1 { vec![batch, positions, width] } else { vec![batch, width] };
    let x = Tensor::randn(0f32, 1f32, dims, &Device::Cpu)?;
    let targets: Vec<u32> = (0..batch * positions).map(|i| (i * 7 % CLASSES) as u32).collect();
    let y = Tensor::from_vec(targets, batch * positions, &Device::Cpu)?;
    let y = if positions > 1 { y.reshape((batch, positions))? } else { y };
    let ids: Vec<u64> = (0..batch as u64).collect();
    let mut disabled = Lane::new(shape, None)?;
    let mut recorded = Lane::new(shape, Some(dir))?;
    // The first steps of each warm its caches up, and say how many make a block.
    disabled.block(&x, &y, &ids, 2)?;
    recorded.block(&x, &y, &ids, 2)?;
    let steps = (BLOCK_SECONDS / disabled.seconds[0]).clamp(1.0, 500.0) as usize;
    for pair in 0..pairs {
        // None is always the second.
        if pair % 2 == 0 {
            disabled.block(&x, &y, &ids, steps)?;
            recorded.block(&x, &y, &ids, steps)?;
        } else {
            recorded.block(&x, &y, &ids, steps)?;
            disabled.block(&x, &y, &ids, steps)?;
        }
    }
    let ratios = recorded.seconds[1..].iter().zip(&disabled.seconds[1..]).map(|(own, other)| own / other).collect();
    let visits = recorded.steps as f64 * batch as f64;
    let parameters = depth * (width + 1) * width + (width + 1) * CLASSES;
    let memory = recorded.peak.saturating_sub(disabled.peak);
    let step = median(disabled.seconds[1..].to_vec());
    let summary = recorded.recorder.finish()?;
    let background = 1e6 * summary.background.as_secs_f64() / visits;
    let per_number = match positions {
        1 => background / (2 * depth * width + width + CLASSES) as f64,
        _ => background / parameters as f64,
    };
    Ok(json!({
        "width": width, "depth": depth, "batch": batch, "positions": positions, "parameters": parameters,
        "disabled_ms": 1e3 * step, "ratio_to_disabled": median(ratios), "background_us_per_visit": background,
        "background_ns_per_number": 1e3 * per_number, "bytes_per_visit": summary.bytes_per_visit,
        "recorder_bytes": memory,
    }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    let (mut path, mut pairs, mut visits, mut only) = (None, 6, 10_000_000, String::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--json" => path = Some(PathBuf::from(value()?)),
            "--pairs" => pairs = value()?.parse().context("--pairs takes a number")?,
            "--only" => only = value()?,
            "--visits" => visits = value()?.parse().context("--visits takes a number")?,
            "--bench" => {} // cargo's own
            other => bail!("unknown argument {other}: see the top of benches/growth/main.rs"),
        }
    }
    // Where the build is, is a real disk; the system's temporary folder is often memory.
    let target = std::env::current_exe()?.parent().context("the bench has no folder")?.to_owned();
    let dir = tempfile::tempdir_in(target)?;
    let mut recording = Vec::new();
    println!("what grows           width depth batch positions   step ms  recorded / disabled  background us/visit  ns/number  bytes/visit  memory MiB");
    let chosen = shapes().into_iter().filter(|(grows, _)| grows.contains(&only));
    for (number, (grows, shape)) in chosen.enumerate() {
        let mut row = measure(shape, pairs, &dir.path().join(number.to_string()))?;
        let figure = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        println!(
            "{grows:<20} {:>5} {:>5} {:>5} {:>9} {:>9.2} {:>20.3} {:>20.2} {:>10.3} {:>12.0} {:>11.1}",
            shape.width,
            shape.depth,
            shape.batch,
            shape.positions,
            figure("disabled_ms"),
            figure("ratio_to_disabled"),
            figure("background_us_per_visit"),
            figure("background_ns_per_number"),
            figure("bytes_per_visit"),
            figure("recorder_bytes") / f64::from(1 << 20),
        );
        row["grows"] = grows.into();
        recording.push(row);
    }
    let questions = if only.is_empty() { questions::measure(dir.path(), visits)? } else { Vec::new() };
    if let Some(path) = path {
        let all = json!({ "recording": recording, "questions": questions });
        std::fs::write(&path, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
