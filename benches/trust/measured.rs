//! Records a family, reads its scores back, and holds them against the exact ones.

use super::families::{Sides, PROBES, VISITS};
use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear_no_bias, VarBuilder, VarMap};
use gradlog::{Config, Recorder, SketchConfig, Taps};
use gradlog_analysis::{Influence, InfluenceQuestion};
use gradlog_format::run::Run;
use rayon::prelude::*;
use std::path::Path;

const BATCH: usize = 60;
const RATE: f64 = 0.1;

/// What is measured of a family.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub bytes: f64,
    pub within_2: f64,
    pub within_3: f64,
    pub relative_error: f64,
    pub sum_over_stated: f64,
    pub seeds: u64,
}

/// Errors of single scores in stated deviations, and what else is gathered over seeds.
#[derive(Default)]
pub struct Gathered {
    sigmas: Vec<f64>,
    squared_error: f64,
    squares: f64,
    squared_sums: f64,
    sums: u64,
    bytes: f64,
    runs: u64,
}

impl Gathered {
    /// Adds a run. `exact` is `[visits, probes]` by id.
    pub fn add(&mut self, found: &Influence, exact: impl Fn(usize, usize) -> f64, bytes: f64) -> Result<()> {
        let (rows, probes) = (found.rows.len(), found.probes.len());
        let truth = |row: usize, probe: usize| exact(found.rows[row].example as usize, found.probes[probe].id as usize);
        let all = || (0..rows).flat_map(|row| (0..probes).map(move |probe| (row, probe)));
        let squares: f64 = all().map(|(row, probe)| truth(row, probe).powi(2)).sum();
        // f32 rounds, too; that is not in the stated error.
        let floor = 1e-5 * (squares / (rows * probes) as f64).sqrt();
        for (row, probe) in all() {
            let error = (found.score(row, probe) - truth(row, probe)).abs();
            let stated = found.sketch_error(row, probe).context("no stated error")?;
            self.sigmas.push(if error <= floor { 0.0 } else { error / stated });
            self.squared_error += error * error;
        }
        self.squares += squares;
        for (probe, total) in found.totals.iter().enumerate() {
            let sum: f64 = (0..rows).map(|row| truth(row, probe)).sum();
            let error = (total.score - sum).abs();
            self.squared_sums += if error <= floor { 0.0 } else { (error / total.sketch_error).powi(2) };
            self.sums += 1;
        }
        self.bytes += bytes;
        self.runs += 1;
        Ok(())
    }

    pub fn finish(self) -> Measured {
        let count = self.sigmas.len() as f64;
        let within = |limit: f64| self.sigmas.iter().filter(|sigma| **sigma <= limit).count() as f64 / count;
        Measured {
            bytes: self.bytes / self.runs as f64,
            within_2: within(2.0),
            within_3: within(3.0),
            relative_error: (self.squared_error / self.squares).sqrt(),
            sum_over_stated: (self.squared_sums / self.sums as f64).sqrt(),
            seeds: self.runs,
        }
    }
}

/// Records the family once for each seed.
pub fn measure(sides: &Sides, sketch: &SketchConfig, seeds: u64) -> Result<Measured> {
    let factor = RATE / BATCH as f64;
    let exact: Vec<f64> = (0..VISITS)
        .into_par_iter()
        .flat_map_iter(|visit| {
            (VISITS..VISITS + PROBES).map(move |probe| {
                let input = dot(&sides.inputs[visit], &sides.inputs[probe]);
                factor * input * dot(&sides.deltas[visit], &sides.deltas[probe])
            })
        })
        .collect();
    let mut gathered = Gathered::default();
    for seed in 0..seeds {
        let folder = tempfile::tempdir().context("a folder for the run")?;
        let dir = folder.path().join("run");
        let bytes = record(&dir, sides, Config { sketch: sketch.clone(), seed, ..Config::default() })?;
        let found = InfluenceQuestion::new("test").sketch_errors().compute(&Run::open(&dir)?)?;
        ensure!(found.rows.len() == VISITS && found.probes.len() == PROBES, "the run lost visits or probes");
        gathered.add(&found, |visit, probe| exact[visit * PROBES + probe], bytes)?;
    }
    Ok(gathered.finish())
}

/// One layer without bias. The loss of an example is `⟨y, c⟩` with its output `y` and its output gradient `c`.
fn record(dir: &Path, sides: &Sides, config: Config) -> Result<f64> {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let (inputs, outputs) = (sides.inputs[0].len(), sides.deltas[0].len());
    let layer = taps.tap("fc", linear_no_bias(inputs, outputs, vb.pp("fc"))?);
    let mut recorder = Recorder::create(dir, &taps, config)?;
    let rows = |rows: &[Vec<f32>]| -> Result<Tensor> {
        let width = rows[0].len();
        Ok(Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?)
    };
    let ids = |count: usize, first: usize| (0..count).map(|id| (first + id) as u64).collect::<Vec<u64>>();
    let losses = |x: &Tensor, c: &Tensor| -> Result<Tensor> { Ok((layer.forward(x)? * c)?.sum(1)?) };
    let (x, c) = (rows(&sides.inputs[VISITS..])?, rows(&sides.deltas[VISITS..])?);
    let mut pass = recorder.probe("test", &ids(PROBES, 0))?;
    pass.losses(&losses(&x, &c)?)?.backward()?;
    pass.commit()?;
    for first in (0..VISITS).step_by(BATCH) {
        let (x, c) = (rows(&sides.inputs[first..first + BATCH])?, rows(&sides.deltas[first..first + BATCH])?);
        let mut pass = recorder.pass(&ids(BATCH, first))?;
        pass.losses(&losses(&x, &c)?)?.backward()?;
        pass.commit(RATE)?;
    }
    Ok(recorder.finish()?.bytes_per_visit)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}
