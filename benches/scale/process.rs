//! Processes that run side by side, with their time and memory.

use anyhow::{ensure, Context, Result};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What processes took.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// Until the last has ended.
    pub seconds: f64,
    /// The most that one of them had resident.
    pub megabytes: u64,
}

/// Runs a program once for each list of words, all at a time.
pub fn run_all(program: &Path, jobs: &[Vec<String>], threads: Option<usize>) -> Result<Spent> {
    let start = Instant::now();
    let begin = |words: &Vec<String>| {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(threads) = threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        command.spawn().with_context(|| format!("starting {words:?}"))
    };
    let mut children = jobs.iter().map(begin).collect::<Result<Vec<_>>>()?;
    let mut megabytes = 0;
    // Looked at while they run: memory of a process that has ended is gone.
    while !children.is_empty() {
        for child in &children {
            megabytes = megabytes.max(resident(child));
        }
        let mut running = Vec::new();
        for mut child in children {
            match child.try_wait()? {
                // What it said fits the pipe, or it would still be running.
                Some(status) => ensure!(status.success(), "{status}: {}", said(&mut child)),
                None => running.push(child),
            }
        }
        children = running;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Spent { seconds: start.elapsed().as_secs_f64(), megabytes })
}

fn said(child: &mut Child) -> String {
    let mut said = String::new();
    if let Some(errors) = &mut child.stderr {
        // What cannot be read is not shown; the status is.
        let _ = errors.read_to_string(&mut said);
    }
    said
}

/// The most that a process has had resident so far; 0 where `/proc` does not say.
fn resident(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).map_or(0, |kb| kb / 1000)
}
