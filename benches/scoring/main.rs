//! How fast a recorded run is scored, from a log on disk.
//!
//!     cargo bench --bench scoring -- [--quick] [--json FILE]
//!
//! The log is written by the crate's own writer with the default configuration: an MLP 784-512-256-10, whose three
//! layers are factored (2,330 numbers a visit, of 4 bits but for the last ten, of 8), trains on the handwritten digits
//! that come with gradlog, from 100 steps on; 1,000 test images are probes, of 8 bits. Every visit has an id of its
//! own, as if each were another example; `--examples N` lets N examples come round again and again.
//!
//! A question is timed from `InfluenceQuestion::plan` to the ten strongest proponents and opponents of each probe:
//! reading, checking and inflating all columns that it needs, multiplying, ranking. Nothing is kept from one repetition
//! to the next but the operating system's page cache; the first one is also timed without that. The floors are timed in
//! the same process, in turn with it: an f32 GEMM (`gemm`, candle's) that does the same multiplications on decoded
//! numbers, without reading, scaling or ranking; reading and inflating the same columns and nothing else; copying
//! memory, in bytes read and written. Figures are medians over the repetitions, the ratio to the GEMM the median of the
//! ratios. Beside the times stand the seconds that the threads spent on a CPU, which other work on the machine changes
//! less.
//!
//! Column scores run over another log, of outputs alone: 50,000 examples visited 200 times. What came out:
//! `benches/results`.

#[path = "../overhead/memory.rs"]
mod memory;

mod floors;
mod mlp;
mod outputs;
mod store;

use anyhow::{ensure, Result};
use clap::Parser;
use gradlog_analysis::{Compaction, InfluenceQuestion, Score, ScoreQuestion};
use gradlog_format::run::Run;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: memory::Counting<std::alloc::System> = memory::Counting(std::alloc::System);

const TOP: usize = 10;

#[derive(Parser)]
#[command(about = "How fast a recorded run is scored")]
struct Arguments {
    /// A tenth of the visits, few repetitions: a look, not numbers to quote
    #[arg(long)]
    quick: bool,
    /// So many examples, visited again and again, and not another one at every visit
    #[arg(long)]
    examples: Option<u64>,
    /// Only the column scores
    #[arg(long)]
    columns: bool,
    /// Only the column scores, of 10,000,000 examples visited twice, or of `--examples`; and in turn with them those
    /// of the same run, compacted into so many buckets
    #[arg(long)]
    buckets: Option<u32>,
    /// Only the log of four times as many visits
    #[arg(long, conflicts_with = "columns")]
    large: bool,
    /// Write the table as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only this many probes, from 1 to 1000, over 60,000 visits, again and again: for a profiler
    #[arg(long)]
    probes: Option<usize>,
    /// Folder for the logs, some 700 MB; removed afterwards. Default: the system's temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(parent)?;
    println!("{} threads", rayon::current_num_threads());
    let mut rows = Vec::new();
    if let Some(probes) = arguments.probes {
        let path = dir.path().join("gradients");
        mlp::record(&path, 60_000, u64::MAX)?;
        let run = Run::open(&path)?;
        let question = InfluenceQuestion::new("test").ids(0..probes.clamp(1, mlp::PROBES) as u64);
        let times: Vec<_> = (0..100).map(|_| timed(|| strongest(&run, &question, false))).collect::<Result<_>>()?;
        let (seconds, cpu) = times.iter().map(|(_, seconds, _, cpu)| (*seconds, *cpu)).unzip();
        println!("{probes} probes: {:.4} s, {:.4} CPU seconds", median(seconds), median(cpu));
        return Ok(());
    }
    if let Some(buckets) = arguments.buckets {
        let (path, compacted) = (dir.path().join("outputs"), dir.path().join("compacted"));
        outputs::record(&path, arguments.examples.unwrap_or(10_000_000) as usize, 2)?;
        Compaction::new(buckets).write(&Run::open(&path)?, &compacted)?;
        for _ in 0..2 {
            for path in [&path, &compacted] {
                columns(path, 1)?;
            }
        }
        return Ok(());
    }
    if !arguments.columns {
        let visits = if arguments.quick { 6_000 } else { 60_000 };
        let repeats = if arguments.quick { 2 } else { 5 };
        for (times, repeats) in [(1, repeats), (4, 1)] {
            if arguments.large && times == 1 {
                continue;
            }
            let path = dir.path().join(format!("gradients-{times}"));
            mlp::record(&path, times * visits, arguments.examples.unwrap_or(u64::MAX))?;
            rows.extend(influence(&path, repeats, times == 1)?);
        }
    }
    if arguments.large {
        return Ok(());
    }
    let path = dir.path().join("outputs");
    let (examples, epochs) = if arguments.quick { (5_000, 20) } else { (50_000, 200) };
    outputs::record(&path, examples, epochs)?;
    rows.extend(columns(&path, if arguments.quick { 1 } else { 3 })?);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds that the threads of this process have spent on a CPU: what is left of a time when others share the machine.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let on_cpu = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    tasks.map(on_cpu).sum::<f64>() / 1e9
}

/// Times `work` and returns what it allocated at most at a time.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64, u64, f64)> {
    let before = memory::reset_peak();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let result = work()?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    Ok((result, seconds, memory::peak() - before, cpu))
}

/// The ten strongest of each probe; the sum of the scores named, and the visits.
fn strongest(run: &Run, question: &InfluenceQuestion, errors: bool) -> Result<(f64, u64)> {
    let question = if errors { question.clone().sketch_errors() } else { question.clone() };
    let plan = question.plan(run)?.keep_strongest();
    let (mut sum, mut visits) = (0.0, 0);
    for pass in 0..plan.passes() {
        let found = plan.strongest(pass, TOP)?;
        sum += found.proponents.iter().chain(&found.opponents).flatten().map(|ranked| ranked.score.abs()).sum::<f64>();
        visits = found.influence.visits;
    }
    Ok((sum, visits))
}

fn influence(path: &Path, repeats: usize, with_floors: bool) -> Result<Vec<Value>> {
    let run = Run::open(path)?;
    let compressed = floors::stored_bytes(&run);
    let (visits, width) = floors::shape(&run);
    let mut rows = Vec::new();
    println!("\n{visits} visits of {width} numbers, {:.1} MB of compressed columns", compressed as f64 / 1e6);
    for probes in [mlp::PROBES, 1] {
        let question = InfluenceQuestion::new("test").ids(0..probes as u64);
        if with_floors {
            floors::forget(path);
            let ((_, counted), cold, ..) = timed(|| strongest(&run, &question, false))?;
            ensure!(counted == visits as u64, "{counted} of {visits} visits were scored");
            println!("{probes} probes: {cold:.4} s the first time, without the page cache");
        }
        let mut gemm = with_floors.then(|| floors::Gemm::new(visits, probes, width));
        let (mut seconds, mut gemms, mut inflates, mut copies, mut errors) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut cpus, mut inflate_cpus, mut gemm_cpus) = (Vec::new(), Vec::new(), Vec::new());
        let mut peak = 0;
        for _ in 0..repeats {
            let (_, of_product, of_peak, cpu) = timed(|| strongest(&run, &question, false))?;
            seconds.push(of_product);
            cpus.push(cpu);
            peak = peak.max(of_peak);
            let (_, inflate, _, cpu) = timed(|| floors::inflate(&run))?;
            inflates.push(inflate);
            inflate_cpus.push(cpu);
            copies.push(floors::copy_gb_per_s());
            if let Some(gemm) = &mut gemm {
                let (_, of_gemm, _, cpu) = timed(|| {
                    gemm.multiply();
                    Ok(())
                })?;
                gemms.push(of_gemm);
                gemm_cpus.push(cpu);
                errors.push(timed(|| strongest(&run, &question, true))?.1);
            }
        }
        let ratios: Vec<f64> = gemms.iter().zip(&seconds).map(|(gemm, product)| gemm / product).collect();
        let shares: Vec<f64> = inflates.iter().zip(&seconds).map(|(inflate, product)| inflate / product).collect();
        let spread = |values: &[f64]| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            format!("{:.4} to {:.4}", sorted[0], sorted[sorted.len() - 1])
        };
        let (product, copy) = (median(seconds.clone()), median(copies));
        let gops = 2.0 * visits as f64 * probes as f64 * width as f64 / 1e9;
        println!("{probes} probes: {product:.4} s ({}), {:.2} million visits/s, {:.0} GOP/s, {:.2} GB/s of compressed columns, peak {:.1} MB",
            spread(&seconds), visits as f64 / product / 1e6, gops / product, compressed as f64 / product / 1e9, peak as f64 / 1e6);
        println!(
            "    reading and inflating alone: {:.4} s, {:.2} of it; copying {copy:.1} GB/s",
            median(inflates),
            median(shares)
        );
        if with_floors {
            println!(
                "    f32 GEMM alone: {:.4} s ({}), {:.0} GFLOP/s; ratio {:.2} ({}); with error bars {:.4} s",
                median(gemms.clone()),
                spread(&gemms),
                gops / median(gemms),
                median(ratios.clone()),
                spread(&ratios),
                median(errors)
            );
        }
        let (cpu, inflate_cpu) = (median(cpus), median(inflate_cpus));
        println!("    CPU seconds: {cpu:.4}, of which reading and inflating {inflate_cpu:.4}");
        if with_floors {
            let gemm_cpu = median(gemm_cpus);
            println!("    CPU seconds of the GEMM: {gemm_cpu:.4}; ratio {:.2}", gemm_cpu / cpu);
        }
        rows.push(json!({
            "visits": visits, "probes": probes, "seconds": product, "visits_per_s": visits as f64 / product,
            "ratio_to_f32_gemm": with_floors.then(|| median(ratios)),
            "compressed_gb_per_s": compressed as f64 / product / 1e9, "copy_gb_per_s": copy, "peak_bytes": peak,
        }));
    }
    Ok(rows)
}

fn columns(path: &Path, repeats: usize) -> Result<Vec<Value>> {
    let run = Run::open(path)?;
    let mut rows = Vec::new();
    println!();
    for score in [Score::Forgetting, Score::El2n, Score::Aum] {
        let (mut seconds, mut cpus, mut copies, mut peak, mut visits) = (Vec::new(), Vec::new(), Vec::new(), 0, 0);
        for _ in 0..repeats {
            let (table, of_score, of_peak, cpu) = timed(|| Ok(ScoreQuestion::new(score).compute(&run)?))?;
            (visits, peak) = (table.visits, peak.max(of_peak));
            seconds.push(of_score);
            cpus.push(cpu);
            copies.push(floors::copy_gb_per_s());
        }
        let (time, copy, compressed) = (median(seconds), median(copies), floors::score_bytes(&run, score));
        let rate = visits as f64 / time;
        println!(
            "{}: {visits} visits in {time:.3} s, {:.1} million/s, {:.2} GB/s of compressed columns, peak {:.1} MB",
            score.name(),
            rate / 1e6,
            compressed as f64 / time / 1e9,
            peak as f64 / 1e6
        );
        let cpu = median(cpus);
        println!("    CPU seconds: {cpu:.3}, {:.1} ns a visit", cpu / visits as f64 * 1e9);
        rows.push(json!({
            "score": score.name(), "visits": visits, "probes": 0, "seconds": time, "visits_per_s": rate, "ratio_to_f32_gemm": null,
            "compressed_gb_per_s": compressed as f64 / time / 1e9, "copy_gb_per_s": copy, "peak_bytes": peak,
        }));
    }
    Ok(rows)
}
