//! Memory of the device, and main memory of a process that does nothing but train plainly or recorded.

use super::models::{draw, Workload};
use super::{config, plain_step, recorded_step, Arguments, Kind, Trained};
use anyhow::{ensure, Context, Result};
use candle_core::Device;
use clap::ValueEnum;
use gradlog::Recorder;
use std::process::Command;

/// Which training a process does for its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Training {
    Plain,
    Recorded,
}

/// Steps after which the background thread has had as much work as it ever has.
const STEPS: usize = 12;

/// Starts a process that trains, and returns the most main memory that it had, in bytes. `None` where the system does
/// not tell.
pub fn peak_of(training: Training, workload: Workload, kind: Kind, arguments: &Arguments) -> Result<Option<u64>> {
    let mut command = Command::new(std::env::current_exe().context("the path of this bench")?);
    let name = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
    command.args(["--only", workload.name()]);
    for (flag, value) in [
        ("--dtype", kind.to_possible_value()),
        ("--sketching", arguments.sketching.to_possible_value()),
        ("--peak-of", training.to_possible_value()),
    ] {
        command.arg(flag).args(name(value));
    }
    if arguments.tiny {
        command.arg("--tiny");
    }
    if let Some(side) = arguments.side {
        command.args(["--side", &side.to_string()]);
    }
    let output = command.output().context("starting this bench again")?;
    let words = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "a process of its own failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(words.lines().last().and_then(|line| line.trim().parse().ok()))
}

/// Trains in this process, and prints the most main memory that it had.
pub fn train(training: Training, workload: Workload, kind: Kind, arguments: &Arguments, device: &Device) -> Result<()> {
    let sizes = workload.sizes(arguments.tiny);
    let (x, y) = draw(workload, sizes, device, kind.dtype())?;
    let is_recorded = training == Training::Recorded;
    let mut trained = Trained::new(workload, sizes, is_recorded, (device, kind.dtype()))?;
    let ids: Vec<u64> = (0..sizes.batch as u64).collect();
    let folder = tempfile::tempdir()?;
    if is_recorded {
        let mut recorder = Recorder::create(folder.path().join("run"), &trained.taps, config(arguments))?;
        for _ in 0..STEPS {
            recorded_step(&mut recorder, &mut trained, &ids, &x, &y)?;
        }
        recorder.finish()?;
    } else {
        for _ in 0..STEPS {
            plain_step(&mut trained, &x, &y)?;
        }
        super::synchronize(device)?;
    }
    match peak() {
        Some(bytes) => println!("{bytes}"),
        None => println!("unknown"),
    }
    Ok(())
}

/// The most main memory that this process has had, in bytes: VmHWM of Linux.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| 1024 * kilobytes)
}

/// Bytes of the device that are in use, if it is CUDA's.
pub fn on_device() -> Option<u64> {
    #[cfg(feature = "cuda")]
    {
        let (free, all) = candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()?;
        Some((all - free) as u64)
    }
    #[cfg(not(feature = "cuda"))]
    None
}
