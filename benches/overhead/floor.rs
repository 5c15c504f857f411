//! The least that recording can take: reading every captured number once, and writing the bytes that are stored.
//!
//! As in a recorder, the numbers come from the training thread, so they lie in its caches, and another thread reads
//! them. The bytes go to a mapped file that grows.

use anyhow::{Context, Result};
use gradlog_format::log::{BlockKind, Column, NO_LAYER};
use gradlog_format::run::Run;
use memmap2::MmapMut;
use std::path::Path;
use std::time::{Duration, Instant};

/// Passes of which the median counts.
const PASSES: usize = 48;

/// What a visit brings to the background thread, and what it leaves in the log.
#[derive(Debug, Clone, Copy)]
pub struct Captured {
    /// Numbers: both factors of each factored layer, and the sums of the folded ones.
    pub numbers: usize,
    pub bytes: usize,
}

impl Captured {
    /// According to a recorded run.
    pub fn of_run(dir: &Path, bytes_per_visit: f64) -> Result<Self> {
        let run = Run::open(dir)?;
        let block =
            run.scan().find(|block| block.kind() == Some(BlockKind::Visits)).context("no visits were recorded")?;
        let layers = &run.manifest().layers;
        let factored: usize = block
            .layers(Column::Input)
            .filter(|layer| *layer != NO_LAYER)
            .map(|layer| &layers[usize::from(layer)])
            .map(|layer| (layer.inputs + layer.outputs) as usize)
            .sum();
        let folded = block.width(Column::Folded).map_or(0, usize::next_power_of_two);
        Ok(Self { numbers: factored + folded, bytes: bytes_per_visit.round() as usize })
    }
}

/// Microseconds that the floor takes a visit, of passes of `batch` visits.
pub fn measure(captured: Captured, batch: usize, dir: &Path) -> Result<f64> {
    let (send, receive) = std::sync::mpsc::sync_channel::<Vec<f32>>(2);
    let path = dir.join("floor");
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let bytes = captured.bytes * batch;
    file.set_len((bytes * PASSES) as u64)?;
    // SAFETY: the file was just created here, in a folder of this bench, and nobody else opens it.
    let mut map = unsafe { MmapMut::map_mut(&file)? };
    let reader = std::thread::Builder::new().name("floor".into()).spawn(move || {
        let mut times = Vec::new();
        for (pass, numbers) in receive.into_iter().enumerate() {
            let start = Instant::now();
            let sum = gradlog_kernels::simd::squared_norm(&numbers);
            let codes = sum.to_bits().to_le_bytes();
            map[pass * bytes..(pass + 1) * bytes].fill(codes[0]);
            drop(numbers);
            times.push(start.elapsed());
        }
        times
    })?;
    for pass in 0..PASSES {
        send.send(vec![pass as f32; captured.numbers * batch])?;
        // The next pass of a training comes later, too.
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(send);
    let mut times = reader.join().map_err(|_| anyhow::anyhow!("the floor's thread panicked"))?;
    times.sort();
    std::fs::remove_file(&path)?;
    Ok(1e6 * times[times.len() / 2].as_secs_f64() / batch as f64)
}
