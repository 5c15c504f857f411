//! How near influence from a run that is sketched on the device comes to exact gradients, on small shapes.
//!
//! The exact gradients are candle's own, of its own layers, one example at a time, at the same weights and in the same
//! type. What is compared and how a run is read is that of `benches/fidelity`.

use super::measure::{spearman, Fidelity, Truth};
use super::models::{draw, Model, Sizes, Workload};
use super::read::{read, Recorded};
use super::{mean_loss, RATE};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use gradlog::{Config, Recorder, Sketching, Taps};
use gradlog_format::run::Run;

/// What was found of a workload.
pub struct Found {
    pub fidelity: Fidelity,
    /// Spearman's correlation of the norms with the exact ones.
    pub norms: f64,
    /// Bytes of a visit on disk.
    pub bytes: f64,
}

/// Examples at random weights, with their exact scores.
pub struct Subject {
    model: Model,
    taps: Taps,
    x: Tensor,
    y: Tensor,
    visits: Vec<usize>,
    probes: Vec<usize>,
    batch: usize,
    truth: Truth,
    norms: Vec<f64>,
}

/// Sizes at which exact gradients of all examples fit main memory, and how many visits and probes there are.
fn sizes(workload: Workload, tiny: bool) -> (Sizes, usize, usize) {
    let own = workload.sizes(true);
    match (workload, tiny) {
        (_, true) => (own, 64, 8),
        (Workload::Transformer, false) => {
            (Sizes { batch: 8, length: 32, width: 128, heads: 4, symbols: 512, ..own }, 256, 16)
        }
        (_, false) => (Sizes { batch: 32, width: 64, ..own }, 256, 16),
    }
}

impl Subject {
    pub fn new(workload: Workload, tiny: bool, (device, dtype): (&Device, DType)) -> Result<Self> {
        let (sizes, visits, probes) = sizes(workload, tiny);
        let (x, y) = draw(workload, Sizes { batch: visits + probes, ..sizes }, device, dtype)?;
        let (taps, variables) = (Taps::new(), VarMap::new());
        let model = Model::new(workload, sizes, &variables, Some(&taps), (device, dtype))?;
        // The same variables under candle's own layers.
        let plain = Model::new(workload, sizes, &variables, None, (device, dtype))?;
        let trained = variables.all_vars();
        let gradient = |example: usize| -> Result<Vec<f32>> {
            let loss = mean_loss(&plain.forward(&x.narrow(0, example, 1)?)?, &y.narrow(0, example, 1)?)?;
            let grads = loss.backward()?;
            let mut all = Vec::new();
            for variable in &trained {
                let own = grads.get(variable).context("a variable got no gradient")?;
                all.extend(own.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
            }
            Ok(all)
        };
        let asked = (visits..visits + probes).map(gradient).collect::<Result<Vec<_>>>()?;
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let (mut scores, mut norms) = (Vec::new(), Vec::new());
        for visit in 0..visits {
            let own = gradient(visit)?;
            scores.extend(asked.iter().map(|asked| dot(&own, asked)));
            norms.push(dot(&own, &own));
        }
        let truth = Truth::new(&scores, probes);
        let (visits, probes) = ((0..visits).collect(), (visits..visits + probes).collect());
        Ok(Self { model, taps, x, y, visits, probes, batch: sizes.batch, truth, norms })
    }

    /// Records all examples and compares what the run says.
    pub fn measure(&self, config: &Config, sketching: Sketching) -> Result<Found> {
        let folder = tempfile::tempdir()?;
        let dir = folder.path().join("run");
        let mut recorder = Recorder::create(&dir, &self.taps, Config { sketching, ..config.clone() })?;
        let of = |ids: &[usize]| -> Result<(Vec<u64>, Tensor, Tensor)> {
            let part = |t: &Tensor| t.narrow(0, ids[0], ids.len());
            Ok((ids.iter().map(|id| *id as u64).collect(), part(&self.x)?, part(&self.y)?))
        };
        for ids in self.probes.chunks(self.batch) {
            let (ids, x, y) = of(ids)?;
            let mut pass = recorder.probe("test", &ids)?;
            pass.cross_entropy(&self.model.forward(&x)?, &y)?.backward()?;
            pass.commit()?;
        }
        for ids in self.visits.chunks(self.batch) {
            let (ids, x, y) = of(ids)?;
            let mut pass = recorder.pass(&ids)?;
            pass.cross_entropy(&self.model.forward(&x)?, &y)?.backward()?;
            pass.commit(RATE)?;
        }
        recorder.finish()?;
        let Recorded { scores, norms, bytes, .. } = read(&Run::open(&dir)?, &self.visits, &self.probes)?;
        Ok(Found { fidelity: self.truth.compare(&scores), norms: spearman(&self.norms, &norms), bytes })
    }
}
