//! What the background thread does with its time on a CPU.
//!
//! A thread looks at the stage of the work ([`gradlog_kernels::stage`]) ten thousand times a second. The background
//! thread's whole time on a CPU is shared out by how often each stage was seen. The system adds up the time of a thread
//! when it goes to sleep, so it cannot be counted stage by stage. What polling the queue takes is in all shares.

use super::models::{Data, Workload};
use super::Lane;
use anyhow::Result;
use gradlog_kernels::stage::{self, Stage};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Blocks of steps that are looked at.
const BLOCKS: u64 = 10;

/// Microseconds on a CPU a visit, by stage. Empty where the system does not tell them.
pub fn measure(lane: &mut Lane, data: &Data, workload: Workload) -> Result<BTreeMap<String, f64>> {
    // What waits from before belongs to other visits.
    lane.recorder.flush()?;
    let mut clocks = background_clocks();
    if clocks.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (before, is_over) = (lane.step, AtomicBool::new(false));
    let (seen, nanoseconds) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut seen = vec![0u64; Stage::ALL.len()];
            let begin: u64 = clocks.iter_mut().map(on_cpu).sum();
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(100));
                seen[stage::current() as usize] += 1;
            }
            (seen, clocks.iter_mut().map(on_cpu).sum::<u64>().saturating_sub(begin))
        });
        let ran = (0..BLOCKS).try_for_each(|_| lane.block("recorded", data, workload.steps_in_block()));
        let flushed = lane.recorder.flush();
        is_over.store(true, Ordering::Relaxed);
        let sampled = sampler.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))?;
        ran?;
        flushed?;
        anyhow::Ok(sampled)
    })?;
    let visits = (lane.step - before) as f64 * workload.batch() as f64;
    let worked = || Stage::ALL.iter().zip(&seen).filter(|(stage, _)| **stage != Stage::Idle);
    let unit = nanoseconds as f64 / 1e3 / visits / worked().map(|(_, seen)| *seen).sum::<u64>().max(1) as f64;
    Ok(worked().map(|(stage, seen)| (format!("{stage:?}"), *seen as f64 * unit)).collect())
}

/// The sum of the stages and each of them, as multiples of the floor.
pub fn in_floors(stages: &BTreeMap<String, f64>, floor: f64) -> String {
    let works = || Stage::ALL.iter().filter(|stage| **stage != Stage::Idle).map(|stage| format!("{stage:?}"));
    let time = |stage: &str| stages.get(stage).copied().unwrap_or(0.0) / floor;
    let parts: Vec<String> = works().map(|stage| format!("{} {:.2}", stage.to_lowercase(), time(&stage))).collect();
    let sum: f64 = works().map(|stage| time(&stage)).sum();
    format!("{sum:.1} ({:.2} us): {}", sum * floor, parts.join(", "))
}

/// What tells the time of this process's background threads; those of other modes are asleep.
fn background_clocks() -> Vec<File> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(|task| task.path());
    let is_background = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "gradlog")
    };
    tasks.filter(is_background).filter_map(|path| File::open(path.join("schedstat")).ok()).collect()
}

/// Nanoseconds that a thread has spent on a CPU.
fn on_cpu(clock: &mut File) -> u64 {
    let mut text = String::new();
    let read = clock.rewind().and_then(|()| clock.read_to_string(&mut text));
    read.ok().and_then(|_| text.split(' ').next()?.parse().ok()).unwrap_or(0)
}
