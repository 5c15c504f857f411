//! What recording costs: the step of a training loop, plain and recorded, in turn in one process.
//!
//!     cargo bench --bench overhead -- [--json FILE] [--pairs N] [--workload mlp|cnn|transformer|lstm] [--threads N]
//!         [--in-place-sgd] [--adamw] [--profile MODE]
//!     cargo bench --bench overhead_mimalloc -- ...       the same under mimalloc instead of glibc's allocator
//!
//! Machines are shared and noisy, so nothing is compared across processes: blocks of steps of each mode take turns, and
//! the ratios of neighboring blocks are summed up by median, 10th and 90th percentile. The modes:
//!
//! | mode | layers | recorder |
//! |---|---|---|
//! | plain | candle_nn's | none |
//! | disabled | tapped | `Recorder::disabled()` |
//! | outputs | tapped, unseen by the recorder | losses and predictions |
//! | last | tapped, unseen by the recorder | the last layer's gradients from its features |
//! | recorded | tapped | everything, by the default configuration |
//!
//! The tapped loops also take ReLU, max-pooling and softmax from gradlog (`ops::relu`, `ops::max_pool2d_as_candle`,
//! `nn::ops::softmax_last_dim`), which compute what candle's do. With `--in-place-sgd` they step by
//! `gradlog::optim::Sgd`, which gives the same weights, in place of candle_nn's SGD. With `--adamw` the plain loop
//! steps by candle_nn's AdamW and the tapped ones by `gradlog::optim::AdamW`, which shows the recorder its moments.
//! `waited` is the training thread's time in handing over passes, without what it waits for at the end, when it asks
//! for all to be on disk.
//!
//! `disabled` is the ratio to the tapped loop without a recorder, and `floor` what the background thread cannot do
//! without: reading each captured number once and writing the stored bytes ([`floor`]). `background` is its working
//! time, the file system's included. It is to stay below the bar: three floors, and one and a half times what it takes
//! to read the gradients that are folded.
//!
//! After the pairs the recorded loop runs on for a while, and a thread looks at what the background thread does
//! ([`stages`]). Its time on a CPU, which other programs hardly change, is printed by stage, in floors.
//!
//! Every mode starts from the same weights and sees the same batches; at the end their losses must agree.
//! `--profile MODE` runs one mode alone, for a profiler.

mod floor;
pub mod memory;
mod models;
mod stages;
#[path = "../../examples/support/mod.rs"]
#[allow(dead_code)]
mod support;

use anyhow::{bail, Context, Result};
use candle_core::{Tensor, Var};
use candle_nn::{Optimizer, VarMap, SGD};
use gradlog::optim::{AdamW, Sgd, SgdConfig};
use gradlog::{Config, Pass, RecordError, Recorder, RecordingSummary, Taps};
use models::{Model, Workload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const RATE: f64 = 0.01;
const ADAM_RATE: f64 = 1e-3;
/// Longer than the background thread pauses before it looks at the last pass of a block.
const BETWEEN_BLOCKS: Duration = Duration::from_millis(100);
const MODES: [&str; 5] = ["plain", "disabled", "outputs", "last", "recorded"];

/// One row of the results.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    workload: String,
    batch: usize,
    threads: usize,
    mode: String,
    ratio_median: f64,
    ratio_p10: f64,
    ratio_p90: f64,
    plain_ms: f64,
    step_ms: f64,
    bytes_per_visit: f64,
    blocked_share: f64,
    /// Median of the ratios to the neighboring blocks of `disabled`.
    ratio_to_disabled: f64,
    background_ms: f64,
    background_us_per_visit: f64,
    /// What [`floor`] takes. 0 for all modes but `recorded`.
    floor_us_per_visit: f64,
    /// What it takes to read the gradients that are folded. 0 as well.
    summed_us_per_visit: f64,
    /// What the background thread spends on a CPU by [`stages`], polling included. Empty for all modes but `recorded`,
    /// and where the system does not tell the time of a thread.
    cpu_us_per_visit: BTreeMap<String, f64>,
    recorder_peak_bytes: u64,
    allocator: String,
}

struct Arguments {
    json: Option<PathBuf>,
    pairs: usize,
    workload: Option<String>,
    threads: Option<usize>,
    child: bool,
    in_place_sgd: bool,
    adamw: bool,
    /// The only mode to run.
    profile: Option<String>,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        json: None,
        pairs: 20,
        workload: None,
        threads: None,
        child: false,
        in_place_sgd: false,
        adamw: false,
        profile: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--json" => parsed.json = Some(value()?.into()),
            "--pairs" => parsed.pairs = value()?.parse().context("--pairs takes a number")?,
            "--workload" => parsed.workload = Some(value()?),
            "--threads" => parsed.threads = Some(value()?.parse().context("--threads takes a number")?),
            "--child" => parsed.child = true,
            "--in-place-sgd" => parsed.in_place_sgd = true,
            "--adamw" => parsed.adamw = true,
            "--profile" => parsed.profile = Some(value()?),
            "--bench" => {} // cargo's own
            other => bail!("unknown argument {other}: see the top of benches/overhead/main.rs"),
        }
    }
    Ok(parsed)
}

/// Measures under the allocator that the binary was built with, which goes by the name `allocator`.
pub fn run(allocator: &str) -> Result<()> {
    let arguments = arguments()?;
    if arguments.child {
        let workload = arguments.workload.as_deref().and_then(Workload::from_name).context("no such workload")?;
        if let Some(mode) = &arguments.profile {
            return profile(workload, mode, &arguments);
        }
        let rows = measure(workload, &arguments, allocator)?;
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    println!(
        "allocator {allocator}; ratios are to `plain`, by median [10th, 90th percentile] of {} pairs of blocks",
        arguments.pairs
    );
    println!(
        "workload          batch thr  mode       ratio  [p10,  p90]  disabled  step ms  bytes/visit  waited  \
         background us/visit  floor  peak MiB"
    );
    let mut all = Vec::new();
    for workload in Workload::ALL {
        if arguments.workload.as_deref().is_some_and(|name| name != workload.name() && name != workload.family()) {
            continue;
        }
        for threads in arguments.threads.map_or(vec![1, 2], |n| vec![n]) {
            // candle's and rayon's pools are made once in a process, so each number of threads has a process of its
            // own.
            let child = std::process::Command::new(std::env::current_exe()?)
                .args(["--child", "--workload", workload.name(), "--threads", &threads.to_string()])
                .args(["--pairs", &arguments.pairs.to_string()])
                .args(arguments.in_place_sgd.then_some("--in-place-sgd"))
                .args(arguments.adamw.then_some("--adamw"))
                .args(arguments.profile.iter().flat_map(|mode| ["--profile", mode]))
                .env("RAYON_NUM_THREADS", threads.to_string())
                .stderr(std::process::Stdio::inherit())
                .output()?;
            if !child.status.success() {
                bail!("{} with {threads} threads failed", workload.name());
            }
            if arguments.profile.is_some() {
                print!("{}", String::from_utf8_lossy(&child.stdout));
                continue;
            }
            let rows: Vec<Row> = serde_json::from_slice(&child.stdout)?;
            for row in &rows {
                println!(
                    "{:<17} {:>5} {:>3}  {:<9} {:>6.3}  [{:.2}, {:.2}] {:>9.3} {:>8.2} {:>12.0} {:>6.2}% {:>20.2} {:>6.2} {:>9.1}",
                    workload.name(),
                    row.batch,
                    row.threads,
                    row.mode,
                    row.ratio_median,
                    row.ratio_p10,
                    row.ratio_p90,
                    row.ratio_to_disabled,
                    row.step_ms,
                    row.bytes_per_visit,
                    100.0 * row.blocked_share,
                    row.background_us_per_visit,
                    row.floor_us_per_visit,
                    row.recorder_peak_bytes as f64 / f64::from(1 << 20)
                );
                if !row.cpu_us_per_visit.is_empty() {
                    let floor = floor::Floor { captured: row.floor_us_per_visit, summed: row.summed_us_per_visit };
                    println!(
                        "    on a CPU, in floors: {}; to read folded gradients {:.2} us, bar {:.1} us",
                        stages::in_floors(&row.cpu_us_per_visit, floor.captured),
                        floor.summed,
                        floor.bar()
                    );
                }
            }
            all.extend(rows);
        }
    }
    if let Some(path) = arguments.json {
        std::fs::write(&path, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The optimizer of a loop.
enum Descent {
    Sgd(SGD),
    InPlaceSgd(Sgd),
    PlainAdamW(candle_nn::AdamW),
    AdamW(AdamW),
}

impl Descent {
    fn new(arguments: &Arguments, is_plain: bool, variables: Vec<Var>) -> candle_core::Result<Self> {
        Ok(match (arguments.adamw, is_plain) {
            (true, true) => Self::PlainAdamW(candle_nn::AdamW::new_lr(variables, ADAM_RATE)?),
            // candle's weight decay, so that all loops take the same steps.
            (true, false) => Self::AdamW(AdamW::new(
                variables,
                candle_nn::ParamsAdamW { lr: ADAM_RATE, ..Default::default() }.into(),
            )?),
            (false, false) if arguments.in_place_sgd => Self::InPlaceSgd(Sgd::new(variables, SgdConfig::new(RATE))?),
            (false, _) => Self::Sgd(SGD::new(variables, RATE)?),
        })
    }

    /// The step of the plain loop.
    fn step(&mut self, loss: &Tensor) -> candle_core::Result<()> {
        match self {
            Self::Sgd(sgd) => sgd.backward_step(loss),
            Self::PlainAdamW(adam) => adam.backward_step(loss),
            Self::InPlaceSgd(_) | Self::AdamW(_) => candle_core::bail!("a plain loop steps by candle's optimizers"),
        }
    }

    /// The step of the other loops.
    fn recorded_step(&mut self, pass: Pass<'_>, loss: &Tensor) -> Result<(), RecordError> {
        match self {
            Self::Sgd(sgd) => pass.backward_step(sgd, loss),
            Self::InPlaceSgd(sgd) => pass.backward_step(sgd, loss),
            Self::PlainAdamW(adam) => pass.backward_step(adam, loss),
            Self::AdamW(adam) => pass.backward_step(adam, loss),
        }
        .map(drop)
    }
}

/// One mode: its model, optimizer and recorder, and what it took so far.
struct Lane {
    model: Model,
    descend: Descent,
    recorder: Recorder,
    step: u64,
    seconds: Vec<f64>,
    loss: f32,
    peak_bytes: u64,
}

impl Lane {
    fn new(workload: Workload, mode: &str, arguments: &Arguments, dir: &std::path::Path) -> Result<Self> {
        let variables = VarMap::new();
        let taps = Taps::new();
        let model = Model::new(workload, &variables, (mode != "plain").then_some(&taps))?;
        support::seed_weights(&variables, 1)?;
        let recorder = match mode {
            "plain" | "disabled" => Recorder::disabled(),
            "outputs" => Recorder::create(dir.join(mode), &Taps::new(), Config::default())?,
            "last" => {
                let last = Taps::new();
                let (inputs, outputs) = workload.head();
                last.declare_last_layer("head", gradlog::taps::LastLayer::new(inputs, outputs));
                Recorder::create(dir.join(mode), &last, Config::default())?
            }
            _ => Recorder::create(dir.join(mode), &taps, Config::default())?,
        };
        let descend = Descent::new(arguments, mode == "plain", variables.all_vars())?;
        Ok(Self { model, descend, recorder, step: 0, seconds: Vec::new(), loss: 0.0, peak_bytes: 0 })
    }

    /// Runs `steps` steps and keeps the mean time of one.
    fn block(&mut self, mode: &str, data: &models::Data, steps: u64) -> Result<()> {
        let before = memory::reset_peak();
        let start = Instant::now();
        for _ in 0..steps {
            let (ids, x, y) = data.batch(self.step)?;
            self.step += 1;
            let loss = if mode == "plain" {
                let (_, logits) = self.model.forward(&x)?;
                let loss = models::plain_loss(&logits, &y)?;
                self.descend.step(&loss)?;
                loss
            } else {
                let mut pass = self.recorder.pass(ids)?;
                let (features, logits) = self.model.forward(&x)?;
                if mode == "last" {
                    pass.features(&features);
                }
                let loss = pass.cross_entropy(&logits, &y)?;
                self.descend.recorded_step(pass, &loss)?;
                loss
            };
            self.loss = loss.to_scalar()?;
        }
        self.seconds.push(start.elapsed().as_secs_f64() / steps as f64);
        self.peak_bytes = self.peak_bytes.max(memory::peak().saturating_sub(before));
        Ok(())
    }
}

/// Runs the blocks of one mode, as many as there would be pairs.
fn profile(workload: Workload, mode: &str, arguments: &Arguments) -> Result<()> {
    let data = models::Data::load(workload)?;
    let dir = tempfile::tempdir()?;
    let mut lane = Lane::new(workload, mode, arguments, dir.path())?;
    for _ in 0..=arguments.pairs {
        lane.block(mode, &data, workload.steps_in_block())?;
    }
    println!("{} {mode}: {:.2} ms a step", workload.name(), 1e3 * median(&lane.seconds[1..]));
    lane.recorder.finish()?;
    Ok(())
}

fn measure(workload: Workload, arguments: &Arguments, allocator: &str) -> Result<Vec<Row>> {
    let (threads, pairs) = (arguments.threads.unwrap_or(1), arguments.pairs);
    let data = models::Data::load(workload)?;
    // Where the build is, is a real disk; the system's temporary folder is often memory.
    let target = std::env::current_exe()?.parent().context("the bench has no folder")?.to_owned();
    let dir = tempfile::tempdir_in(target)?;
    let mut lanes =
        MODES.iter().map(|mode| Lane::new(workload, mode, arguments, dir.path())).collect::<Result<Vec<_>>>()?;
    for pair in 0..=pairs {
        for number in 0..MODES.len() {
            // Each round begins with another mode, so that none is always the one after the slowest.
            let number = (number + pair) % MODES.len();
            lanes[number].block(MODES[number], &data, workload.steps_in_block())?;
            // What the background thread has left to do must not slow down the next mode.
            std::thread::sleep(BETWEEN_BLOCKS);
        }
    }
    let losses: Vec<f32> = lanes.iter().map(|lane| lane.loss).collect();
    if losses.iter().any(|loss| (loss - losses[0]).abs() > 2e-3 * losses[0].abs() || !loss.is_finite()) {
        bail!("{}: the modes do not reach the same loss: {losses:?}", workload.name());
    }
    // The first block of each mode warms caches and pools up and is not counted.
    let plain: Vec<f64> = lanes[0].seconds[1..].to_vec();
    let disabled: Vec<f64> = lanes[1].seconds[1..].to_vec();
    let disabled_peak = lanes[1].peak_bytes;
    let mut rows = Vec::new();
    for (mode, mut lane) in MODES.iter().zip(lanes) {
        let all_seconds = std::mem::take(&mut lane.seconds);
        let seconds = &all_seconds[1..];
        let ratios_to = |others: &[f64]| {
            let mut ratios: Vec<f64> = seconds.iter().zip(others).map(|(own, other)| own / other).collect();
            ratios.sort_by(f64::total_cmp);
            ratios
        };
        let ratios = ratios_to(&plain);
        let total: f64 = all_seconds.iter().sum::<f64>() * workload.steps_in_block() as f64;
        let cpu_us_per_visit = match *mode {
            "recorded" => stages::measure(&mut lane, &data, workload)?,
            _ => BTreeMap::new(),
        };
        let summary: RecordingSummary = lane.recorder.finish()?;
        let floor = match *mode {
            "recorded" => {
                let captured = floor::Captured::of_run(&dir.path().join(mode), summary.bytes_per_visit)?;
                floor::measure(captured, workload.batch(), dir.path())?
            }
            _ => floor::Floor::default(),
        };
        let steps = lane.step as f64;
        let visits = steps * workload.batch() as f64;
        rows.push(Row {
            workload: workload.family().into(),
            batch: workload.batch(),
            threads,
            mode: (*mode).into(),
            ratio_median: percentile(&ratios, 0.5),
            ratio_p10: percentile(&ratios, 0.1),
            ratio_p90: percentile(&ratios, 0.9),
            plain_ms: 1e3 * median(&plain),
            step_ms: 1e3 * median(seconds),
            bytes_per_visit: summary.bytes_per_visit,
            blocked_share: summary.blocked.as_secs_f64() / total,
            ratio_to_disabled: percentile(&ratios_to(&disabled), 0.5),
            background_ms: 1e3 * summary.background.as_secs_f64() / steps,
            background_us_per_visit: 1e6 * summary.background.as_secs_f64() / visits,
            floor_us_per_visit: floor.captured,
            summed_us_per_visit: floor.summed,
            cpu_us_per_visit,
            recorder_peak_bytes: match *mode {
                "plain" | "disabled" => 0,
                _ => lane.peak_bytes.saturating_sub(disabled_peak),
            },
            allocator: allocator.into(),
        });
    }
    Ok(rows)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 0.5)
}

/// Of sorted values, by nearest rank.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
