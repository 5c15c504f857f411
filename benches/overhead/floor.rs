//! The least that recording can take: reading every captured number once, and writing the bytes that are stored.
//!
//! As in a recorder, the numbers come from the training thread, so they lie in its caches, and another thread reads
//! them. The bytes go to a mapped file that grows.
//!
//! Layers with several positions are more work: the gradient of each example is summed up and folded. Beside the floor
//! stands what it takes to read these sums once, one after the other in the same memory, as they are made. Tables are
//! left out, of which an example touches few rows.

use anyhow::{Context, Result};
use gradlog_format::log::{BlockKind, Column, LayerRecord, NO_LAYER};
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
    /// Parameters of the layers that are folded, without tables.
    pub summed: usize,
}

/// Microseconds a visit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Floor {
    /// What the background thread cannot do without.
    pub captured: f64,
    /// Reading each number of the gradients that are folded.
    pub summed: f64,
}

impl Floor {
    /// What the background thread is to stay below: three times the floor, and one and a half times what it takes to
    /// read the gradients that are folded.
    pub fn bar(self) -> f64 {
        3.0 * self.captured + 1.5 * self.summed
    }
}

impl Captured {
    /// According to a recorded run.
    pub fn of_run(dir: &Path, bytes_per_visit: f64) -> Result<Self> {
        let run = Run::open(dir)?;
        let block =
            run.scan().find(|block| block.kind() == Some(BlockKind::Visits)).context("no visits were recorded")?;
        let layers = &run.manifest().layers;
        let factored: Vec<usize> =
            block.layers(Column::Input).filter(|layer| *layer != NO_LAYER).map(usize::from).collect();
        let of_factored = factored.iter().map(|layer| (layers[*layer].inputs + layers[*layer].outputs) as usize);
        let folded = block.width(Column::Folded).map_or(0, usize::next_power_of_two);
        let all = layers.iter().enumerate();
        let is_summed =
            |(number, layer): &(usize, &LayerRecord)| !factored.contains(number) && layer.kind != "embedding";
        let summed = all.filter(is_summed).map(|(_, layer)| layer.parameters as usize);
        Ok(Self {
            numbers: of_factored.sum::<usize>() + folded,
            bytes: bytes_per_visit.round() as usize,
            summed: summed.sum(),
        })
    }
}

/// Times the floor, for passes of `batch` visits.
pub fn measure(captured: Captured, batch: usize, dir: &Path) -> Result<Floor> {
    let visit = |time: f64| 1e6 * time / batch as f64;
    let mut sums = vec![1f32; captured.summed];
    let mut times: Vec<Duration> = (0..PASSES)
        .map(|pass| {
            sums.fill(pass as f32);
            let start = Instant::now();
            for _ in 0..batch {
                std::hint::black_box(gradlog_kernels::simd::squared_norm(std::hint::black_box(&sums)));
            }
            start.elapsed()
        })
        .collect();
    Ok(Floor {
        captured: visit(time_pass(captured.numbers * batch, captured.bytes * batch, dir)?),
        summed: visit(median(&mut times)),
    })
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// The median of the seconds that a thread takes to read as many numbers of another one, and to write as many bytes.
fn time_pass(numbers: usize, bytes: usize, dir: &Path) -> Result<f64> {
    let (send, receive) = std::sync::mpsc::sync_channel::<Vec<f32>>(2);
    let path = dir.join("floor");
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.set_len((bytes * PASSES) as u64)?;
    // SAFETY: the file was just created here, in a folder of this bench, and nobody else opens it.
    let mut map = unsafe { MmapMut::map_mut(&file)? };
    let reader = std::thread::Builder::new().name("floor".into()).spawn(move || {
        let mut times = Vec::new();
        for (pass, numbers) in receive.into_iter().enumerate() {
            let start = Instant::now();
            let sum = gradlog_kernels::simd::squared_norm(&numbers);
            let codes = std::hint::black_box(sum).to_bits().to_le_bytes();
            map[pass * bytes..(pass + 1) * bytes].fill(codes[0]);
            drop(numbers);
            times.push(start.elapsed());
        }
        times
    })?;
    for pass in 0..PASSES {
        send.send(vec![pass as f32; numbers])?;
        // The next pass of a training comes later, too.
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(send);
    let mut times = reader.join().map_err(|_| anyhow::anyhow!("the floor's thread panicked"))?;
    std::fs::remove_file(&path)?;
    Ok(median(&mut times))
}
