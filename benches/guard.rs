//! What the guard costs: recorded steps of the MLP with the default guard, without one, and with one that may stop, in
//! turn in one process.
//!
//!     cargo bench --bench guard -- [--pairs N] [--threads N]
//!
//! Ratios of neighboring blocks are summed up by median, 10th and 90th percentile: of the time that passes, and of the
//! processor time of all threads, in which others on the machine do not count. The second needs Linux.

#[path = "overhead/models.rs"]
#[allow(dead_code)]
mod models;
#[path = "../examples/support/mod.rs"]
#[allow(dead_code)]
mod support;

use anyhow::{bail, Context, Result};
use candle_nn::{VarMap, SGD};
use gradlog::{Config, Guard, OnEvent, Recorder, Taps};
use models::{Model, Workload};
use std::time::Instant;

const RATE: f64 = 0.01;
const MODES: [&str; 3] = ["off", "default", "stop"];

struct Lane {
    model: Model,
    optimizer: SGD,
    recorder: Recorder,
    step: u64,
    seconds: Vec<f64>,
    processor: Vec<f64>,
    loss: f32,
}

/// Seconds that the threads of this process have run.
fn processor_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let read = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("schedstat")).ok();
    let nanoseconds = |text: String| text.split_whitespace().next().and_then(|first| first.parse::<f64>().ok());
    threads.flatten().filter_map(read).filter_map(nanoseconds).sum::<f64>() / 1e9
}

impl Lane {
    fn new(workload: Workload, mode: &str, dir: &std::path::Path) -> Result<Self> {
        let (variables, taps) = (VarMap::new(), Taps::new());
        let model = Model::new(workload, &variables, Some(&taps))?;
        support::seed_weights(&variables, 1)?;
        let guard = match mode {
            "off" => Guard::off(),
            "default" => Guard::default(),
            _ => Guard::default().on_event(OnEvent::Stop),
        };
        let recorder = Recorder::create(dir.join(mode), &taps, Config { guard, ..Config::default() })?;
        let optimizer = candle_nn::Optimizer::new(variables.all_vars(), RATE)?;
        Ok(Self { model, optimizer, recorder, step: 0, seconds: Vec::new(), processor: Vec::new(), loss: 0.0 })
    }

    fn block(&mut self, data: &models::Data, steps: u64) -> Result<()> {
        let (start, processor) = (Instant::now(), processor_seconds());
        for _ in 0..steps {
            let (ids, x, y) = data.batch(self.step)?;
            self.step += 1;
            let mut pass = self.recorder.pass(ids)?;
            let loss = pass.cross_entropy(&self.model.forward(&x)?.1, &y)?;
            let committed = pass.backward_step(&mut self.optimizer, &loss)?;
            if !committed.events.is_empty() {
                bail!("the guard told something: {:?}", committed.events);
            }
            self.loss = loss.to_scalar()?;
        }
        self.seconds.push(start.elapsed().as_secs_f64() / steps as f64);
        // The background thread's work belongs to this block.
        self.recorder.flush()?;
        self.processor.push((processor_seconds() - processor) / steps as f64);
        Ok(())
    }
}

fn main() -> Result<()> {
    let (mut pairs, mut threads) = (40usize, 1usize);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--pairs" => pairs = value()?.parse().context("--pairs takes a number")?,
            "--threads" => threads = value()?.parse().context("--threads takes a number")?,
            "--bench" => {} // cargo's own
            other => bail!("unknown argument {other}: see the top of benches/guard.rs"),
        }
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let target = std::env::current_exe()?.parent().context("the bench has no folder")?.to_owned();
    println!(
        "workload  guard     step ms  ratio to `off`: median [p10, p90] of {pairs}  background ms  processor ms and ratio"
    );
    for workload in [Workload::Mlp64, Workload::Mlp256] {
        let data = models::Data::load(workload)?;
        let dir = tempfile::tempdir_in(&target)?;
        let mut lanes = MODES.iter().map(|mode| Lane::new(workload, mode, dir.path())).collect::<Result<Vec<_>>>()?;
        for pair in 0..=pairs {
            // Each round begins with another mode.
            for number in 0..MODES.len() {
                lanes[(number + pair) % MODES.len()].block(&data, 2 * workload.steps_in_block())?;
            }
        }
        if lanes.iter().any(|lane| lane.loss.to_bits() != lanes[0].loss.to_bits()) {
            bail!("the modes do not reach the same loss");
        }
        let blocks = |numbers: &[f64]| numbers[1..].to_vec();
        let (off, off_processor) = (blocks(&lanes[0].seconds), blocks(&lanes[0].processor));
        let sorted = |mut numbers: Vec<f64>| {
            numbers.sort_by(f64::total_cmp);
            numbers
        };
        let ratios = |own: &[f64], off: &[f64]| sorted(own[1..].iter().zip(off).map(|(own, off)| own / off).collect());
        let at = |sorted: &[f64], share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        for (mode, lane) in MODES.iter().zip(lanes) {
            let (ratio, processor) = (ratios(&lane.seconds, &off), ratios(&lane.processor, &off_processor));
            let median = |numbers: &[f64]| 1e3 * at(&sorted(blocks(numbers)), 0.5);
            let (step, processor_step) = (median(&lane.seconds), median(&lane.processor));
            let background = 1e3 * lane.recorder.finish()?.background.as_secs_f64() / lane.step as f64;
            let spread =
                |ratios: &[f64]| format!("{:.4} [{:.3}, {:.3}]", at(ratios, 0.5), at(ratios, 0.1), at(ratios, 0.9));
            println!(
                "{:<8}  {mode:<8} {step:>8.3}  {}  {background:.3}  {processor_step:.3}  {}",
                workload.name(),
                spread(&ratio),
                spread(&processor),
            );
        }
    }
    Ok(())
}
