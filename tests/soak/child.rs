//! The child that is killed: run after run, told to its parent line by line over a pipe.
//!
//! A line is one `write`, so that the pipe holds whole lines however the child ends. What a line says holds from when
//! it is written: `flushed` and `finished` come after the call has returned, all others before what they announce.

use crate::training::{mix, Training, BATCH};
use anyhow::Result;
use gradlog::{Config, Recorder};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Longest time that a committed visit stays out of the log: short, so that the thread writes often.
pub const FLUSH_MS: u64 = 5;
/// The most steps that a run has; the reference run has as many.
pub const STEPS_MAX: u64 = 160;

/// The folder of a child's run.
pub fn folder(dir: &Path, run: u64) -> PathBuf {
    dir.join(format!("run-{run}"))
}

/// How many steps a child's run has before it is finished.
pub fn steps(seed: u64, run: u64) -> u64 {
    20 + mix(seed ^ run << 32) % (STEPS_MAX - 20)
}

/// Says `line` to the parent; a parent that is gone ends the child.
pub fn say(line: std::fmt::Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout();
    Ok(out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush())?)
}

/// Returns when the parent has sent a byte.
pub fn wait_for_parent() -> Result<()> {
    Ok(std::io::stdin().read_exact(&mut [0])?)
}

/// Records runs until it is killed. With `idle`, it commits one run's visits, never flushes, and waits to be killed.
pub fn train(dir: &Path, seed: u64, idle: bool) -> Result<()> {
    for run in 0.. {
        say(format_args!("creating {run} 0"))?;
        let mut training = Training::new()?;
        let choice = mix(seed ^ 1 << 20 ^ run);
        let config = Config {
            sketch: crate::training::sketch(),
            flush_interval: std::time::Duration::from_millis(FLUSH_MS),
            // From many small blocks to blocks that only the clock and the flushes close.
            block_rows: [16, 100, 4096][choice as usize % 3],
            // The least there is: a run of this length needs several.
            segment_bytes: 1 << 16,
            sync_interval: std::time::Duration::from_millis(if choice >> 8 & 1 == 0 { 2 } else { 30_000 }),
            ..Config::default()
        };
        let mut recorder = Recorder::create(folder(dir, run), &training.taps, config)?;
        say(format_args!("created {run} 0"))?;
        for step in 0..steps(seed, run) {
            let visits = (step + 1) * BATCH;
            say(format_args!("trying {run} {visits}"))?;
            let (_, recorded) = training.step(&mut recorder, 1)?;
            recorded?;
            say(format_args!("committed {run} {visits}"))?;
            if !idle && mix(seed ^ run << 20 ^ step).is_multiple_of(10) {
                say(format_args!("flushing {run} {visits}"))?;
                recorder.flush()?;
                say(format_args!("flushed {run} {visits}"))?;
            }
        }
        let visits = steps(seed, run) * BATCH;
        if idle {
            say(format_args!("idle {run} {visits}"))?;
            wait_for_parent()?;
        }
        say(format_args!("finishing {run} {visits}"))?;
        recorder.finish()?;
        say(format_args!("finished {run} {visits}"))?;
    }
    Ok(())
}
