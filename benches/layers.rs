//! The time of forward and backward of a layer: tapped against candle_nn's, in one process, in turn.
//!
//!     cargo bench --bench layers -- [--json FILE] [--rounds N]
//!
//! Two transposed convolutions, as in the generator of a DCGAN for 28 by 28 images, batch 32. And a linear layer under
//! low-rank adaptation, for one position and for 64. Each round runs candle's layers, the tapped ones, and the tapped
//! ones while they are recorded.

use anyhow::{bail, Context, Result};
use candle_core::{Device, Module, Tensor, Var};
use candle_nn::{ConvTranspose2d, ConvTranspose2dConfig, Func, Linear, VarBuilder, VarMap};
use gradlog::nn::lora::{LoraConfig, LoraLinear};
use gradlog::{Config, Recorder, Taps};
use serde::Serialize;
use std::time::Instant;

const BATCH: usize = 32;

/// Input channels, output channels, side of the input. The kernel has side 4, stride 2, padding 1.
const SHAPES: [(usize, usize, usize); 2] = [(64, 32, 7), (32, 1, 14)];

/// Inputs and outputs of the adapted layer, and the rank.
const WIDTH: usize = 512;
const RANK: usize = 8;

#[derive(Serialize)]
struct Row {
    layer: String,
    threads: usize,
    candle_ms: f64,
    tapped_ms: f64,
    recorded_ms: f64,
    /// Medians of the ratios within a round.
    tapped_ratio: f64,
    recorded_ratio: f64,
}

fn main() -> Result<()> {
    let (mut json, mut rounds) = (None, 30usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().context("a value is missing");
        match argument.as_str() {
            "--json" => json = Some(value()?),
            "--rounds" => rounds = value()?.parse()?,
            "--bench" => {}
            other => bail!("unknown argument {other}"),
        }
    }
    let convolutions = SHAPES.iter().map(|shape| measure_convolution(*shape, rounds));
    let adapted = [1, 64].into_iter().map(|positions| measure_lora(positions, rounds));
    let rows = convolutions.chain(adapted).collect::<Result<Vec<_>>>()?;
    println!("layer                                  threads  candle ms  tapped ms  ratio  recorded ms  ratio");
    for row in &rows {
        println!(
            "{:<37}  {:>7}  {:>9.3}  {:>9.3}  {:>5.3}  {:>11.3}  {:>5.3}",
            row.layer, row.threads, row.candle_ms, row.tapped_ms, row.tapped_ratio, row.recorded_ms, row.recorded_ratio
        );
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

/// `Σ y²` of each example.
fn losses(y: &Tensor) -> candle_core::Result<Tensor> {
    y.sqr()?.flatten_from(1)?.sum(1)
}

fn random(shape: &[usize]) -> Result<Var> {
    Ok(Var::from_tensor(&Tensor::randn(0f32, 0.1, shape, &Device::Cpu)?)?)
}

fn measure_convolution((inputs, outputs, side): (usize, usize, usize), rounds: usize) -> Result<Row> {
    let (weight, bias) = (random(&[inputs, outputs, 4, 4])?, random(&[outputs])?);
    let config = ConvTranspose2dConfig { padding: 1, stride: 2, ..Default::default() };
    let layer = ConvTranspose2d::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()), config);
    let taps = Taps::new();
    let tapped = taps.tap("layer", layer.clone());
    let name = format!("conv_transpose2d {inputs} to {outputs}, side {side} to {}", 2 * side);
    measure(name, &layer, &tapped, &taps, &random(&[BATCH, inputs, side, side])?, rounds)
}

/// Plain LoRA by candle's layers has the same factors. Its base is frozen as well.
fn measure_lora(positions: usize, rounds: usize) -> Result<Row> {
    let base = Linear::new(random(&[WIDTH, WIDTH])?.as_tensor().detach(), Some(random(&[WIDTH])?.as_tensor().detach()));
    let variables = VarMap::new();
    let adapter = VarBuilder::from_varmap(&variables, candle_core::DType::F32, &Device::Cpu);
    let config = LoraConfig::new(RANK, 16.0);
    let (adapted, taps) = Taps::collect(|| LoraLinear::new(base.clone(), config, adapter))?;
    let factors = (Linear::new(adapted.a().clone(), None), Linear::new(adapted.b().clone(), None));
    let plain = Func::new(move |x| {
        let correction = factors.1.forward(&factors.0.forward(x)?)?;
        base.forward(x)? + (correction * config.scale())?
    });
    let name = format!("LoRA {WIDTH} to {WIDTH}, rank {RANK}, {positions} positions");
    let shape = if positions == 1 { vec![BATCH, WIDTH] } else { vec![BATCH, positions, WIDTH] };
    measure(name, &plain, &adapted, &taps, &random(&shape)?, rounds)
}

fn measure(name: String, layer: &dyn Module, tapped: &dyn Module, taps: &Taps, x: &Var, rounds: usize) -> Result<Row> {
    let dir = tempfile::tempdir()?;
    let mut recorder = Recorder::create(dir.path().join("run"), taps, Config::default())?;
    let ids: Vec<u64> = (0..BATCH as u64).collect();
    let mut times: Vec<[f64; 3]> = Vec::new();
    // The first rounds fill caches.
    for round in 0..rounds + 3 {
        let start = Instant::now();
        losses(&layer.forward(x)?)?.mean_all()?.backward()?;
        let candle = start.elapsed().as_secs_f64();
        let start = Instant::now();
        losses(&tapped.forward(x)?)?.mean_all()?.backward()?;
        let own = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut pass = recorder.pass(&ids)?;
        pass.losses(&losses(&tapped.forward(x)?)?)?.backward()?;
        pass.commit(0.1)?;
        let recorded = start.elapsed().as_secs_f64();
        if round >= 3 {
            times.push([candle, own, recorded]);
        }
    }
    recorder.finish()?;
    let median = |value: &dyn Fn(&[f64; 3]) -> f64| {
        let mut values: Vec<f64> = times.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Ok(Row {
        layer: name,
        threads: rayon::current_num_threads(),
        candle_ms: median(&|t| 1e3 * t[0]),
        tapped_ms: median(&|t| 1e3 * t[1]),
        recorded_ms: median(&|t| 1e3 * t[2]),
        tapped_ratio: median(&|t| t[1] / t[0]),
        recorded_ratio: median(&|t| t[2] / t[0]),
    })
}
