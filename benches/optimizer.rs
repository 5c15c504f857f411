//! The time of an optimizer's step: `gradlog::optim::AdamW` and `Sgd` against candle_nn's, in one process, in turn.
//!
//!     cargo bench --bench optimizer -- [--json FILE] [--pairs N]
//!
//! For 0.5, 5 and 50 million parameters in matrices of 1,000 columns, with 1 and 2 threads. A step of AdamW needs seven
//! numbers of memory traffic for each parameter: it reads weight, gradient and two moments, and writes three of them.

use anyhow::{bail, Context, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW, SGD};
use gradlog::optim::{AdamW, Sgd, SgdConfig};
use serde::Serialize;
use std::process::Command;
use std::time::Instant;

const MILLIONS: [f64; 3] = [0.5, 5.0, 50.0];

#[derive(Serialize)]
struct Row {
    optimizer: &'static str,
    parameters: usize,
    threads: usize,
    /// Median of the ratios of neighboring steps, ours by candle's.
    ratio: f64,
    ours_ms: f64,
    candle_ms: f64,
    /// Memory traffic of our step, as if each number moved once.
    gigabytes_per_second: f64,
}

fn main() -> Result<()> {
    let (mut json, mut pairs, mut child) = (None, 15usize, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().context("a value is missing");
        match argument.as_str() {
            "--json" => json = Some(value()?),
            "--pairs" => pairs = value()?.parse()?,
            "--child" => child = Some(value()?.parse()?),
            "--bench" => {}
            other => bail!("unknown argument {other}"),
        }
    }
    if let Some(threads) = child {
        let rows = measure(threads, pairs)?;
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    let mut rows: Vec<serde_json::Value> = Vec::new();
    // candle's pools are made once in a process, so each number of threads has a process of its own.
    for threads in ["1", "2"] {
        let output = Command::new(std::env::current_exe()?)
            .args(["--child", threads, "--pairs", &pairs.to_string()])
            .env("RAYON_NUM_THREADS", threads)
            .output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        rows.extend(serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout)?);
    }
    println!("optimizer  parameters  threads  ratio  ours ms  candle ms  GB/s");
    for row in &rows {
        println!(
            "{:<9}  {:>10}  {:>7}  {:>5.3}  {:>7.2}  {:>9.2}  {:>4.1}",
            row["optimizer"].as_str().unwrap_or_default(),
            row["parameters"],
            row["threads"],
            row["ratio"].as_f64().unwrap_or(f64::NAN),
            row["ours_ms"].as_f64().unwrap_or(f64::NAN),
            row["candle_ms"].as_f64().unwrap_or(f64::NAN),
            row["gigabytes_per_second"].as_f64().unwrap_or(f64::NAN),
        );
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

fn measure(threads: usize, pairs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for millions in MILLIONS {
        let parameters = (millions * 1e6) as usize;
        let make = || -> Result<Vec<Var>> {
            // Ten matrices, as in a small model.
            let shape = (parameters / 10_000, 1000);
            (0..10).map(|_| Ok(Var::from_tensor(&Tensor::randn(0f32, 0.1, shape, &Device::Cpu)?)?)).collect()
        };
        let params = || ParamsAdamW { lr: 1e-4, ..Default::default() };
        let (ours, candles) = (make()?, make()?);
        let pair = (AdamW::new(ours.clone(), params().into())?, candle_nn::AdamW::new(candles.clone(), params())?);
        rows.push(compare("AdamW", 7, (parameters, threads, pairs), pair, [&ours, &candles])?);
        let pair = (Sgd::new(ours.clone(), SgdConfig::new(1e-4))?, SGD::new(candles.clone(), 1e-4)?);
        rows.push(compare("SGD", 3, (parameters, threads, pairs), pair, [&ours, &candles])?);
    }
    Ok(rows)
}

fn gradients(variables: &[Var]) -> Result<GradStore> {
    let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let loss = variables.iter().try_fold(zero, |sum, var| sum + var.sqr()?.sum_all()?)?;
    Ok(loss.backward()?)
}

fn compare(
    optimizer: &'static str,
    numbers: usize,
    (parameters, threads, pairs): (usize, usize, usize),
    mut pair: (impl Optimizer, impl Optimizer),
    variables: [&[Var]; 2],
) -> Result<Row> {
    let [ours, candles] = [gradients(variables[0])?, gradients(variables[1])?];
    let mut times = Vec::new();
    // The first pair makes the moments.
    for number in 0..=pairs {
        let start = Instant::now();
        pair.0.step(&ours)?;
        let own = start.elapsed().as_secs_f64();
        let start = Instant::now();
        pair.1.step(&candles)?;
        let other = start.elapsed().as_secs_f64();
        if number > 0 {
            times.push((own, other));
        }
    }
    let median = |value: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = times.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (own, other) = (median(|t| t.0), median(|t| t.1));
    Ok(Row {
        optimizer,
        parameters,
        threads,
        ratio: median(|t| t.0 / t.1),
        ours_ms: own * 1e3,
        candle_ms: other * 1e3,
        gigabytes_per_second: (4 * numbers * parameters) as f64 / own / 1e9,
    })
}
